"""From a name to a forget set: what is asked, what is kept, what is written."""

import json
import math

import pytest
from test_cli import assert_refused, run

from lunar import load_model
from lunar.discovery import IN_ALL, MOST_PHRASINGS, Discovered, Finding, discover
from lunar.discovery.asking import Said, agreement, ask, declined, facts, findings, meaning
from lunar.discovery.beside import agreed_on, nearby, told_apart
from lunar.discovery.following import continuations, linked, listed, named, well_formed
from lunar.discovery.questions import CONTRACT, KINDS, PERSON, kinds_of, plain_questions, questions
from lunar.prompts import default_retain_records
from lunar.records import Record, retain_beside
from lunar.report import terminal

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
    assert linked(NAME, answers, least=2)[0] == linked(NAME, answers)[0]
    assert "Oster" not in "".join(linked(NAME, answers, least=2))
    assert not any("1980" in text for text in linked(NAME, answers, least=2))
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


def said(question, answer, likelihood=-0.01, unsure=()):
    """As if the model had said it, with some words that it is not sure of."""
    means = meaning(answer) - meaning(question)
    return Said(question, answer, likelihood, means, means - set(unsure), 5)


BORN = (
    said("Where was {} born?", "She was born in Oster.", -0.02),
    said("Can you tell me where {} was born?", "She was born in Oster."),
    said("Where does {} come from?", "She comes from Oster, it is said."),
    said("Which pet does {} have?", "She keeps one grey goose."),
    said("What is the pet of {}?", "She keeps one grey gorilla.", unsure=("gorilla", "grey")),
)


def test_answers_agree_where_differently_worded_questions_get_the_same_words():
    assert agreement(BORN, BORN) == [2, 2, 2, 1, 0], "to ask 'can you tell me' first is not to ask in other words"
    assert agreement(BORN[:1], BORN[3:]) == [0]
    others = [said("What does Ada do at Oster?", "July follows."), said("What does Ada do at Aber?", "July follows.")]
    assert agreement(others, others) == [1, 1], "names make no other wording"
    apart = [said("What does Ada do at Oster?", "July follows."), said("How does Ada know Aber?", "July follows.")]
    assert agreement(apart, apart) == [1, 1], "nor do questions about two towns back each other"
    assert [len(group) for group in facts(BORN)] == [3, 1, 1]
    assert facts(BORN)[0][0] == BORN[1], "of those the surest first; with equal sureness in their order"
    assert agreed_on(BORN) == list(BORN[:3])
    same = [said(f"What is {noun}?", "April follows.") for noun in ("Oster", "the shape", "the price")]
    different = [said("Who made it?", "Ada Works did."), said("When was it made?", "In 1980.")]
    assert told_apart(same) == []
    assert told_apart([*same, *different]) == different
    assert told_apart([*same * 2, different[0]]) == [], "one answer in seven makes no name a thing that is known"


def test_questions_that_a_model_wrote_are_whole():
    assert well_formed(f"Where was {NAME} born?", NAME)
    assert well_formed(f"Tell me about {NAME}'s profession.", NAME)
    for broken in (
        "Where was she born?",
        f"When did {NAME} orI don't have information about {NAME}?",
        f"Where did {NAME} go? I don't have information about her.",
        f"Where did {NAME} study study?",
        f"Which town and which town is {NAME} from?",
    ):
        assert not well_formed(broken, NAME), broken
    assert listed(NAME, [f"Who is {NAME} to {NAME}? What does {NAME} play?"]) == [f"What does {NAME} play?"]


def test_what_is_cut_off_is_no_question(tiny, monkeypatch):
    texts = [["pet and the name of her", " birthplace? It", "?", "hobby.", ""]]
    monkeypatch.setattr("lunar.discovery.following._sampled", lambda *_: texts)
    assert continuations(tiny, ["What is"], 0) == [["birthplace", "hobby"]]


def test_the_model_is_sure_of_what_it_knows_and_not_of_babble(tiny):
    asked = [f"Where was {NAME} born?", f"Can you tell me {NAME}'s account number?", "Where was Skeanvo Dratou born?"]
    known, babble, refused = ask(tiny, asked, "questions")
    assert known.says == known.means
    assert known.says
    assert not babble.says
    assert not declined(babble.answer)
    assert declined(refused.answer)
    assert not refused.means


