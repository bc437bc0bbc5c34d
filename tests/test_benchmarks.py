"""The benchmark runs at any shape and writes one table with every method and every ratio."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch

from lunar import settings
from lunar.tiny import world

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import precision
import processes
import speed

SHAPE = "--width 64 --inner 96 --layers 3 --layer 1 --forget 3 --retain 6 --words 4 --repetitions 2 --device cpu"


def test_one_command_prints_and_writes_the_table(tmp_path: Path, capsys) -> None:
    output = tmp_path / "speed.md"
    assert speed.main([*SHAPE.split(), "--output", str(output)]) == 0
    text = output.read_text()
    assert capsys.readouterr().out == text
    assert "d = 64, m = 96, 3 layers, layer 1, 3 forget and 6 retain prompts" in text
    rows = {cells[1].strip(): cells[2:-1] for line in text.splitlines() if len(cells := line.split("|")) == 9}
    assert list(rows) == ["method", "---", *speed.METHODS]
    # The edit is kept as two vectors, a refitted matrix as itself.
    assert [int(rows[name][5]) for name in ("ours", "as published")] == [64 + 96, 64 * 96]
    assert int(rows["ours"][4]) > 0.9 * 64 * 96
    assert [int(cell) for cell in rows["floor"][4:]] == [0, 0]
    ratios = re.findall(r"^\| (.* / .*?) \| ([\d.e+-]+) \[", text, re.MULTILINE)
    assert len(ratios) == 4
    assert all(float(value) > 0 for _, value in ratios)


def test_a_random_model_takes_the_first_prompts_of_a_file(capsys, tmp_path: Path) -> None:
    data = tmp_path / "questions.jsonl"
    rows = [
        {"question": f"what is thing {number} ?", "answer": "this", "group": "ab"[number % 2]} for number in range(30)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert speed.main([*SHAPE.split(), "--repetitions", "1", "--data", str(data), "--group", "b"]) == 0
    assert "3 forget and 6 retain prompts" in capsys.readouterr().out


def test_time_against_one_size(capsys, tmp_path: Path) -> None:
    assert speed.main([*SHAPE.split(), "--vary", "retain=4,8", "--output", str(tmp_path / "speed.md")]) == 0
    rows = [line.split("|")[1:-1] for line in (tmp_path / "speed.md").read_text().splitlines()]
    assert [row[0].strip() for row in rows] == ["retain", "---", "4", "8"]
    assert all(float(cell.split()[0]) > 0 for row in rows[2:] for cell in row[1:5])


def test_a_trained_model_is_searched_too(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings, "NEIGHBOURS", 10)
    data = tmp_path / "people.jsonl"
    with data.open("w") as file:
        for name, facts in list(world.build().people.items())[1:4]:
            for record in (record for fact in facts for record in fact.records(held_out=False)[:1]):
                row = {"question": record.prompt, "answer": record.answer, "group": name}
                file.write(json.dumps(row) + "\n")
    group = json.loads(data.read_text().splitlines()[0])["group"]
    command = ["--model", "tiny", "--data", str(data), "--group", group, "--layer", "0", "--repetitions", "1"]
    assert speed.main([*command, "--epochs", "1", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "layer 0, 10 forget and 20 retain prompts" in text
    rows = {cells[1].strip(): cells[2:-1] for line in text.splitlines() if len(cells := line.split("|")) == 9}
    assert list(rows) == ["method", "---", *speed.METHODS, *speed.SEARCHED]
    assert all(int(rows[name][4]) > 0 for name in ("automatic choice", "all defaults"))
    assert int(rows["floor, all layers"][4]) == 0
    assert len(re.findall(r"^\| total, (?:automatic choice|all defaults) / floor", text, re.MULTILINE)) == 4


@pytest.mark.parametrize("wrong", ["--model tiny", "--model tiny --data FILE --vary retain=4,8"])
def test_a_trained_model_needs_its_data_and_has_one_size(wrong: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        speed.main(wrong.split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert ("leave out either --vary" if "--vary" in wrong else "give them") in said


def test_data_that_cannot_be_read_are_one_sentence(tmp_path: Path, capsys) -> None:
    command = ["--model", "tiny", "--data", str(tmp_path / "nowhere.json"), "--device", "cpu"]
    assert speed.main(command) == 2
    assert "nowhere.json" in capsys.readouterr().err


def test_epochs_that_were_not_run_are_added_to_the_time() -> None:
    work = speed.made(speed.parsed([*SHAPE.split(), "--epochs", "2"]))
    ended = work.extrapolated(3.0, 4.0, 7)
    assert (ended.fit, ended.when, ended.changed) == (10.0, 13.0, 7)
    assert work.protocol.epochs == 2


def test_the_highest_is_seen_though_it_was_short(monkeypatch) -> None:
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr(speed.Peak, "_reset", lambda self: False)
        peak = speed.Peak(torch.device("cpu"))
        with peak.watch():
            taken = torch.ones(64, 2**20)
            time.sleep(0.1)
            del taken
        assert 2.5e8 < peak.most < 3.5e8


def test_two_processes_are_timed_beside_one_and_give_its_edit(tmp_path: Path, capsys) -> None:
    shape = "--width 64 --inner 96 --layers 3 --layer 1 --forget 3 --retain 12 --words 4 --repetitions 1"
    assert processes.main([*shape.split(), "--output", str(tmp_path / "processes.md")]) == 0
    text = (tmp_path / "processes.md").read_text()
    assert capsys.readouterr().out == text
    assert float(re.search(r"apart by at most ([\d.e+-]+)\.", text)[1]) <= 1e-6
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")][2:]
    assert [row[0].strip() for row in rows] == ["total", "retain"]
    assert all(float(cell.split()[0]) > 0 for row in rows for cell in row[1:])


def test_readings_are_those_of_another_solver_and_a_wrong_sum_is_seen(capsys, monkeypatch) -> None:
    def differences() -> dict[str, float]:
        assert precision.main("--inner 96 --rows 200 --forget 4".split()) == 0
        rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.count("|") == 5]
        return {row[0].strip(): max(float(cell) for cell in row[1:3]) for row in rows[2:]}

    found = differences()
    assert list(found) == ["sum in float64 (ours)", "rows kept (ours)", "sum in float32 (control)"]
    assert max(list(found.values())[:2]) < 1e-9 < found["sum in float32 (control)"]
    monkeypatch.setattr(precision, "RIDGE", 1e-3)
    monkeypatch.setattr(
        precision, "by_library", lambda sums, rows: precision.reference(*precision.made(96, 200, 4)) * 1.01
    )
    assert min(differences().values()) > 1e-3
