"""What to forget and what to retain: records read from files or the Hub, validated, split and compared.

A record is a conversation that ends with a user's message, perhaps the answer to it, and perhaps the group it belongs
to. This module knows nothing of tokenizers, chat templates or models, and importing it imports none of them. Its
messages name a record by its number (and line), never by its text.
"""

import csv
import difflib
import io
import json
import math
import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lunar.errors import LunarError
from lunar.hub import hub_offline, hub_reachable

PROMPT_FIELDS = ("question", "prompt", "instruction")
ANSWER_FIELDS = ("answer", "completion", "response")
GROUP_FIELDS = ("edge", "group")
FIELDS = ("messages", *PROMPT_FIELDS, *ANSWER_FIELDS, *GROUP_FIELDS)
RETAIN_FIELD = "retain_file"
"""In a file of what to forget: the name of the file beside it that holds what to leave alone."""
ROLES = ("system", "user", "assistant")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

Value = TypeVar("Value")

_HUB_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(?::(?P<split>\w[\w.\[\]:%+-]*))?", re.ASCII)
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,30}")
_Row = tuple[str, Mapping[str, Any]]  # where it stands ("record 3 (line 4)"), what it says


Messages = tuple[tuple[str, str], ...]
"""Pairs of a role and what it says."""


@dataclass(frozen=True)
class Record:
    """One prompt in its conversation.

    `messages` are (role, content) pairs, the last one the user's; `answer` is the known reply to it, `group` the label
    by which requests name it. Raises LunarError if there are no messages or the last is not a non-empty user message.
    """

    messages: Messages
    answer: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1][0] != "user":
            raise LunarError("A record must end with a user message: put the reply to it in `answer`.")
        if not self.messages[-1][1].strip():
            raise LunarError("A record needs a prompt, but its last user message is empty: fill it in or leave it out.")

    @classmethod
    def of(cls, prompt: str, answer: str | None = None, group: str | None = None) -> "Record":
        """A single user message. Outer whitespace is removed; an empty answer or group counts as none given."""
        return cls((("user", prompt.strip()),), (answer or "").strip() or None, (group or "").strip() or None)

    @property
    def prompt(self) -> str:
        """The content of the last user message."""
        return self.messages[-1][1]


def read_records(source: str | Path, name: str) -> list[Record]:
    """Read records from a .jsonl, .json, .csv or .parquet file, or from a data set on the Hub.

    Args:
        source: what exists locally is a file; otherwise `organisation/name` or `organisation/name:split` (split "train"
            by default) is a data set on the Hub.
        name: the role of the data ("forget", "retain", "reference"), used in messages.

    Each object or row has `question` (or `prompt`, `instruction`), optionally `answer` (or `completion`, `response`)
    and `edge` (or `group`); or `messages`, a list of {role, content} whose final assistant message, if any, is the
    answer. Outer whitespace is removed, numbers become text, an empty answer means none, other fields are ignored.

    Raises LunarError, one sentence without any prompt text, for whatever cannot be read or is not as described.
    """
    text = str(source).strip()
    if not text or "\n" in text or len(text) > 1000:
        what = "nothing" if not text else f"a text of {len(text)} characters"
        raise LunarError(f"Expected a file or a Hub data set as {name} data, got {what}: give a path or an id.")
    path = Path(os.path.expanduser(text))
    label = f"the {name} data '{text}'"
    rows = _file_rows(path, label) if os.path.exists(path) else _hub_rows(text, label)
    records = [_record(row, f"{where} of {label}") for where, row in rows]
    if not records:
        raise LunarError(f"Expected at least one record, but {label} has none: add one object or row per prompt.")
    return records


def retain_beside(forget: str | Path) -> str | None:
    """The file of what to leave alone that a .jsonl file of what to forget names, as `lunar prompts` writes it.

    It is the field `retain_file` of any of its rows, the name of a file in the same folder. None where no row has one.
    Raises LunarError where rows name several, no plain name, or a file that is not there.
    """
    path = Path(os.path.expanduser(str(forget).strip()))
    if path.suffix.lower() != ".jsonl" or not path.is_file():
        return None
    label = f"the forget data '{path.name}'"
    named = [row[RETAIN_FIELD] for _, row in _file_rows(path, label) if _given(row.get(RETAIN_FIELD))]
    if not named:
        return None
    if any(not isinstance(name, str) or Path(name).name != name for name in named) or len(set(named)) > 1:
        raise LunarError(
            f"Expected the name of one file beside it as every {RETAIN_FIELD} of {label}, but that is not what stands "
            "there: give --retain."
        )
    if not path.with_name(named[0]).is_file():
        raise LunarError(
            f"Expected the file of what to leave alone that {label} names to be beside it, but it is not there: put it "
            "back, or give --retain."
        )
    return str(path.with_name(named[0]))