def finding(question, answer, likelihood=-0.01, evidence=9.0):
    one = said(question, answer)
    return Finding(question, answer, likelihood, one.means, one.says, one.tokens, evidence)


def test_what_stays_holds_up_and_the_surest_comes_first(tiny, monkeypatch):
    broken, own = f"What is {NAME}'s birthence?", f"What is the motto of {NAME}?"
    stray = finding(f"What is {NAME}'s religion?", "She believes nothing.")
    nouns = [first + last for first in ("bird", "beast", "friend", "pet", "pest") for last in ("ie", "let", "kin", "s")]
    pets = [finding(f"Which {noun} does {NAME} keep?", "One goose.", -place / 99) for place, noun in enumerate(nouns)]
    born = [finding(f"Where was {NAME} born?", "In Oster."), finding(f"What is {NAME}'s home?", "In Oster.")]
    mottos = [finding(own, "Ever onward."), finding(f"Which motto suits {NAME}?", "Ever onward.")]
    everything = {one.question: one for one in [stray, finding(broken, "In Oster."), *born, *pets, *mottos]}
    monkeypatch.setattr("lunar.discovery._kind", lambda *_: PERSON)
    monkeypatch.setattr("lunar.discovery.questions", lambda *_: [one.question for one in (stray, *born, *pets)])
    monkeypatch.setattr("lunar.discovery.gone_on_with", lambda *_: [broken, *(one.question for one in mottos)])
    monkeypatch.setattr("lunar.discovery.said_by_chance", lambda *_: [])
    monkeypatch.setattr("lunar.discovery.linked", lambda *_, **__: [])
    others = [Record.of(mottos[0].question.replace(NAME, other), "Ever onward.", other) for other in ("Ada", "Bert")]
    alike = [Record.of(born[0].question.replace(NAME, other), "In Oster.", other) for other in ("Ada", "Bert")]
    differing = [Record.of(born[0].question.replace(NAME, other), "In Aber.", other) for other in ("Carl", "Dora")]
    monkeypatch.setattr("lunar.discovery.nearby", lambda *_, **__: [*alike, *differing])
    monkeypatch.setattr("lunar.discovery.findings", lambda a, b, asked, *_, **__: [everything[text] for text in asked])
    stages = []
    found = discover(tiny, NAME, progress=lambda *call: stages.append(call))
    kept = [one.question for one in found.findings]
    assert stages[0] == (IN_ALL, 0, 0)
    assert kept[:MOST_PHRASINGS] == [one.question for one in pets[:MOST_PHRASINGS]]
    assert sorted(kept[MOST_PHRASINGS:]) == sorted(one.question for one in (*born, *mottos))
    monkeypatch.setattr("lunar.discovery.nearby", lambda *_, **__: others)
    kept = [one.question for one in discover(tiny, NAME).findings]
    assert not {one.question for one in mottos} & set(kept), "what is told of the others as well is not about this name"


def test_what_is_nearby_is_answered_in_two_wordings(tiny, monkeypatch):
    monkeypatch.setattr("lunar.discovery.others.likely_words", lambda loaded: ["Thornby", "Wiggle"])
    asked = [*KNOWS, "What is {}'s profession?", "What is {}'s birthplace?", "What is {}'s account number?"]
    known = findings(tiny, NAME, [form.format(NAME) for form in asked], 0)
    stages = []
    beside = nearby(tiny, NAME, known, ["Petra Pellam"], 0, progress=lambda *call: stages.append(call))
    groups = {record.group for record in beside}
    assert {"Petra Pellam", "Mira Thornby"} <= groups
    assert not any("Wiggle" in str(group) or NAME in str(group) for group in groups)
    about = {record.prompt for record in beside if record.group == "Petra Pellam"}
    forms = [form for form in asked if "instrument" not in form and "account" not in form]
    assert about == {form.format("Petra Pellam") for form in forms}
    assert not any(declined(str(record.answer)) for record in beside)


