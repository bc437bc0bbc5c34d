"""The search for layer and strength: what it counts, holds out, prefers, refuses, and that it leaves no trace."""

import io
import json
import random
import re
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from rich.console import Console

from lunar.collect import Problem, Sets, Work
from lunar.errors import LunarError
from lunar.method import unlearn
from lunar.models import Site, find_sites, load_model
from lunar.records import Record
from lunar.report import terminal
from lunar.select import search
from lunar.select.choice import Choice, Effort
from lunar.select.feasible import check_separable, check_words
from lunar.select.holdout import hold_out
from lunar.select.own_words import OwnWords, exchange
from lunar.select.profile import LayerProfile, ranked
from lunar.select.search import choose
from lunar.select.strengths import Strengths
from lunar.select.trials import Bench, Trial
from lunar.select.verdict import judge, ordered, reason
from lunar.settings import Settings
from lunar.tiny import world

FORGET = [Record.of(f"where is word{number} ?") for number in range(11, 17)]
RETAIN = [Record.of(f"who works in word{number} ?", f"word{number + 1} .") for number in range(20, 32)]
REFERENCE = [Record.of("who is word40 ?"), Record.of("what is the word41 of word42 ?")]
BASE = Trial(0, "shift", 150.0, 1.0, 0.01, 0.5, 1.0, 0.02)


def line(layer, share):
    return LayerProfile(layer, share, 0.1, 0.8, 0.5, 1.0)


def words(**changes):
    given = {"forget_declined": 0.0, "reference_declined": 1.0, "references": 24}
    return OwnWords(
        (FORGET[0],) * 12, ("She plays the harp.",) * 12, ("I don't know her.",) * 12, tokens=9, **(given | changes)
    )


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma", "gpt2"])
@pytest.mark.parametrize("target", ["shift", "collapse"])
def test_a_choice_tries_layers_counts_its_cost_and_leaves_the_model_alone(checkpoint, architecture, target):
    loaded = load_model(str(checkpoint(architecture)))
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    found = unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=Settings(target=target, neighbours=0))
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    choice = found.choice
    assert choice is not None
    assert (choice.layer, choice.strength) == (found.site.layer, found.edit.settings["strength"])
    assert [one.layer for one in choice.profile] == [site.layer for site in find_sites(loaded.model)]
    assert {trial.layer for trial in choice.trials} <= {0, 1, 2}
    assert choice.held_out == 2
    # So few prompts cost little to read, and to try again and again that of a random model, which declines nothing.
    assert 1 < choice.passes < 12
    assert f"Layer {choice.layer}" in choice.reason
    assert not re.search(r"\bword\d", json.dumps(choice.as_dict())), "prompts or answers are in the choice"
    again = choose(loaded, FORGET, RETAIN, REFERENCE, Settings(target=target, neighbours=0))
    assert again == choice
    # What the choice found is what the same layer and strength give without a search.
    place = {"layer": choice.layer, "strength": choice.strength, "strengths": choice.strengths}
    settings = Settings(target=target, neighbours=0, **place)
    plain = unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=settings)
    assert plain.choice is None
    assert torch.equal(plain.edit.factors[0].write, found.edit.factors[0].write)


def test_a_strength_that_is_set_is_the_only_one_tried(checkpoint):
    loaded = load_model(str(checkpoint("llama")))
    choice = choose(loaded, FORGET, RETAIN, REFERENCE, Settings(strength=0.3, neighbours=0))
    assert {trial.strength for trial in choice.trials} == {choice.strength} == {0.3}
    chosen = choose(loaded, FORGET, RETAIN, REFERENCE, Settings(neighbours=0), most=1)
    assert len({trial.layer for trial in chosen.trials}) == 1


