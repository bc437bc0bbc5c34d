"""The record of a ledger: what was done, one JSON object a line, each holding the hash of the one before.

It says of prompts how many there were, and names them by keyed hashes (HMAC-SHA-256, the key in a file of its own), so
that somebody who holds a prompt and the key can show that it was among them, and nobody can guess prompts without the
key. No prompt, answer, generation or token stands in it. Knows neither torch nor models.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from lunar.errors import LunarError
from lunar.records import Record, conversation_key

RECORD_FILE, KEY_FILE = "record.jsonl", "record.key"
FORMAT = 1
CHANGES = ("start", "add", "undo")
"""Actions after which there is another edit."""
EXPORTS = ("export adapter", "export merged")
"""Actions that write the edit into a folder elsewhere."""
FIRST = "0" * 64
"""What stands in the first entry for the hash of the one before."""
ID_BYTES = 16
ATTACKS = (
    *("paraphrase", "typos", "case", "few-shot", "role-play", "system-override", "multi-turn", "prefill", "cloze"),
    *("reversal", "yes-no", "multiple-choice", "sampling", "recognise"),
    *("skip", "lens", "steering", "reverse", "project", "scale", "interpolate", "restore", "patch", "prune"),
    *("quantise", "quantise-adapter"),
    *("probe", "soft-prompt", "relearn", "relearn-unrelated", "relearn-forget"),
)
"""The names of `lunar.attacks`, which imports torch."""
LIMITS = (
    "The edit suppresses answers: what was learnt remains in other weights, and somebody who holds them may bring it "
    "back. This record shows what was done to the model and how it was measured, not that anything was erased. Scores "
    "hold for the prompts that were asked, up to the interval given."
)


def new_key() -> str:
    """A key of 256 bits, in hexadecimal digits."""
    return secrets.token_hex(32)


def read_key(path: Path) -> bytes:
    """The key in a file. Raises LunarError if it is no key."""
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise LunarError(f"{path} holds no key ({type(error).__name__}): restore the ledger from a copy.") from error
    if len(key) != 32:
        raise LunarError(f"{path} was expected to hold 64 hexadecimal digits: restore the ledger from a copy.")
    return key


def prompt_id(key: bytes, record: Record) -> bytes:
    """The keyed hash of a record's conversation, its answer, letter case and spacing left out: 16 bytes."""
    text = json.dumps(conversation_key(record), ensure_ascii=False)
    return hmac.new(key, b"prompt " + text.encode(), hashlib.sha256).digest()[:ID_BYTES]


def prompts_id(key: bytes, ids: Sequence[bytes]) -> str:
    """By which a request for the same prompts is recognised: a keyed hash of their ids, whatever their order."""
    return hmac.new(key, b"request " + b"".join(sorted(ids)), hashlib.sha256).hexdigest()[:16]


def request_id(key: bytes, prompts: str, number: int) -> str:
    """What a request is called in the record: a keyed hash of its `prompts_id` and of the number of the asking.

    So the same prompts, asked again after they were taken back, are another request, and entries of the first do not
    tell of the second.
    """
    return hmac.new(key, f"request {number} {prompts}".encode(), hashlib.sha256).hexdigest()[:16]


def name_id(key: bytes, name: str) -> str:
    """What a request's name is in the record: a keyed hash, so that one that was taken back is still recognised."""
    return hmac.new(key, b"name " + name.encode(), hashlib.sha256).hexdigest()[:16]


def unknown_request(name: str, known: Sequence[str], entries: Sequence[Mapping[str, Any]], key: bytes) -> LunarError:
    """The error for the name of a request that does not hold: it was taken back already, or never was.

    No close match is offered, for that would be to propose another one's request to be taken back.
    """
    left = f"Available: {', '.join(known)}." if known else "The ledger holds no request."
    hashed = name_id(key, name)
    times = [entry["time"] for entry in entries if entry["action"] == "undo" and entry.get("name") == hashed]
    if times:
        return LunarError(
            f"The request {name} was taken back already, on {times[-1][:10]} (UTC), so nothing of it is left to undo. "
            f"{left}"
        )
    return LunarError(f"The name of a request in the ledger was expected, but {name[:64]!r} is none. {left}")


def entry_hash(entry: Mapping[str, Any]) -> str:
    """The SHA-256 of an entry without its own hash, keys sorted."""
    body = {name: value for name, value in entry.items() if name != "hash"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()).hexdigest()


def appended(text: str, action: str, content: Mapping[str, Any]) -> str:
    """The record with one more entry, which is given its number, time, the tool's commit, the limits and hashes.

    Content that says nothing of attacks is that of an action after which none was run.
    """
    lines = text.splitlines()
    previous = json.loads(lines[-1])["hash"] if lines else FIRST
    entry = {
        "format": FORMAT,
        "number": len(lines) + 1,
        "action": action,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        **content,
        "attacks": content.get("attacks", {"run": [], "not_run": list(ATTACKS)}),
        "limits": LIMITS,
        "previous": previous,
    }
    return text + json.dumps(entry | {"hash": entry_hash(entry)}, ensure_ascii=False, allow_nan=False) + "\n"


def read_record(text: str) -> list[dict[str, Any]]:
    """All entries. Raises LunarError naming the first that was changed, removed, added or put elsewhere."""
    entries: list[dict[str, Any]] = []
    previous = FIRST
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            intact = (
                type(entry) is dict
                and entry["number"] == number
                and entry["previous"] == previous
                and entry["hash"] == entry_hash(entry)
                # The same text that was written: JSON would forgive other spaces and repeated names.
                and line == json.dumps(entry, ensure_ascii=False, allow_nan=False)
            )
        except (ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            raise LunarError(
                f"The record's entry {number} is not what was written there: it was changed, or one before it was "
                "changed, removed or moved."
            )
        entries.append(entry)
        previous = entry["hash"]
    return entries


def stale_exports(entries: Sequence[Mapping[str, Any]], edit: str | None) -> list[Mapping[str, Any]]:
    """The entries of exports that were made when the edit was another than the one of this SHA-256."""
    found, then = [], None
    for entry in entries:
        if entry["action"] in CHANGES:
            then = entry["edit"]["after"]
        elif entry["action"] in EXPORTS and then != edit:
            found.append(entry)
    return found


@cache
def git_commit() -> str | None:
    """The commit of the library where it runs from a git work tree, marked where files differ; else None."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # Only a work tree that holds this file counts: a virtual environment may lie inside another project's.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit} and changes" if commit and git("status", "--porcelain", "--", ".") else commit
