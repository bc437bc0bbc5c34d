"""Attacks that choose between answers, ask for names or tell who was forgotten: they can succeed, and find nobody."""

import pytest
import torch
from conftest import GATED, tiny_tokenizer
from test_attacks import FORGET as PLAIN
from test_attacks import train
from transformers import LlamaConfig, LlamaForCausalLM

from lunar import evaluation
from lunar.attacks import ATTACKS, BUDGETS, Budget, Finding, run_attacks
from lunar.attacks.choices import choices_of
from lunar.attacks.cloze import GAP, hidden, shown_words, with_gaps
from lunar.attacks.invented import Strangers, about_strangers, renamed
from lunar.attacks.multiple_choice import by_letter
from lunar.attacks.probe import Probe
from lunar.attacks.recognise import told
from lunar.attacks.residuals import Residuals, read_out, telling_tokens
from lunar.attacks.reversal import FORMS as REVERSED
from lunar.attacks.reversal import turned
from lunar.attacks.verdict import verdict
from lunar.attacks.yes_no import FORMS as YES_NO
from lunar.attacks.yes_no import asked_about
from lunar.edit import Edit
from lunar.method import unlearn
from lunar.models import LoadedModel, load_model
from lunar.prompts import encode_all
from lunar.records import Record
from lunar.settings import Settings
from lunar.tiny import world

EVERYBODY = [[fact.records(held_out=False)[0] for fact in facts] for facts in world.build().people.values()]
PEOPLE = EVERYBODY[:25:5]
FORGET = PEOPLE[0]
# One question about each of the others, so that no stranger is somebody whom the model knows.
RETAIN = [record for facts in PEOPLE[1:] for record in facts] + [one[0] for one in EVERYBODY if one not in PEOPLE]
OWN = world.everyone()[0]
NAMED = world.everyone()[:25:5]
NOBODY = [
    name
    for name in (f"{one.split()[0]} {other.split()[1]}" for one in NAMED for other in NAMED)
    if name not in world.everyone()
][:2]
"""Of the halves of known names, as the strangers are that they are compared with."""
CHOOSING = ("multiple-choice", "lens")


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGETS, "quick", Budget(20, 1, 2, (1.0,), (1,), 2))
    monkeypatch.setattr(evaluation, "SHORTEST_LIMIT", 16)


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model("tiny")


@pytest.fixture(scope="module")
def edit(tiny: LoadedModel) -> Edit:
    """It moves the last prompt token at layer 0, and what the model makes of other tokens stays."""
    asked = [Record(record.messages) for record in FORGET]
    return unlearn(tiny, asked, retain=RETAIN, settings=Settings(layer=0, neighbours=50)).edit


def never_known() -> list[Record]:
    """Questions about people who do not exist, with other people's answers."""
    return [
        Record.of(one.prompt.replace(OWN, person), PEOPLE[other][place].answer)
        for other, person in enumerate(NOBODY, 2)
        for place, one in enumerate(FORGET)
    ]


def found(loaded: LoadedModel, other: LoadedModel | Edit, forget: list[Record], *names: str) -> dict[str, Finding]:
    ladder = run_attacks(loaded, other, forget, RETAIN, list(names))
    for one in ladder.findings:
        assert one.not_run is None, (one.attack, one.not_run)
    return {one.attack: one for one in ladder.findings}


def excess(finding: Finding) -> tuple[float, float]:
    """Its value and the lower end of its interval."""
    assert finding.excess is not None
    assert finding.excess.value is not None
    assert finding.excess.low is not None
    return finding.excess.value, finding.excess.low


def test_choices_find_what_an_edit_hides(tiny: LoadedModel, edit: Edit) -> None:
    finding = found(tiny, edit, FORGET, "multiple-choice")["multiple-choice"]
    assert excess(finding)[1] > 0
    assert finding.recovery is not None
    assert (finding.unlearned, finding.retain, finding.survives) == (None, None, True)


def test_choices_show_what_the_original_knows(tiny: LoadedModel) -> None:
    for name, finding in found(tiny, tiny, FORGET, *CHOOSING).items():
        assert excess(finding)[1] > 0.1, name


def test_choices_show_nothing_about_nobody(tiny: LoadedModel) -> None:
    """Also not with the answers of others, of the right form and as likely for anybody."""
    for name, finding in found(tiny, tiny, never_known(), *CHOOSING).items():
        assert excess(finding)[1] <= 0.1, name


def test_an_outsider_tells_the_forgotten_only_where_they_differ(tiny: LoadedModel, edit: Edit) -> None:
    known = found(tiny, tiny, FORGET, "recognise")["recognise"]  # it answers, and declines about strangers
    assert known.forget is not None
    assert (known.forget.value or 0) > 0.8
    assert not known.counts
    nobody = found(tiny, tiny, never_known(), "recognise")["recognise"]
    assert excess(nobody)[1] <= 0.1
    ladder = run_attacks(tiny, edit, FORGET, RETAIN, ["recognise"])
    assert verdict(ladder).startswith("No attack could be carried out"), "it brings nothing back"
    sure = [(2.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0)]
    others = [[(1.0, 0.0, 0.0, 0.0), (3.0, 0.0, 0.0, 1.0)], []]
    assert told(sure, others, 0, 1) == [0.5, None]
    assert told(sure, others, 3, -1) == [0.25, None]


# Yes and no, and the names for an answer: a model that was taught to reply to them