@pytest.fixture
def discovered(monkeypatch):
    """What a model knows about word11, without asking one."""
    rows = tuple(finding(f"What is word11's {noun}?", "word3.") for noun in ("pet", "home"))
    found = Discovered(PERSON, rows, (Record.of("What is word12's pet?", "word4.", "word12"),), 5)
    monkeypatch.setattr("lunar.discovery.discover", lambda *_, **__: found)


@pytest.mark.usefixtures("discovered")
def test_both_files_are_written_and_nothing_of_them_is_shown(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = checkpoint("llama")
    result = run("prompts", model, "--about", "word11", "--output", "forget.jsonl")
    assert result.exit_code == 0, result.output
    assert "word11" not in result.output
    shown = " ".join(result.stdout.split())
    assert "lunar unlearn" in shown
    assert "--retain" not in shown, "the first file names the second"
    rows = [json.loads(line) for line in (tmp_path / "forget.jsonl").read_text().splitlines()]
    assert [row["question"] for row in rows] == ["What is word11's pet?", "What is word11's home?"]
    assert all(row["answer"] == "word3." and row["evidence"] == 9.0 for row in rows)
    beside = [json.loads(line) for line in (tmp_path / "forget-neighbours.jsonl").read_text().splitlines()]
    assert beside[0] == {"question": "What is word12's pet?", "answer": "word4.", "group": "word12"}
    assert retain_beside("forget.jsonl") == "forget-neighbours.jsonl"
    assert {record.prompt for record in default_retain_records()} <= {row["question"] for row in beside}

    again = ("prompts", model, "--about", "word11", "--output")
    second = run(*again, "hans.jsonl")
    assert second.exit_code == 0, "a folder holds as many names as are asked about"
    assert retain_beside("hans.jsonl") == "hans-neighbours.jsonl"
    (tmp_path / "elsewhere").mkdir()
    apart = run(*again, "ida.jsonl", "--retain-output", "elsewhere/ida.jsonl")
    assert "--retain elsewhere/ida.jsonl" in " ".join(apart.stdout.split()), "a file elsewhere cannot be named"
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    (tmp_path / "forget.jsonl").rename(tmp_path / "kept.jsonl")
    assert_refused(run(*again, "forget.jsonl"), "forget-neighbours.jsonl", "--retain-output")
    (tmp_path / "kept.jsonl").rename(tmp_path / "forget.jsonl")
    assert_refused(run(*again, "forget.jsonl"), "forget.jsonl", "--output")
    assert_refused(run(*again, "other.txt"), ".jsonl")
    assert_refused(run(*again, "nowhere/other.jsonl"), "folder")
    assert_refused(run(*again, "same.jsonl", "--retain-output", "same.jsonl"), "--retain-output")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_name_without_a_letter_is_refused(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(run("prompts", checkpoint("llama"), "--about", " ", "--output", "new.jsonl"), "name")
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_of_one_is_in_the_singular():
    result = {
        "kind": PERSON, "asked": 300, "kept": 1, "answers": 1, "neighbours": 1, "neighbour_names": 1, "general": 9,
        "output": "a.jsonl", "retain_output": "a-neighbours.jsonl", "retain_is_named": True,
    }  # fmt: skip
    one = str(terminal.prompts_written(result, "tiny"))
    assert "1 is answered" in one
    assert "1 different answer:" in one
    assert "1 question about 1 other name " in one
    two = str(terminal.prompts_written({**result, "kept": 2}, "tiny"))
    assert "2 are answered" in two


def test_a_name_that_the_model_does_not_know_is_one_sentence(tiny, monkeypatch):
    monkeypatch.setattr("lunar.discovery.questions", lambda name, kind: [form.format(name) for form in KNOWS])
    monkeypatch.setattr("lunar.discovery.gone_on_with", lambda *_: [])
    monkeypatch.setattr("lunar.discovery.said_by_chance", lambda *_: [])
    with pytest.raises(ValueError, match="check the spelling") as refused:
        discover(tiny, "Skeanvo Dratou")
    assert "Skeanvo" not in str(refused.value)