def is_source(text: str) -> bool:
    """Whether `read_records` could take `text`: an existing path, a known suffix or the form of a Hub id."""
    path = Path(os.path.expanduser(text))
    return os.path.exists(path) or path.suffix.lower() in SUFFIXES or _HUB_ID.fullmatch(text) is not None


def sample(values: Sequence[Value], count: int, seed: int | str) -> list[Value]:
    """At most `count` of the values, in their order, the same at every call with the same seed."""
    if len(values) <= count:
        return list(values)
    return [values[place] for place in sorted(random.Random(seed).sample(range(len(values)), count))]


def split_by_group(records: Sequence[Record], groups: Sequence[str], name: str) -> tuple[list[Record], list[Record]]:
    """Split one set into the records of the named groups, which are to be forgotten, and the rest, in order.

    The rest may be empty. Raises LunarError if no group is named, no record has a group, or a named group is unknown.
    """
    wanted = [groups] if isinstance(groups, str) else list(groups)
    available = sorted({record.group for record in records if record.group is not None})
    if not available:
        raise LunarError(
            f"Cannot select groups: none of the {len(records)} {name} records has one; give each record an `edge` or"
            " `group` field, or leave the groups out."
        )
    # Groups may be named after people, so the others are not listed.
    known = f"its {len(available)} groups are in the `edge` or `group` field of the records"
    if not wanted:
        raise LunarError(f"Expected at least one group of the {name} data, got none: {known}.")
    for group in wanted:
        if group not in available:
            raise LunarError(f"Unknown group '{group}' in the {name} data: {known}.{_did_you_mean(group, available)}")
    chosen = set(wanted)
    forget = [record for record in records if record.group in chosen]
    return forget, [record for record in records if record.group not in chosen]


def all_groups(records: Sequence[Record], chosen: Sequence[str]) -> list[str]:
    """A warning, if any, that a forget set of several groups is forgotten whole, as none of them was chosen."""
    count = len({record.group for record in records if record.group is not None})
    if chosen or count < 2:
        return []
    return [f"The forget data hold {count} groups, and all of them are forgotten: --forget-group takes one of them."]


def check_disjoint(forget: Sequence[Record], retain: Sequence[Record]) -> None:
    """Raise LunarError if a conversation is to be both forgotten and retained; letter case and spacing do not count."""
    positions: dict[object, int] = {}
    for number, record in enumerate(forget, 1):
        positions.setdefault(conversation_key(record), number)
    shared = [
        (positions[key], number)
        for number, record in enumerate(retain, 1)
        if (key := conversation_key(record)) in positions
    ]
    if shared:
        count = len({first for first, _ in shared})
        what, they = ("prompt is", "it") if count == 1 else ("prompts are", "each")
        raise LunarError(
            f"The forget and retain data must not overlap, but {count} {what} in both,"
            f" first forget record {shared[0][0]} and retain record {shared[0][1]}: take {they} out of one of them."
        )


def deduplicate(records: Sequence[Record]) -> list[Record]:
    """The records in order without later ones of the same conversation; letter case and spacing do not count."""
    first: dict[object, Record] = {}
    for record in records:
        first.setdefault(conversation_key(record), record)
    return list(first.values())


def conversation_key(record: Record) -> Messages:
    """What two records of the same conversation have in common; letter case and spacing do not count."""
    return tuple((role, " ".join(content.split()).casefold()) for role, content in record.messages)


def _did_you_mean(wrong: str, available: Sequence[str]) -> str:
    by_folded = {name.casefold(): name for name in available}
    close = [by_folded[match] for match in difflib.get_close_matches(wrong.casefold(), by_folded, n=3)]
    return f" Did you mean {' or '.join(close)}?" if close else ""


