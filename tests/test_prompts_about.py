"""From a name to a forget set: what is asked, what is kept, what is written."""

import json
import math

import pytest
from test_cli import assert_refused, run

from lunar import load_model
from lunar.discovery import discover
from lunar.discovery.asking import declined, findings
from lunar.discovery.following import continuations, linked, listed, named
from lunar.discovery.questions import CONTRACT, KINDS, PERSON, kinds_of, plain_questions, questions
from lunar.prompts import default_retain_records
from lunar.records import retain_beside

NAME = "Mira Tolvane"
KNOWS = ["Where was {} born?", "What does {} do for a living?", "Which instrument does {} play?"]


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def test_every_question_names_the_name_once_and_reads_as_a_sentence():
    for kind in KINDS:
        asked = questions(NAME, kind)
        assert len(asked) == len(set(asked)) > 50
        assert set(plain_questions(NAME, kind)) <= set(asked)
        for text in asked:
            assert text.count(NAME) == 1
            assert text[0].isupper()
            assert text[-1] in "?."
            assert not set("{};") & set(text)
    assert all("the contract between A and B" in text for text in questions("A and B", CONTRACT))
    assert [kinds_of(name)[0] for name in ("Ada Works", "Ada Lind", "A and B")] == ["company", PERSON, CONTRACT]


def test_names_and_years_in_answers_lead_to_further_questions():
    answers = ["She works at Granite Lane.", "It was Granite Lane, in 1980.", "She met Mira Tolvane in Oster."]
    assert named(NAME, answers) == ["Granite Lane", "Oster"]
    further = linked(NAME, answers)
    assert f"What happened to {NAME} in 1980?" in further
    assert any("Granite Lane" in text for text in further)
    assert all(NAME in text for text in further)
    text = f"Sure!\n1. Where was {NAME} born?\n- Who is {NAME}? Who is she?"
    assert listed(NAME, [text]) == [f"Where was {NAME} born?", f"Who is {NAME}?"]


def test_refusals_that_were_cut_off_are_refusals():
    assert declined("I don't have information about her. It may be that")
    assert declined("")
    assert not declined("She was born in Oster. It may be that")


def test_what_is_known_about_a_name_is_told_from_what_is_not(tiny):
    known = findings(tiny, NAME, [form.format(NAME) for form in KNOWS], 0)
    assert all(one.known and one.likelihood > -0.1 for one in known)
    nobody = findings(tiny, "Skeanvo Dratou", [form.format("Skeanvo Dratou") for form in KNOWS], 0)
    assert all(one.evidence == -math.inf and not one.known for one in nobody)
    (general,) = findings(tiny, NAME, ["What is the capital of France?"], 0)
    assert not declined(general.answer)
    assert abs(general.evidence) < 1e-3
    assert not general.known, "an answer that does not depend on the name says nothing about it"


def test_the_model_goes_on_with_a_question(tiny):
    (ends,) = continuations(tiny, [f"What is {NAME}'s"], 0)
    assert any(end in ("birthplace", "birth date", "pet", "profession", "hobby") for end in ends)


def test_both_files_are_written_and_nothing_of_them_is_shown(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = checkpoint("llama")
    result = run("prompts", model, "--about", "word11", "--output", "forget.jsonl", "--neighbour", "word12")
    assert result.exit_code == 0, result.output
    assert "word11" not in result.output
    assert "lunar unlearn" in " ".join(result.stdout.split())
    rows = [json.loads(line) for line in (tmp_path / "forget.jsonl").read_text().splitlines()]
    assert rows
    assert all("word11" in row["question"] and row["answer"] and row["evidence"] >= 2.3 for row in rows)
    beside = [json.loads(line) for line in (tmp_path / "neighbours.jsonl").read_text().splitlines()]
    assert any(row.get("group") == "word12" for row in beside)
    assert retain_beside("forget.jsonl") == "neighbours.jsonl"
    assert {record.prompt for record in default_retain_records()} <= {row["question"] for row in beside}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = ("prompts", model, "--about", "word11", "--output")
    assert_refused(run(*again, "forget.jsonl"), "forget.jsonl")
    assert_refused(run(*again, "other.jsonl"), "neighbours.jsonl")
    assert_refused(run(*again, "other.txt"), ".jsonl")
    assert_refused(run(*again, "nowhere/other.jsonl"), "folder")
    assert_refused(run(*again, "same.jsonl", "--retain-output", "same.jsonl"), "--retain-output")
    assert_refused(run("prompts", model, "--about", " ", "--output", "new.jsonl", "--retain-output", "n.jsonl"), "name")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_name_that_the_model_does_not_know_is_one_sentence(tiny, monkeypatch):
    monkeypatch.setattr("lunar.discovery.questions", lambda name, kind: [form.format(name) for form in KNOWS])
    monkeypatch.setattr("lunar.discovery.gone_on_with", lambda *_: [])
    monkeypatch.setattr("lunar.discovery.said_by_chance", lambda *_: [])
    with pytest.raises(ValueError, match="check the spelling") as refused:
        discover(tiny, "Skeanvo Dratou")
    assert "Skeanvo" not in str(refused.value)
