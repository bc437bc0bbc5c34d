"""Records read the same from every format, and every mistake is one sentence that does not quote a prompt."""

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lunar import hub
from lunar.errors import LunarError
from lunar.records import Record, check_disjoint, deduplicate, read_records, retain_beside, split_by_group

SECRET = "Zanzibar"  # stands in every prompt here and may stand in no message
ROWS = [
    {"question": f"When did {SECRET} sign?", "answer": 'In 1964, it\'s "said"', "edge": "A_B", "note": "x"},
    {"question": f"Où est {SECRET}?\u2028And why?", "answer": "", "edge": "A_C", "note": "y"},
    {"question": f"How many live in {SECRET},\ntoday?", "answer": 1320000, "edge": "A_B", "note": "z"},
]
EXPECTED = [
    Record((("user", f"When did {SECRET} sign?"),), 'In 1964, it\'s "said"', "A_B"),
    Record((("user", f"Où est {SECRET}?\u2028And why?"),), None, "A_C"),
    Record((("user", f"How many live in {SECRET},\ntoday?"),), "1320000", "A_B"),
]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_rows(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows))
    if path.suffix == ".json":
        return write(path, json.dumps({"version": 1, "data": rows}, indent=1))
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path
    import pyarrow
    from pyarrow import parquet

    columns = {key: [None if row[key] == "" else row[key] for row in rows] for key in rows[0]}
    if "answer" in columns:
        columns["answer"] = [None if value is None else str(value) for value in columns["answer"]]
    parquet.write_table(pyarrow.table(columns), path)
    return path


def fails(source: str | Path, *expected: str) -> str:
    with pytest.raises(LunarError) as caught:
        read_records(source, "forget")
    message = str(caught.value)
    assert "forget" in message
    assert SECRET not in message
    assert "\n" not in message
    assert message.endswith(".")
    assert len(re.findall(r"[.!?] +[A-Z]", message)) == 0, f"one sentence: {message}"
    for part in expected:
        assert part in message, message
    return message


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".JSONL"])
def test_every_format_gives_the_same_records(tmp_path: Path, suffix: str) -> None:
    path = write_rows(tmp_path / f"data{suffix.lower()}", ROWS)
    path = path.rename(tmp_path / f"renamed{suffix}")
    assert read_records(path, "forget") == EXPECTED
    assert read_records(str(path), "forget") == EXPECTED