# One row to one record.


def _record(row: Mapping[str, Any], where: str) -> Record:
    answer = _optional(row, ANSWER_FIELDS, where)
    group = _optional(row, GROUP_FIELDS, where)
    if _given(row.get("messages")):
        messages = _messages(row["messages"], where)
        if messages[-1][0] == "assistant":
            answer = messages.pop()[1] or None
        if not messages or messages[-1][0] != "user":
            raise LunarError(f"Expected the last message before the answer in {where} to be the user's: correct it.")
    else:
        messages = [("user", _prompt(row, where))]
    if not messages[-1][1]:
        raise LunarError(f"Expected a prompt in {where}, got an empty one: fill it in or remove the record.")
    return Record(tuple(messages), answer, group)


def _prompt(row: Mapping[str, Any], where: str) -> str:
    present = [field for field in PROMPT_FIELDS if field in row]
    if not present:
        if "messages" in row:
            return ""
        named = [field for field in row if isinstance(field, str) and _FIELD_NAME.fullmatch(field)]
        found = f"only {', '.join(named[:10])}" if named and len(named) == len(row) else "none of them"
        raise LunarError(
            f"Expected a field question, prompt, instruction or messages in {where}, found {found}: rename or add it."
        )
    value = next((row[field] for field in present if _given(row[field])), "")
    if not isinstance(value, str):
        raise LunarError(f"Expected text as the prompt in {where}, got {_kind(value)}: for turns, use messages.")
    return _clean(value, where)


def _messages(value: Any, where: str) -> list[tuple[str, str]]:
    if isinstance(value, str):  # a CSV cell
        try:
            value = json.loads(value)
        except ValueError:
            raise LunarError(f"Expected messages as a list or its JSON in {where}, got other text: fix it.") from None
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise LunarError(f"Expected messages to be a list in {where}, got {_kind(value)}: use role and content pairs.")
    messages = []
    for number, message in enumerate(value, 1):
        at = f"message {number} of {where}"
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise LunarError(f"Expected an object with role and content as {at}: add what is missing.")
        if message["role"] not in ROLES:
            raise LunarError(f"Expected the role system, user or assistant in {at}, got another: rename it.")
        content = "" if message["content"] is None else message["content"]
        if not isinstance(content, str):
            raise LunarError(f"Expected text as the content of {at}, got {_kind(content)}: use plain text.")
        messages.append((str(message["role"]), _clean(content, where)))
    return messages


def _optional(row: Mapping[str, Any], fields: Sequence[str], where: str) -> str | None:
    """The first of `fields` that says something, as text; None if none does."""
    for field in fields:
        value = row.get(field)
        if not _given(value):
            continue
        if isinstance(value, Mapping | list | tuple | bytes):
            raise LunarError(f"Expected text or a number as {field} in {where}, got {_kind(value)}: use one value.")
        if text := _clean(str(value), where):
            return text
    return None