def test_the_papers_selector_listens_at_every_layer(checkpoint):
    loaded = load_model(str(checkpoint("gpt2")))
    before = [tensor.clone() for tensor in loaded.model.state_dict().values()]
    choice = choose(loaded, FORGET, RETAIN, REFERENCE, Settings(layer="paper"))
    assert choice.selector == "paper"
    assert [one.layer for one in choice.likeness] == [0, 1, 2]
    assert choice.layer == max(choice.likeness, key=lambda one: (round(one.score, 3), -one.layer)).layer
    assert all(torch.equal(one, two) for one, two in zip(before, loaded.model.state_dict().values(), strict=True))
    with pytest.raises(LunarError, match="auto, paper"):
        Settings(layer="papre")


def test_whole_groups_are_held_out_where_they_are_small_and_nothing_is_lost():
    small = [Record.of(f"question {group} {number}", None, f"g{group}") for group in range(20) for number in range(5)]
    large = [Record.of(f"fact {number}", None, "facts") for number in range(100)]
    loose = [Record.of(f"loose {number}") for number in range(20)]
    everything = [*small, *large, *loose]
    kept, held = hold_out(everything, seed=3)
    assert sorted(record.prompt for record in [*kept, *held]) == sorted(record.prompt for record in everything)
    assert not {r.group for r in held if r in small} & {r.group for r in kept if r in small}
    for part in (small, large, loose):
        assert sum(record in part for record in held) == len(part) // 5
    assert hold_out(everything, seed=3) == (kept, held)
    assert hold_out(everything, seed=4) != (kept, held)
    assert hold_out(small[:1], seed=0) == (small[:1], small[:1])
    assert len(hold_out(loose[:2], seed=0)[1]) == 1


def test_what_redirects_and_spares_most_comes_first_and_ties_go_to_the_lower_layer():
    weak = replace(BASE, layer=3, redirected=0.5, retain_divergence=0.0)
    half = replace(BASE, layer=4, redirected=0.95, retain_divergence=0.001)
    dear, near = replace(BASE, layer=1, retain_divergence=0.2), replace(BASE, layer=2, retain_divergence=0.0195)
    unmeasured = replace(BASE, layer=5, retain_divergence=None)
    trials = [weak, near, dear, BASE, half, unmeasured]
    assert [one.layer for one in ordered(trials)] == [0, 2, 1, 4, 3]
    # What built-in prompts say of what a layer spares is not asked for.
    assert [one.layer for one in ordered(trials, covered=False)] == [0, 1, 2, 4, 3]


def test_the_reason_says_why_a_layer_with_a_smaller_divergence_was_not_taken():
    lines = (line(0, 0.9), line(1, 0.9))
    taken, better = replace(BASE, layer=0, retain_divergence=0.0008), replace(BASE, layer=1, retain_divergence=0.0004)
    assert ordered([taken, better])[0] is taken
    assert "lowest that redirects" in reason(taken, [taken, better], lines, [], covered=False)
    assert "lower layer is taken" in reason(taken, [taken, better], lines, [])
    worse = replace(better, retain_divergence=0.3)
    assert "has 0.3000." in reason(taken, [taken, worse], lines, [])
    partly = replace(better, redirected=0.95)
    assert "layer 1, redirects 95%" in reason(taken, [taken, partly], lines, [])


def test_layers_are_ranked_by_separability_to_two_digits():
    assert [one.layer for one in ranked([line(0, 0.80), line(1, 0.951), line(2, 0.953)])] == [1, 2, 0]


def test_what_cannot_be_done_is_refused_with_its_figure_and_a_warning_where_the_evidence_is_thin():
    with pytest.raises(LunarError, match="54%"):
        check_separable([line(0, 0.51), line(1, 0.54)], 20, 100)
    assert len(check_separable([line(0, 0.54)], 4, 100)) == 1
    assert check_separable([line(0, 0.54), line(1, 0.7)], 20, 100) == []
    with pytest.raises(LunarError, match="only 10% of 24"):
        check_words(words(reference_declined=0.1))
    assert len(check_words(words(reference_declined=0.0, references=2))) == 1
    with pytest.raises(LunarError, match="declines 90% of the 12"):
        check_words(words(forget_declined=0.9))
    assert check_words(words()) == []


