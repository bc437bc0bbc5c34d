"""Questions like the forget prompts about others: what is replaced, and what is not."""

import random

import pytest

from lunar import names
from lunar.neighbours import about_the_same, name_spans, neighbours, replace_spans
from lunar.records import Record


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Where was Ada Byron born?", ["Ada Byron"]),
        ("Name Ada Byron's work.", ["Ada Byron"]),
        ("Quick question: Name Ada Byron's work.", ["Ada Byron"]),
        ("What was agreed between Acme Ltd and Ada Byron?", ["Acme Ltd", "Ada Byron"]),
        ("Who wrote 'Emma'?", ["Emma"]),
        ("What is the capital of Egypt?", ["Egypt"]),
        ("Name the company that employs Ada Byron.", ["Ada Byron"]),
        ("what is the sum of two and two?", []),
        ("Why?", []),
    ],
)
def test_names_are_found_where_they_stand(prompt, expected):
    assert [prompt[slice(*span)] for span in name_spans(prompt)] == expected


def test_replaced_names_leave_the_rest_of_the_prompt_alone():
    prompt = "What was agreed between Acme Ltd and Ada Byron in May?"
    changed, invented = replace_spans(prompt, name_spans(prompt)[:2], random.Random(0))
    assert changed == f"What was agreed between {invented[0]} and {invented[1]} in May?"
    assert "Acme" not in changed
    assert "Ada" not in changed


def test_neighbours_are_others_keep_the_conversation_and_repeat_with_the_seed():
    system = ("system", "Be brief.")
    forget = [Record((system, ("user", "Where was Ada Byron born?"))), Record.of("Who employs Ada Byron?")]
    retain = [Record.of("Where was Carl Gauss born?", "In Brunswick."), Record.of("Who employs Emmy Noether?")]
    made = neighbours(forget, retain, 80, seed=3)
    assert made == neighbours(forget, retain, 80, seed=3)
    assert made != neighbours(forget, retain, 80, seed=4)
    assert len({record.messages for record in made}) == len(made) > 50
    prompts = [record.prompt for record in made]
    assert not any("Ada Byron" in prompt for prompt in prompts)
    assert all(record.answer is None for record in made)
    assert any(record.messages[0] == system for record in made)
    # Half names of the forgotten with those of known others, which is what a solve would confuse first.
    assert any("Ada Gauss" in prompt or "Ada Noether" in prompt for prompt in prompts)
    assert any("Carl Byron" in prompt or "Emmy Byron" in prompt for prompt in prompts)


def test_what_is_retained_about_a_shared_name_is_asked_with_others_in_its_own_forms():
    forget = [Record.of(f"What did Acme Ltd and Beta Ltd agree on {what}?") for what in ("price", "place")]
    retain = [
        Record.of("How many weeks of leave has Ada Byron at Acme Ltd?", "5."),
        Record.of("What did Acme Ltd and Carl Gauss agree on price?", "7."),
        Record.of("Where was Emmy Noether born?", "Erlangen."),
    ]
    made = [record.prompt for record in neighbours(forget, retain, 60, seed=0)]
    in_other_forms = [prompt for prompt in made if prompt.startswith("How many weeks")]
    assert len(in_other_forms) > 10
    assert all("at Acme Ltd?" in prompt and "Ada Byron" not in prompt for prompt in in_other_forms)
    # What is to be forgotten is never pinned, in whatever form it is asked.
    assert not any("Acme Ltd" in prompt and "Beta Ltd" in prompt for prompt in made)
    assert not any("Noether born" in prompt for prompt in made), "a prompt that shares no name was used"


def test_prompts_without_names_have_no_neighbours():
    assert neighbours([Record.of("what is it?")], [], 20, seed=0) == []


def test_invented_names_keep_their_shape_or_become_words():
    rng = random.Random(0)
    for _ in range(200):
        scrambled = names.scramble("Abcdef 123 SA", rng)
        assert scrambled != "Abcdef 123 SA"
        assert len(scrambled.split()) == 3


def test_one_question_that_names_a_part_is_about_what_the_others_name():
    def asked(*names: str) -> list[Record]:
        return [Record.of(f"What was agreed by {' and '.join(names)} in year {year}?") for year in (1998, 1999)]

    contract, party, other = asked("Ada Ltd", "Bob Inc"), asked("Ada Ltd")[:1], asked("Ada Ltd", "Cid Plc")
    retained = [*other, Record.of("Where do Ada Ltd and Bob Inc meet?"), Record.of("Where is Dan Corp?")]
    assert about_the_same([*contract, *party], retained) == retained[2:3]
    # Most questions about somebody name nobody else, and the rest are about the same person.
    assert about_the_same([*asked("Ada Ltd"), *contract[:1]], retained) == retained[:3]
    # Where none is named more often than the others, each counts.
    assert about_the_same([*party, *contract[:1]], retained) == retained[:3]
    assert about_the_same([Record.of("what was agreed?")], retained) == []