@pytest.mark.parametrize("fields", [("prompt", "completion", "group"), ("instruction", "response", "edge")])
def test_other_field_names_mean_the_same(tmp_path: Path, fields: tuple[str, str, str]) -> None:
    rows = [{fields[0]: row["question"], fields[1]: row["answer"], fields[2]: row["edge"]} for row in ROWS]
    assert read_records(write_rows(tmp_path / "a.json", rows), "retain") == EXPECTED


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_messages(tmp_path: Path, suffix: str) -> None:
    turns = [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", SECRET),
        ("assistant", "An isle"),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    cell = json.dumps(messages) if suffix == ".csv" else messages
    path = write_rows(tmp_path / f"a{suffix}", [{"messages": cell, "group": "g"}])
    assert read_records(path, "forget") == [Record(tuple(turns[:4]), "An isle", "g")]
    assert read_records(path, "forget")[0].prompt == SECRET


def test_plain_list_carriage_returns_nan_and_outer_spaces(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.json", '[{"question": "  Q ", "answer": NaN}, {"prompt": "R", "question": null}]')
    assert read_records(plain, "forget") == [Record.of("Q"), Record.of("R")]
    assert read_records(write(tmp_path / "a.jsonl", '{"prompt": "Q"}\r\n{"prompt": "R"}\r\n'), "x")[1].prompt == "R"
    assert read_records(write(tmp_path / "a.csv", "answer , question\r\n5,Q\r\n,R\r\n"), "x")[0] == Record.of("Q", "5")


def test_records_check_themselves() -> None:
    assert Record.of(" Q ", " ", "") == Record((("user", "Q"),))
    for messages in [(), (("assistant", "A"),), (("user", " "),)]:
        with pytest.raises(LunarError):
            Record(messages)
    with pytest.raises(LunarError):
        Record.of("  ")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("a.jsonl", "", ["empty"]),
        ("a.json", " \n", ["empty"]),
        ("a.json", "[]", ["at least one record"]),
        ("a.csv", "question,answer\n", ["at least one record"]),
        ("a.jsonl", f'{{"prompt": "{SECRET}"}}\n\n{{"prompt": "{SECRET}"', ["line 3", "column"]),
        ("a.json", f'[{{"prompt": "{SECRET}"}},\n  {{"prompt" "{SECRET}"}}]', ["line 2", "column 13"]),
        ("a.json", "[" * 100000, ["JSON"]),
        ("a.json", '{"a": [1], "b": [2]}', ["a list of objects", "got an object"]),
        ("a.json", f'["{SECRET}"]', ["record 1", "got text"]),
        ("a.jsonl", f'"{SECRET}"', ["line 1", "got text"]),
        ("a.jsonl", '\n{"prompt": "a"}\n{"text": "b", "id": 3}', ["record 2 (line 3)", "only text, id", "question"]),
        ("a.jsonl", f'{{"Who is {SECRET}?": "b"}}', ["record 1 (line 1)", "question"]),
        ("a.json", '[{"prompt": "a"}, {"answer": "b"}]', ["record 2", "only answer"]),
        ("a.csv", f"Who is {SECRET}?,5\nb,c\n", ["header", "question"]),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": " "}', ["record 2 (line 2)", "empty"]),
        ("a.jsonl", '{"prompt": null}', ["record 1 (line 1)", "empty"]),
        ("a.csv", 'question,answer\n"a\nb",1\n,2\n', ["record 2 (line 4)", "empty"]),
        ("a.jsonl", '{"prompt": 3}', ["record 1", "a number"]),
        ("a.jsonl", '{"prompt": "a", "answer": {"text": "b"}}', ["record 1", "answer", "an object"]),
        ("a.jsonl", r'{"prompt": "\ud83d"}', ["record 1", "surrogate"]),
        ("a.csv", f"question,answer\n{SECRET}, well,1\n", ["record 1 (line 2)", "2 cells", "double quotes"]),
        ("a.csv", f'question,answer\n"{SECRET},1\n', ["CSV after record 0"]),
        ("a.csv", f"question\n{SECRET} \xe9".encode("latin-1"), ["UTF-8", "byte 18"]),
        ("a.parquet", SECRET, ["Parquet"]),
        ("a.parquet", "", ["Parquet"]),
        ("a.txt", SECRET, [".jsonl, .json, .csv, .parquet"]),
        ("a", SECRET, [".jsonl, .json, .csv, .parquet"]),
        ("a.jsonl", '{"messages": "x"}', ["record 1", "messages"]),
        ("a.jsonl", '{"messages": {}}', ["record 1", "messages", "an object"]),
        ("a.jsonl", '{"messages": []}', ["record 1", "empty"]),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', ["message 1 of record 1", "content"]),
        ("a.jsonl", f'{{"messages": [{{"role": "{SECRET}", "content": "a"}}]}}', ["message 1", "system, user"]),
        ("a.jsonl", '{"messages": [{"role": "user", "content": ["a"]}]}', ["message 1", "a list"]),
        ("a.jsonl", '{"messages": [{"role": "user", "content": null}]}', ["record 1", "empty"]),
        ("a.jsonl", '{"messages": [{"role": "assistant", "content": "a"}]}', ["record 1", "user's"]),
        ("a.jsonl", '{"messages": [{"role": "system", "content": "a"}]}', ["record 1", "user's"]),
    ],
)
def test_mistakes_in_files(tmp_path: Path, file: str, content: str | bytes, expected: list[str]) -> None:
    fails(write(tmp_path / file, content), *expected)


def test_parquet_without_known_columns(tmp_path: Path) -> None:
    fails(write_rows(tmp_path / "a.parquet", [{"text": SECRET}]), "record 1", "only text")


def test_mistakes_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> bool:
        raise AssertionError("a wrong path must not ask the Hub")

    monkeypatch.setattr("lunar.records.hub_reachable", never)
    monkeypatch.chdir(tmp_path)
    fails(tmp_path, "directory")
    for missing in [
        "data/a.jsonl",
        "a.csv",
        "./org/name",
        "/org",
        "~/none",
        "~nobody-here/x",
        "alone",
        "a/b/c",
        "o/n:",
    ]:
        fails(missing, "no file", missing)
    fails("", "nothing")
    fails(f"Who is {SECRET}?\nAnd who else?", "a text of")


def test_hub_unreachable_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lunar.records.hub_offline", lambda: False)
    monkeypatch.setattr("lunar.records.hub_reachable", lambda: False)
    fails("org/name", "org/name", "cannot be reached", "HF_HUB_OFFLINE")


def test_hub_data_set_is_loaded_with_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(name: str, split: str) -> datasets.Dataset:
        assert name == "org/name"
        if split == "broken":
            raise RuntimeError(SECRET)
        if split != "train":
            raise ValueError(f'Unknown split "{split}". Should be one of ["train"].')
        return datasets.Dataset.from_list([{**row, "answer": str(row["answer"])} for row in ROWS])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("lunar.records.hub_offline", lambda: False)
    monkeypatch.setattr("lunar.records.hub_reachable", lambda: True)
    assert read_records("org/name", "forget") == EXPECTED
    assert read_records("org/name:train", "forget") == EXPECTED
    fails("org/name:test", "no split 'test'")
    fails("org/name:broken", "RuntimeError")
    monkeypatch.setattr("lunar.records.hub_offline", lambda: True)
    fails("org/name:broken", "not cached")


