"""`report.html` goes with every change of a ledger and with a comparison, and `lunar report` writes it again."""

import json

import pytest
from test_cli import FORGET, SECRET, assert_refused, here, run, tree, unlearn  # noqa: F401
from test_cli_requests import ledger  # noqa: F401

from lunar import reporting

ANSWERS = ("in the word20 city", "a person of word21", "the word22 .")
"""Whole, because single words come out of a model of random numbers by chance."""
SECRETS = (SECRET, *ANSWERS)


def shows(folder, *words):
    """Which of the words stand in the page or in the file of the examples."""
    text = "".join((folder / name).read_text() for name in ("report.html", "examples.json") if (folder / name).exists())
    return {word for word in words if word in text}


def test_the_page_goes_with_the_ledger(ledger, here):  # noqa: F811
    page = ledger / "report.html"
    first = page.read_text()
    for name in ("verdict", "scores", "examples", "recognised", "layers", "over-time", "reproduce"):
        assert f'<section id="{name}"' in first
    assert "word12" in first, "a retained question"
    assert not shows(ledger, *SECRETS)
    report = json.loads((ledger / "report.json").read_text())
    # Retain prompts in other forms are among the neighbours.
    assert set(report["gate"]["distributions"]) == {"forget, each left out", "forget", "retain", "made neighbours"}
    assert report["gate"]["distributions"]["forget"]["values"] == pytest.approx(
        sorted(report["gate"]["distributions"]["forget"]["values"])
    )
    assert report["gate"]["distributions"]["forget"]["values"][0] == pytest.approx(
        report["gate"]["values"]["minimum"], abs=2e-3
    )
    low, high = report["intervals"]["retain"]["rouge1"]["after"]
    assert low <= report["scores"]["retain"]["rouge1"]["after"] <= high

    assert run("unlearn", ledger, "--forget", "second.jsonl", "--name", "ticket-2").exit_code == 0
    second = page.read_text()
    assert "plot-over-time" in second
    assert "ticket-2" in second
    assert not shows(ledger, *SECRETS, "word14", "word26", "word27")
    assert run("undo", ledger, "ticket-2").exit_code == 0
    third = page.read_text()
    assert "The request ticket-2 was taken back" in third
    assert "request taken back" in third
    assert 'id="examples"' not in third, "these were of the request that is gone"
    assert not (ledger / "examples.json").exists()
    assert run("verify", ledger).exit_code == 0

    page.unlink()
    result = run("report", ledger)
    assert (result.exit_code, result.stdout.strip()) == (0, str(page))
    assert page.read_text() == third
    assert run("verify", ledger).exit_code == 0
    assert page.stat().st_mode & 0o777 == 0o600


def test_results_are_not_lost_for_a_page_that_cannot_be_drawn(here, checkpoint, monkeypatch):  # noqa: F811
    def fails(*arguments, **more):
        raise KeyError("word12")

    monkeypatch.setattr("lunar.report.html.page", fails)
    assert unlearn(checkpoint("llama")).exit_code == 0
    assert "could not be drawn (KeyError)" in (here / "edit" / "report.html").read_text()
    assert json.loads((here / "edit" / "report.json").read_text())["scores"]
    assert run("verify", here / "edit").exit_code == 0


def test_the_forgotten_is_shown_where_it_is_asked_for_and_nowhere_else(here, checkpoint):  # noqa: F811
    assert unlearn(checkpoint("llama"), "--layer", 1, "--show-forget").exit_code == 0
    folder = here / "edit"
    assert shows(folder, *SECRETS) == {SECRET}, "the questions; a model of random numbers has no such answers"
    assert not any(word in (folder / "report.json").read_text() for word in SECRETS)
    assert run("report", folder).exit_code == 0
    assert FORGET[0]["question"] not in (folder / "report.html").read_text()
    assert SECRET not in (folder / "report.html").read_text()
    assert run("report", folder, "--show-forget").exit_code == 0
    assert FORGET[0]["question"] in (folder / "report.html").read_text()


def test_a_ledger_of_an_earlier_version_gets_a_page(ledger, monkeypatch):  # noqa: F811
    with reporting.Store.locked(ledger) as store:
        store.commit(store.content, {}, ("report.html", "examples.json", "report.json", "recipe.toml"))
    assert run("report", ledger).exit_code == 0
    text = (ledger / "report.html").read_text()
    assert "there is no verdict" in text
    assert "over-time" in text


def test_the_page_of_a_comparison_is_written_again(here):  # noqa: F811
    from page_contents import comparison

    (here / "compared").mkdir()
    (here / "compared" / "comparison.json").write_text(json.dumps(comparison()))
    assert run("report", "compared").exit_code == 0
    assert "plot-compared" in (here / "compared" / "report.html").read_text()
    opened = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.launch", opened.append)
        assert run("report", "compared", "--open").exit_code == 0
    assert opened == [(here / "compared" / "report.html").as_uri()]


def test_bad_input_is_one_sentence_and_changes_nothing(ledger, here):  # noqa: F811
    (here / "odd").mkdir()
    (here / "odd" / "comparison.json").write_text('{"cells": [{"method": "shift"}]}')
    (here / "cut").mkdir()
    (here / "cut" / "comparison.json").write_text('{"cells": [')
    before, page = tree(here), (ledger / "report.html").read_bytes()
    cases = [
        ((here,), "neither a ledger"),
        ((here / "nowhere",), "neither a ledger"),
        ((here / "odd",), "not as this version"),
        ((here / "cut",), "cannot be read"),
        ((ledger, "--show-forget"), "leave --show-forget out"),
    ]
    for arguments, words in cases:
        assert_refused(run("report", *arguments), words)
    assert tree(here) - {"edit/.lock"} == before - {"edit/.lock"}
    assert (ledger / "report.html").read_bytes() == page