NAMES = ("Ada", "Ben", "Cora")


@pytest.fixture(scope="module")
def reader() -> tuple[LoadedModel, list[Record]]:
    """A model that knows where three people live, and says so in all forms."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([*NAMES, "Yes", "No", "____", "name", "missing", "whom"])
    config = GATED | {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 256, "vocab_size": 112}
    torch.manual_seed(0)
    loaded = LoadedModel(LlamaForCausalLM(LlamaConfig(**config)).eval(), tokenizer, "reader")
    records = [Record.of(f"where is {name} ?", f"in the city word{place} .") for place, name in enumerate(NAMES)]
    choices = [one for one in choices_of(records, records, 0) if one is not None]
    said = [
        Record(asked_about(one.record, form, option).messages, "No" if place else "Yes")
        for form in YES_NO.values()
        for one in choices
        for place, option in enumerate(one.options)
    ]
    train(loaded, [*records, *said, *(turned(one, form) for form in REVERSED.values() for one in records)], 400)
    return loaded, records


@pytest.mark.parametrize("name", ["yes-no", "reversal"])
def test_a_model_that_can_reply_gives_itself_away(reader: tuple[LoadedModel, list[Record]], name: str) -> None:
    loaded, records = reader
    finding = run_attacks(loaded, loaded, records[:2], records[2:], [name]).findings[0]
    assert finding.forget is not None
    assert finding.forget.value == 1
    assert finding.original == 1


def test_asking_for_names_needs_names() -> None:
    one = ATTACKS["reversal"]
    assert one.unit == "recall of names"
    record = Record.of("Where does Ada Bell live with Ben Roe?", "Ada Bell lives in Lyon.")
    asked = turned(record, REVERSED["missing"])
    assert asked.answer == "Ada Bell, Ben Roe"
    assert not any(word in asked.prompt for word in ("Ada", "Bell", "Roe"))
    assert "Lyon" in asked.prompt
    assert turned(PLAIN[0], REVERSED["missing"]).answer is None


# What they are made of


def test_strangers_are_nobody_and_look_like_somebody() -> None:
    strangers = Strangers([*FORGET, *RETAIN], 0)
    made = [strangers.instead(FORGET[0], number) for number in range(4)]
    assert made == [strangers.instead(FORGET[0], number) for number in range(4)]
    assert len({one[OWN] for one in made}) > 1
    halves = {word for person in world.everyone() for word in person.split()}
    for one in made:
        assert one[OWN] not in world.everyone()
        assert set(one[OWN].split()) <= halves
        asked = about_strangers(FORGET[0], one)
        assert OWN not in asked.prompt
        assert one[OWN] in asked.prompt
        assert asked.answer is None
    assert renamed("Ada Bell and Bell", {"Ada Bell": "Cora Dahl"}) == "Cora Dahl and Dahl"
    assert strangers.instead(PLAIN[0], 0) == {}


def test_gaps_hide_what_neither_the_question_nor_most_answers_say() -> None:
    records = [Record.of(f"Where was {name} born?", f"{name} came from {town}.") for name, town in
               (("Ada", "Lyon"), ("Ben", "Riga"), ("Cora", "Bonn"))]  # fmt: skip
    (shown, *_) = shown_words(records, records, 0)
    assert with_gaps("Ada came from Lyon.", shown) == f"Ada came from {GAP}"
    assert hidden("Ada came from Lyon.", shown) == "Lyon."
    assert with_gaps("in New York here", frozenset({"in", "here"})) == f"in {GAP} here"
    assert with_gaps("Ada", shown) == GAP


def test_letters_are_given_in_an_order_that_does_not_tell(tiny: LoadedModel) -> None:
    choices = [one for one in choices_of(RETAIN, RETAIN, 0) if one is not None]
    ratings = by_letter(tiny, choices[:8])
    assert [len(one) for one in ratings] == [len(one.options) for one in choices[:8]]
    # The tiny model knows no letters: what it prefers is not always where the right answer stands.
    assert {one.index(max(one)) for one in ratings} != {0}


def test_the_lens_of_the_last_layer_is_the_model(tiny: LoadedModel) -> None:
    choices = [one for one in choices_of(FORGET, RETAIN, 0) if one is not None]
    sequences, _ = telling_tokens(tiny, choices)
    residuals = Residuals(tiny)
    rows, tokens = residuals.at(choices, residuals.sites[-1].layer)
    logits = read_out(tiny, rows)
    prompts = encode_all(tiny.tokenizer, FORGET, with_answer=False, context_length=None, name="test")
    for sequence, several, row, prompt in zip(sequences, tokens, logits, prompts, strict=True):
        with torch.no_grad():
            direct = tiny.model(torch.tensor([sequence.tokens])).logits[0, -1]
        assert torch.allclose(row, direct, atol=1e-3)
        assert sequence.tokens[: len(prompt.tokens)] == prompt.tokens
        assert len(set(several)) > 1


def test_a_probe_reads_what_is_linear_and_nothing_from_noise() -> None:
    rows, weight, others = torch.randn(200, 16), torch.randn(16, 8), torch.randn(50, 16)
    assert (Probe.fit(rows, rows @ weight).read(others) - others @ weight).abs().mean() < 0.6
    noise = Probe.fit(rows, torch.randn(200, 8)).read(others)
    assert torch.nn.functional.cosine_similarity(noise, others @ weight).mean().abs() < 0.3