def _given(value: Any) -> bool:
    """Whether a cell says anything: not null, not the NaN that stands for null in tables, not blank."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    return not isinstance(value, str | list | tuple) or bool(value.strip() if isinstance(value, str) else value)


def _clean(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LunarError(f"Expected valid Unicode in {where}, got half of a surrogate pair: repair the text.") from None
    return text.strip()


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), f"a value of type {type(value).__name__}")


# Sources to rows.


def _file_rows(path: Path, label: str) -> Iterable[_Row]:
    if path.is_dir():
        raise LunarError(f"Expected a file, but {label} is a directory: name the file inside it.")
    reader = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows}.get(path.suffix.lower())
    if path.suffix.lower() == ".parquet":
        return _parquet_rows(path, label)
    if reader is None:
        raise LunarError(f"Expected a file ending in {', '.join(SUFFIXES)}, but {label} does not: convert it.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LunarError(f"Expected UTF-8, but byte {error.start} of {label} is not: save it as UTF-8.") from None
    except OSError as error:
        raise _unreadable(label, error) from error
    if not text.strip():
        raise LunarError(f"Expected at least one record, but {label} is empty: add one object or row per prompt.")
    return reader(text, label)


def _unreadable(label: str, error: OSError) -> LunarError:
    return LunarError(f"Expected a readable file, but {label} cannot be opened ({error.strerror}): check its rights.")


def _jsonl_rows(text: str, label: str) -> Iterator[_Row]:
    number = 0
    for line, content in enumerate(text.split("\n"), 1):  # not splitlines: JSON text may contain other line breaks
        if not content.strip():
            continue
        number += 1
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise LunarError(f"Expected one JSON object on line {line} of {label}, {_json_fault(error)}.") from None
        if not isinstance(row, dict):
            raise LunarError(f"Expected one JSON object on line {line} of {label}, got {_kind(row)}: correct the line.")
        yield f"record {number} (line {line})", row


def _json_rows(text: str, label: str) -> Iterator[_Row]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        at = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise LunarError(f"Expected valid JSON{at} in {label}, {_json_fault(error)}.") from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else content
    if not isinstance(content, list):
        raise LunarError(f"Expected a list of objects in {label}, got {_kind(content)}: put the records in one list.")
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise LunarError(f"Expected an object as record {number} of {label}, got {_kind(row)}: correct it.")
        yield f"record {number}", row


def _json_fault(error: Exception) -> str:
    reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "it is out of range"
    return f"got broken JSON ({reason}): correct it"


def _csv_rows(text: str, label: str) -> Iterator[_Row]:
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    number = 0
    try:
        fields = [field.strip() for field in lines.fieldnames or []]
        if not set(fields) & {"messages", *PROMPT_FIELDS}:
            raise LunarError(
                f"Expected a first line with a column question, prompt, instruction or messages in {label}, found none"
                " of them: add the header line or rename the column."
            )
        lines.fieldnames = fields
        for number, row in enumerate(lines, 1):
            if None in row:
                raise LunarError(
                    f"Expected {len(fields)} cells in record {number} (line {lines.line_num}) of {label}, got more: put"
                    " text with commas in double quotes."
                )
            yield f"record {number} (line {lines.line_num})", row
    except csv.Error as error:
        raise LunarError(f"Expected valid CSV after record {number} of {label}, got: {error}; correct it.") from None


def _parquet_rows(path: Path, label: str) -> Iterator[_Row]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            table = file.read(columns=[column for column in columns if column in FIELDS])
        rows = table.to_pylist() if table.num_columns else [dict.fromkeys(columns)] * min(1, table.num_rows)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise _unreadable(label, error) from error
        raise LunarError(f"Expected a Parquet file, but {label} cannot be read as one: write it again.") from error
    return ((f"record {number}", row) for number, row in enumerate(rows, 1))


def _hub_rows(text: str, label: str) -> Iterator[_Row]:
    match = _HUB_ID.fullmatch(text)
    if match is None or Path(text).suffix.lower() in SUFFIXES or text[0] in "/.~":
        raise LunarError(
            f"Expected an existing file or a Hub id like organisation/name, but there is no file for {label}: check the"
            " path."
        )
    if not hub_offline() and not hub_reachable():
        raise LunarError(
            f"There is no file for {label}, and as a Hub data set it cannot be fetched because the Hub cannot be"
            " reached: check the path or the network, or set HF_HUB_OFFLINE=1 to use what is cached."
        )
    import datasets

    split = match["split"] or "train"
    try:
        data = datasets.load_dataset(match["id"], split=split)
        known = [column for column in data.column_names if column in FIELDS]
        rows = data.select_columns(known) if known else [dict.fromkeys(data.column_names)] * min(1, len(data))
    except Exception as error:  # the libraries below raise a dozen unrelated types
        raise LunarError(
            f"There is no file for {label}, and loading it from the Hub failed ({_hub_fault(error, split)}): check the"
            " id and its access rights, or download it to a file."
        ) from error
    return ((f"record {number}", row) for number, row in enumerate(rows, 1))


def _hub_fault(error: Exception, split: str) -> str:
    """Why, in words that are certain not to quote the data: the text of an unknown error is left to its traceback."""
    if str(error).startswith("Unknown split"):
        return f"it has no split '{split}'"
    if str(error).startswith("Config name is missing"):
        return "it has several configurations and none can be named here"
    if hub_offline():
        return "it is not cached and HF_HUB_OFFLINE is set"
    return type(error).__name__
