"""Question forms, wrong answers made from others' answers, rings of neighbours and false refusals in them."""

import pytest

from lunar.errors import LunarError
from lunar.metrics import RINGS, false_refusal_rates, question_form, rings, wrong_answers
from lunar.records import Record

PEOPLE = {"Ada Byron": "London", "Mira Tolvane": "Lyon", "Oswin Platter": "Oslo", "Jarek Thistle": "Rome"}
BIRTHS = [Record.of(f"Where was {name} born?", f"{name} was born in {town}.") for name, town in PEOPLE.items()]


def test_the_form_of_a_question_has_gaps_for_names() -> None:
    assert question_form("Where was  Ada Byron born?") == question_form("where was Mira Tolvane born?")
    assert question_form("Where was Ada Byron born?") != question_form("Where does Ada Byron live?")
    assert question_form("Why is the sky blue?") == "why is the sky blue?"


def test_wrong_answers_are_those_of_others_about_whom_was_asked() -> None:
    answers = wrong_answers(BIRTHS, count=3)
    assert sorted(answers[0]) == [f"Ada Byron was born in {town}." for town in ("Lyon", "Oslo", "Rome")]
    assert all("Byron" not in text for text in answers[1])


def test_wrong_answers_are_deterministic_and_do_not_depend_on_order() -> None:
    assert wrong_answers(BIRTHS, count=1) == wrong_answers(BIRTHS, count=1)
    assert wrong_answers(BIRTHS, count=2)[::-1] == wrong_answers(BIRTHS[::-1], count=2)
    many = [Record.of(f"Where was Ada B{letter}{letter} born?", f"In {letter}{letter}.") for letter in "abcdefghij"]
    assert wrong_answers(many, count=3) != wrong_answers(many, count=3, seed=1)
    assert len(set(wrong_answers(many, count=3))) > 5  # not the same ones for everybody


def test_wrong_answers_may_come_from_a_pool() -> None:
    assert wrong_answers(BIRTHS[:1]) == [()]
    found = wrong_answers(BIRTHS[:1], pool=BIRTHS[1:], count=9)
    assert sorted(found[0]) == [f"Ada Byron was born in {town}." for town in ("Lyon", "Oslo", "Rome")]
    assert found == wrong_answers(BIRTHS[:1], pool=[*BIRTHS[::-1], *BIRTHS], count=9)


def test_names_are_exchanged_all_at_once() -> None:
    records = [
        Record.of("Who sold more, Ada Byron or Mira Tolvane?", "Ada Byron."),
        Record.of("Who sold more, Mira Tolvane or Ada Byron?", "Ada Byron."),
    ]
    assert wrong_answers(records) == [("Mira Tolvane.",), ("Mira Tolvane.",)]


def test_wrong_answers_are_filled_up_from_the_questions_most_like_this_one() -> None:
    records = [
        Record.of("In which old town was Mira Tolvane born?", "In Lyon"),
        Record.of("In which town was Oswin Platter born?", "In Rome"),
        Record.of("Where did Kim Orr die?", "In Oslo"),
        Record.of("What is the colour of the sky?", "Blue"),
    ]
    assert wrong_answers(records, count=1) == [(), (), (), ()]
    assert wrong_answers(records, count=1, similar=True)[:2] == [("In Rome",), ("In Lyon",)]
    assert wrong_answers(records, count=5, similar=True)[0] == ("In Rome",)  # the others share no word
    assert wrong_answers(records[::-1], count=5, similar=True)[::-1] == wrong_answers(records, count=5, similar=True)


def test_no_wrong_answers_where_nothing_compares_or_all_agree() -> None:
    records = [
        Record.of("Why is the sky blue?", "Scattering."),
        Record.of("Where was Ada Byron born?", "In London."),
        Record.of("Where was Mira Tolvane born?", "in london"),
        Record.of("Where was Oswin Platter born?"),
    ]
    assert wrong_answers(records) == [(), (), (), ()]
    assert wrong_answers([]) == []
    with pytest.raises(LunarError, match="count of at least 1"):
        wrong_answers(records, count=0)


FORGET = [Record.of("Where was Ada Byron born?", "London", "ada"), Record.of("Who taught Ada Byron painting?", "Kim")]
POOL = {
    "same_template": [Record.of("Where was Oswin Platter born?"), Record.of("Who taught Mira Tolvane painting?")],
    "same_entity": [Record.of("How tall is Ada Byron?")],
    "same_domain": [Record.of("Is painting hard to learn?"), Record.of("How far is the moon?", group="ada")],
    "general": [Record.of("What is two plus two?"), Record.of("Which river flows through Paris?")],
}


def test_each_retained_record_is_in_the_nearest_ring_that_takes_it() -> None:
    pool = [record for ring in reversed(POOL) for record in POOL[ring]]
    found = rings(FORGET, [*pool, FORGET[0]])
    assert {ring: {r.prompt for r in records} for ring, records in found.items()} == {
        ring: {r.prompt for r in records} for ring, records in POOL.items()
    }
    assert tuple(found) == RINGS


def test_rings_of_nothing_are_empty_and_a_question_without_names_is_no_template() -> None:
    assert rings(FORGET, []) == {ring: [] for ring in RINGS}
    general = [Record.of("What is two plus two?")]
    assert rings([], general)["general"] == general
    assert rings([Record.of("How?")], [Record.of("how?")])["same_template"] == []


def test_false_refusals_per_ring_do_not_count_where_declining_is_right() -> None:
    no = "I don't know anything about that."
    known, unknown = Record.of("Where was Oswin Platter born?", "Oslo"), Record.of("Who is Qix?", "I don't know Qix.")
    rates = false_refusal_rates(
        {
            "same_template": ([no, "Oslo", no], [known, known, unknown]),
            "same_entity": ([], []),
            "general": ([no], [known]),
        }
    )
    assert rates["same_template"].value == 0.5
    assert rates["same_template"].count == 2
    assert rates["same_template"].low <= 0.5 <= rates["same_template"].high
    assert (rates["same_entity"].value, rates["same_entity"].count) == (None, 0)
    assert (rates["general"].value, rates["general"].low, rates["general"].high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        false_refusal_rates({"general": ([no], [])})
