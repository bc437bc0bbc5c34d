"""`lunar attack`: what came back stands in the ledger, says nothing of what was forgotten, and holds for one edit."""

import json
import re
from dataclasses import replace

import pytest
from test_cli import FORGET, RETAIN, SECRET, assert_refused, here, run, tree, write_lines  # noqa: F401
from test_cli_requests import SECOND, ledger  # noqa: F401

from lunar import evaluation
from lunar.attacks import ATTACKS, BUDGETS, Budget, Finding, Ladder
from lunar.attacks.verdict import verdict
from lunar.metrics import Score

SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")


@pytest.fixture(autouse=True)
def _little(monkeypatch):
    monkeypatch.setitem(BUDGETS, "quick", Budget(3, 2, 1, (1.0,), (1,), 2))
    monkeypatch.setattr(evaluation, "SHORTEST_LIMIT", 4)


def test_what_came_back_is_written_recorded_and_shown_without_a_word_of_it(ledger, here):  # noqa: F811
    result = run("attack", ledger, *SETS, "--only", "skip,prefill,few-shot")
    assert result.exit_code == 0, result.output
    found = json.loads((ledger / "attacks.json").read_text())
    assert {one["attack"] for one in found["findings"]} == {"skip", "prefill", "few-shot"}
    assert set(found["left_out"]) == set(ATTACKS) - {"skip", "prefill", "few-shot"}
    assert (found["budget"], found["budget_allows"]["retain"]) == ("quick", 2)
    assert found["questions"] == {"forget": 3, "retain": 2}
    assert found["counts"]["forget_prompts_of_the_ledger"] == 3
    entry = json.loads((ledger / "record.jsonl").read_text().splitlines()[-1])
    assert entry["action"] == "attack"
    assert entry["edit"]["after"] == found["edit"]
    report = json.loads((ledger / "report.json").read_text())
    assert report["scores"], "what unlearning wrote is still there"
    for said in (entry["attacks"], report["attacks"]):
        run_names = {one["attack"] for one in said["run"]}
        assert run_names | {one["attack"] for one in said["not_run"]} == set(ATTACKS)
        for one in said["run"]:
            assert {"value", "low", "high", "count"} <= set(one["forget"])
        assert {"attack": "typos", "reason": "not asked for"} in said["not_run"]
    page = (ledger / "report.html").read_text()
    assert found["verdict"] in page
    assert '<section id="back"' in page
    assert '<section id="scores"' in page
    assert run("verify", ledger).exit_code == 0
    output = " ".join(result.output.split())
    assert "what an attacker needs" in output
    assert "typos" in output
    assert found["verdict"] in output
    texts = [result.output, *((ledger / name).read_text() for name in ("attacks.json", "record.jsonl", "report.json"))]
    # Not "rewordings", which is a setting.
    assert not any(re.search(rf"\b{words}", text) for text in texts for words in (r"word\d", "city of", SECRET))
    assert not any(word in page for word in (SECRET, "the word20 city", "person of word21", "the word22 ."))


def test_results_go_with_the_edit_they_were_got_from(ledger):  # noqa: F811
    only = (*SETS, "--only", "case", "--quiet")
    assert run("attack", ledger, *only).exit_code == 0
    before = json.loads((ledger / "attacks.json").read_text())["edit"]
    assert run("unlearn", ledger, "--forget", "second.jsonl", "--name", "second").exit_code == 0
    assert not (ledger / "attacks.json").exists()
    assert "attacks" not in json.loads((ledger / "report.json").read_text())
    result = run("attack", ledger, *only)
    assert result.stdout == json.loads((ledger / "attacks.json").read_text())["verdict"] + "\n"
    assert json.loads((ledger / "attacks.json").read_text())["edit"] != before
    assert run("attack", ledger, *only).exit_code == 0  # once more in the place of the last
    assert run("undo", ledger, "second").exit_code == 0
    assert not (ledger / "attacks.json").exists()
    assert run("verify", ledger).exit_code == 0
    assert [json.loads(line)["action"] for line in (ledger / "record.jsonl").read_text().splitlines()] == [
        "start", "attack", "add", "attack", "attack", "undo"
    ]  # fmt: skip


