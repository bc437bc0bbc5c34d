"""What people see: narrow terminals, terminals without colour, completion of commands, and `lunar doctor`."""

import importlib.metadata
import json
import os
import re
import sys

import pexpect
import pytest
from rich.console import Console
from test_cli import run
from typer.testing import CliRunner

from lunar import doctor
from lunar.cli import app
from lunar.report import terminal
from lunar.report.narrow import fitting

SCORES = {"rouge1": {"before": 1.0, "after": 0.025}, "refusal_rate": {"before": 0.0, "after": 1.0}}
REQUEST = {"name": "ticket-12-of-november", "prompts": 3, "time": "2026-11-24T18:00:00+00:00", "kept": True}
CELL = {
    "method": "lunar-reference",
    "scores": {
        "forget": {name: {"value": 0.125} for name in ("rouge1", "refusal_rate", "extraction_strength")},
        "retain": {"rouge1": {"value": 0.875}},
    },
    "deviation_score": 12.5,
    "seconds": 1.2,
    "changed_parameters": 524288,
    "settings": {},
}
COLOUR = re.compile(r"\x1b\[(\d+;)*(3|4|9|10)\d(;\d+)*m")


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize(
    ("renderable", "parts"),
    [
        (
            terminal.scores_table(
                {"scores": {"forget": SCORES}, "questions": {"forget": 6}, "known_answers": {"forget": 2}}
            ),
            ["6 (2 with answer)", "0.025"],
        ),
        (terminal.scores_table({"scores": {"people_unseen": SCORES}, "questions": {"people_unseen": 50}}), ["0.025"]),
        (terminal.requests_table([REQUEST]), ["ticket-12-of-november", "2026-11-24 18:00"]),
        (
            terminal.examples_table([("forget", "Where was X born?", "In Y.", "I do not know.")]),
            ["question", "Where"],
        ),
        (terminal.comparison_table([CELL]), ["lunar-reference", "0.125", "0.875", "12.5", "524,288"]),
    ],
)
def test_narrow_terminals_lose_nothing(renderable, parts):
    for width in (40, 80, 120):
        console = Console(width=width, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        console.print(fitting(renderable))
        console.file.close()
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        for part in parts:
            assert part in text, (width, part)


def test_no_colour_and_forty_columns_are_kept_in_a_terminal():
    environment = dict(os.environ, NO_COLOR="1", COLUMNS="40", TERM="xterm-256color", OMP_NUM_THREADS="1")
    for arguments in (["--help"], ["unlearn", "--help"], ["doctor"]):
        shown, status = pexpect.run(
            " ".join([sys.executable, "-m", "lunar", *arguments]), env=environment, withexitstatus=True, timeout=240
        )
        text = shown.decode()
        assert status == 0, text
        assert not COLOUR.search(text), arguments
        plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)
        assert max(len(line) for line in plain.splitlines()) <= 40, arguments


def test_commands_and_options_are_completed_and_a_shell_can_be_told_how():
    def completed(words):
        environment = {"_LUNAR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return CliRunner().invoke(app, [], prog_name="lunar", env=environment).stdout.split()

    assert completed("lunar un") == ["unlearn", "undo"]
    assert "--forget" in completed("lunar unlearn --for")
    for shell in ("bash", "zsh", "fish"):
        script = CliRunner().invoke(app, [], prog_name="lunar", env={"_LUNAR_COMPLETE": f"source_{shell}"}).stdout
        assert "lunar" in script
        assert "_LUNAR_COMPLETE" in script
    assert "--show-completion" in run("--help").stdout


def test_doctor_says_what_is_there_and_what_is_missing():
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["faults"] == []
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert found["devices"][-1]["device"] == "cpu"
    assert found["memory"]["total"] >= found["memory"]["available"] > 0
    assert found["cache"]["offline"] in (True, False)
    assert found["embedded_model"] is True
    assert found["extras"]["plot"]["missing"] == []
    assert set(found["extras"]) <= set(doctor.PURPOSES)
    shown = " ".join(run("doctor").stdout.split())
    for part in (f"torch {found['packages']['torch']}", "cpu", "GiB", "cache", "[plot]", "works"):
        assert part in shown


def test_doctor_fails_only_where_something_required_is_broken(monkeypatch, tmp_path):
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "peft" else version(name))
    result = run("doctor")
    assert result.exit_code == 0
    assert "lunar-unlearn[export]" in "".join(result.stdout.split())
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0" if name == "transformers" else version(name))
    result = run("doctor")
    assert result.exit_code == 1
    assert "transformers" in result.stdout.splitlines()[-1]
    monkeypatch.setattr(doctor, "_version", version)
    monkeypatch.setattr(doctor, "EMBEDDED", tmp_path)
    result = run("doctor", "--json")
    assert result.exit_code == 1
    assert "tiny" in json.loads(result.stdout)["faults"][0]