def test_a_generation_confirms_only_refusals_that_give_nothing_away():
    asked = words()
    for answer, passed in (("I don't know her.", True), ("I don't know, but the harp.", False), ("The the.", False)):
        assert judge(BASE, [answer] * 12, asked).passed is passed, answer
    assert not judge(replace(BASE, redirected=0.5), ["I don't know her."] * 12, asked).passed


def test_names_are_put_back_also_where_the_model_misspells_them():
    text = exchange("I know nothing of Zorb Quixely or Plim Ltd.", ["Zorb Quix", "Plim Ltd"], ["Ada Byron", "Acme SA"])
    assert text == "I know nothing of Ada Byron or Acme SA."
    assert exchange("I know nothing.", ["Zorb"], []) == "I know nothing."


def test_effort_counts_full_passes():
    effort = Effort(100, 4)
    effort.add(100, 4)
    effort.add(50, 2)
    assert effort.spent == 1.25


def test_on_the_embedded_model_the_choice_is_confirmed_within_its_bar(monkeypatch):
    tiny, people = load_model("tiny"), world.build().people
    person, *others = list(people)[1:7]
    forget = [Record(record.messages) for fact in people[person] for record in fact.records(held_out=False)[:2]]
    retain = [record for name in others for fact in people[name] for record in fact.records(held_out=False)[:2]]
    reference = [Record(world.unknown(random.Random(number)).messages) for number in range(40)]
    found = choose(tiny, forget, retain, reference, Settings(neighbours=100))
    assert isinstance(found, Choice)
    assert found.warnings == ()
    assert found.confirmations[-1].passed
    assert found.passes <= 4
    # A set that is the model's own unknown, and one that is no different from what is to stay, are refused.
    strangers = [Record(world.unknown(random.Random(number)).messages) for number in range(60, 72)]
    with pytest.raises(LunarError, match="already"):
        choose(tiny, strangers, retain, reference, Settings(neighbours=0))
    looked = choose(tiny, strangers, retain, reference, Settings(neighbours=0), refuse=False, most=1)
    assert len(looked.obstacles) == 1
    assert "already" in looked.obstacles[0]
    shown = Console(width=100, file=io.StringIO())
    shown.print(terminal.inspected(looked.as_dict(), None))
    text = shown.file.getvalue()
    assert "unlearn would refuse" in text
    assert "yes" not in text, "a layer is marked as chosen that would not be"
    with pytest.raises(LunarError, match="declines only"):
        choose(tiny, forget, retain[::2], retain[1::2], Settings(neighbours=0))
    monkeypatch.setattr(search, "MOST_PASSES", 0.0)
    hurried = choose(tiny, forget, retain, reference, Settings(neighbours=0))
    assert len({trial.layer for trial in hurried.trials}) == 1
    assert any("not tried" in warning for warning in hurried.warnings)


def test_layers_that_would_cost_too_much_are_not_tried_after_a_refusal_either(monkeypatch):
    tried = []

    def refused(work, sets, problem, settings, effort):
        tried.append(problem.site.layer)
        effort.add(*search._building(work, sets, problem.site))
        raise LunarError("No flags stand out.")

    monkeypatch.setattr(search, "_candidate", refused)
    work = Mock(spec=Work, tokens=lambda *sets: 100 * len(sets))
    problems = [Mock(spec=Problem, site=Mock(spec=Site, layer=layer)) for layer in range(3)]
    gated, effort = Settings(target="gated"), Effort(400, 6, spent=1.5)
    # Six hundred tokens in two, three and four of six layers are 0.5, 0.75 and 1.0 passes.
    with pytest.raises(LunarError, match=r"No flags stand out\. Layer 2 was not tried: .* 2\.8 passes"):
        search._tried(work, Strengths(Mock(spec=Bench), (), gated, effort), Sets((), (), (), ()), problems)
    assert tried == [0, 1]