def test_what_is_not_given_is_taken_from_the_ledger_and_the_original(ledger, here, checkpoint):  # noqa: F811
    write_lines(here / "bare.jsonl", [{"question": row["question"]} for row in [*FORGET, *SECOND]])
    result = run("attack", ledger, "--forget", "bare.jsonl", "--only", "case", "--control", "model", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["retain_source"].startswith("the file that the ledger")
    assert found["counts"]["forget_own_answers"] == 5
    assert found["counts"]["forget_prompts_of_the_ledger"] == 3
    assert found["counts"]["retain_prompts_used"] == len(RETAIN)
    assert found["findings"][0]["control_kind"] == "model"
    (here / "retain.jsonl").unlink()
    found = json.loads(run("attack", ledger, "--forget", "forget.jsonl", "--only", "case", "--json").stdout)
    assert found["retain_source"] == "built-in prompts"
    assert found["counts"]["retain_own_answers"] > 100


def test_bad_input_is_one_sentence_and_changes_nothing(ledger, here, monkeypatch):  # noqa: F811
    write_lines(here / "bare.jsonl", [{"question": row["question"]} for row in FORGET])
    before = tree(here), (ledger / "record.jsonl").read_bytes()
    cases = [
        ((ledger, *SETS, "--only", "stearing"), "Did you mean steering"),
        ((ledger, *SETS, "--only", "skip,,case"), "separated by commas"),
        ((ledger, *SETS, "--budget", "fast"), "Unknown budget"),
        ((ledger, "--forget", "none.jsonl"), "none.jsonl"),
        ((ledger, "--forget", "forget.jsonl", "--retain", "forget.jsonl"), "overlap"),
        ((ledger, *SETS, "--control", "nowhere"), "nowhere"),
        ((here, *SETS), "ledger.json"),
    ]
    for arguments, words in cases:
        assert_refused(run("attack", *arguments), words)
    monkeypatch.setattr(
        evaluation, "answer_records", lambda loaded, records, **_: ["I don't know that."] * len(records)
    )
    assert_refused(run("attack", ledger, "--forget", "bare.jsonl"), "add the answers")
    monkeypatch.undo()
    assert (tree(here) - {"edit/.lock"}, (ledger / "record.jsonl").read_bytes()) == before
    (ledger / "attacks.json").write_text("mine")
    assert_refused(run("attack", ledger, *SETS), "move it away")
    (ledger / "attacks.json").unlink()
    assert run("undo", ledger, "first").exit_code == 0
    assert_refused(run("attack", ledger, *SETS), "no request")
    assert run("attack", ledger).exit_code == 2


# The sentence at the end


def finding(name: str, excess: float | None, **changes: object) -> Finding:
    def score(value: float | None) -> Score:
        return Score(value, 3, value, value, "recall")

    found = Finding(name, "", "", "weights", "the weights", {}, score(0.5), 0.1, 1.0, 0.4, 0.9, 0.9, True)
    return replace(found, control=0.1 if excess is not None else None, excess=score(excess), **changes)


def said(*findings: Finding) -> str:
    return verdict(Ladder(findings, (), "quick", 0, 3, 3))


def test_the_verdict_calls_nothing_erased_that_comes_back():
    assert said(finding("skip", 0.16), finding("case", 0.1)).startswith(
        "Suppressed, not erased: 1 of the 2 attacks run here"
    )
    assert "most of all skip, 0.16 above" in said(finding("case", 0.1), finding("skip", 0.16))
    nothing = said(finding("skip", 0.15))
    assert nothing.startswith("No attack run here brought back")
    assert "does not show that nothing is left" in nothing
    assert "erased" not in nothing
    assert said(finding("skip", None)).startswith("Suppressed"), "without a control, what comes back counts"
    assert "1 attack has no control" in said(finding("skip", None))


def test_attacks_that_prove_nothing_are_not_counted():
    broken = finding("skip", 0.9, survives=False)
    assert said(broken, finding("case", 0.0)).startswith("No attack run here")
    assert "1 attack breaks the model" in said(broken)
    assert "prove nothing" in said(finding("case", 0.9, recovery=None))
    assert said(finding("case", None, not_run="It cannot.")).startswith("No attack could be carried out")