@pytest.mark.parametrize(
    ("endpoint", "proxies", "address"),
    [
        ("https://hub.test", {}, ("hub.test", 443)),
        ("http://hub.test:8080/hf", {}, ("hub.test", 8080)),
        ("https://hub.test", {"https": "http://user:word@proxy.test:3128"}, ("proxy.test", 3128)),
        ("https://hub.test", {"https": "proxy.test:3128"}, ("proxy.test", 3128)),
        ("https://hub.test", {"http": "http://proxy.test:1"}, ("hub.test", 443)),
        ("https://hub.test", {"https": "http://proxy.test", "no": "hub.test"}, ("hub.test", 443)),
    ],
)
def test_the_hub_check_tries_endpoint_or_proxy(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, proxies: dict[str, str], address: tuple[str, int]
) -> None:
    class Opened:
        def close(self) -> None:
            pass

    tried = []
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for kind in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{kind}_proxy", raising=False)
        monkeypatch.delenv(f"{kind}_proxy".upper(), raising=False)
        if kind in proxies:
            monkeypatch.setenv(f"{kind}_proxy", proxies[kind])
    monkeypatch.setattr("socket.create_connection", lambda where, timeout: tried.append(where) or Opened())
    assert hub.hub_reachable()
    assert tried == [address]


def test_the_hub_check_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("lunar.hub.TIMEOUT_SECONDS", 0.2)

    def hang(where: tuple[str, int], timeout: float) -> None:
        time.sleep(1)  # as a name server may
        raise OSError("no answer")

    monkeypatch.setattr("socket.create_connection", hang)
    began = time.monotonic()
    assert not hub.hub_reachable()
    assert time.monotonic() - began < 0.9
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.create_connection", None)
    assert not hub.hub_reachable()


def test_groups_split_a_set_in_two() -> None:
    forget, rest = split_by_group(EXPECTED, ["A_B"], "forget")
    assert (forget, rest) == ([EXPECTED[0], EXPECTED[2]], [EXPECTED[1]])
    assert split_by_group(EXPECTED, "A_B", "forget") == (forget, rest)
    assert split_by_group(EXPECTED, ["A_C", "A_B"], "forget") == (EXPECTED, [])
    ungrouped = Record.of("Q")
    assert split_by_group([*EXPECTED, ungrouped], ["A_B", "A_C"], "forget") == (EXPECTED, [ungrouped])


def test_mistakes_in_groups() -> None:
    with pytest.raises(LunarError, match=r"Unknown group 'a_b' in the forget data: its 2 groups .*\. Did you mean A_B"):
        split_by_group(EXPECTED, ["a_b"], "forget")
    with pytest.raises(LunarError, match=r"none of the 1 forget records.*`group`"):
        split_by_group([Record.of(SECRET)], ["A_B"], "forget")
    with pytest.raises(LunarError, match="at least one group"):
        split_by_group(EXPECTED, [], "forget")
    many = [Record.of("Q", group=f"g{number:02}") for number in range(30)]
    with pytest.raises(LunarError, match="its 30 groups") as caught:
        split_by_group(many, ["nothing like it"], "forget")
    assert not re.search("Did you mean|g[0-9]", str(caught.value))


def test_overlap_is_refused_whatever_case_and_spacing() -> None:
    forget = [Record.of("other"), Record.of(f"Where is  {SECRET}?"), Record.of("third")]
    retain = [Record.of("fourth"), Record.of("fifth"), Record.of(f"where is {SECRET.upper()}?\n")]
    check_disjoint(forget, retain[:2])
    with pytest.raises(LunarError, match=r"1 prompt is.*forget record 2 and retain record 3") as caught:
        check_disjoint(forget, retain)
    assert SECRET not in str(caught.value)
    with pytest.raises(LunarError, match="3 prompts are"):
        check_disjoint(forget, [*forget, *forget])
    check_disjoint(forget, [Record((("system", "Be brief."), *forget[1].messages))])


def test_deduplicate_keeps_the_first() -> None:
    first, other = Record.of("Q", "1"), Record.of("R")
    assert deduplicate([first, other, Record.of("q ", "2"), other]) == [first, other]


def test_the_file_beside_is_named_by_rows_and_by_nothing_else(tmp_path: Path) -> None:
    def named(*names: object) -> str | None:
        rows = [{"question": "secret?"} | ({} if name is None else {"retain_file": name}) for name in names]
        path = tmp_path / "forget.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return retain_beside(path)

    (tmp_path / "neighbours.jsonl").write_text('{"question": "other?"}\n')
    (tmp_path / "others.jsonl").write_text('{"question": "other?"}\n')
    assert named(None, None) is None, "a file that only lies there is none"
    assert named("", None) is None
    assert named(None, "neighbours.jsonl") == str(tmp_path / "neighbours.jsonl")
    for wrong in (["neighbours.jsonl", "others.jsonl"], ["../neighbours.jsonl"], [str(tmp_path / "others.jsonl")], [3]):
        with pytest.raises(LunarError, match="give --retain") as refused:
            named(*wrong)
        assert "secret" not in str(refused.value)
    with pytest.raises(LunarError, match="not there"):
        named("gone.jsonl")
    assert retain_beside(tmp_path / "none.jsonl") is None
    assert retain_beside("owner/name") is None


def test_importing_is_light() -> None:
    code = "import sys, lunar.records; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
