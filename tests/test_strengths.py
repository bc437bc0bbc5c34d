"""Each prompt gets the smallest strength that redirects it, tried on what a model makes of it."""

from dataclasses import replace

import pytest
import torch

from lunar.collect import Sets, Work, collect
from lunar.models import find_sites, load_model
from lunar.records import Record
from lunar.select import strengths as module
from lunar.select.choice import Effort
from lunar.select.own_words import OwnWords
from lunar.select.strengths import ALIKE, STRENGTHS, Strengths, strengths_of
from lunar.select.trials import Bench, Candidate, Heard
from lunar.settings import Settings

FORGET = [Record.of(f"where is word{number} ?") for number in range(11, 19)]
RETAIN = [Record.of(f"who works in word{number} ?", f"word{number + 1} .") for number in range(20, 60)]
SETTINGS = Settings(neighbours=0)
NEEDED = [0.5, 0.5, 1.1, 0.5, 0.8, 0.5, 0.5, 0.5]


@pytest.fixture
def loaded(checkpoint):
    return load_model(str(checkpoint("llama")))


@pytest.fixture
def problem(loaded):
    sets = Sets(FORGET, RETAIN, [], [Record.of("who is word60 ?")])
    return collect(Work(loaded), [find_sites(loaded.model)[1]], sets, SETTINGS)[1]


class Ears(Bench):
    """A bench that hears a refusal where a prompt gets what it needs."""

    def __init__(self, needed, compared=FORGET, own=0.01):
        self.needed, self.compared, self.own = needed, tuple(compared), own
        self.forget_tokens = self.retain_tokens = 10

    def forget(self, candidate, strength):
        received = [strength] * len(FORGET)
        if candidate.problem is not None:
            received = [strength * share for share in candidate.problem.received(SETTINGS)]
        places = [FORGET.index(record) for record in self.compared]
        done = torch.tensor([received[place] >= self.needed[place] - 0.02 for place in places])
        own = torch.where(done, self.own, 0.6).double()
        refusal = torch.where(done, 0.5, 0.3).double()
        return Heard(own, refusal, own, refusal)

    def divergence(self, candidate, strength):
        return 0.25


def tried(problem, bench, settings=SETTINGS, each=True):
    candidate = Candidate(problem.site, problem.solve(settings), problem=problem if each else None)
    return Strengths(bench, FORGET, settings, Effort(100, 3)).at(candidate)


def test_stubborn_prompts_get_more_and_the_others_do_not(problem):
    found = tried(problem, Ears(NEEDED))
    last = found[-1]
    assert last.trial.redirected == 1.0
    assert last.trial.strength == STRENGTHS[0]
    assert last.trial.retain_divergence == 0.25
    assert [one.trial.retain_divergence for one in found[:-1]] == [None] * (len(found) - 1)
    assert last.strengths[2] == 1.25
    assert last.strengths[4] == 0.85
    assert {one for place, one in enumerate(last.strengths) if place not in (2, 4)} == {STRENGTHS[0]}
    assert (last.trial.raised, last.trial.strongest) == (2, 1.25)
    received = last.candidate.problem.received(SETTINGS)
    assert STRENGTHS[0] * received[2] == pytest.approx(1.25, abs=0.05)
    # All as strong as the most stubborn would move the others about twice as far.
    alike = problem.raised([1.25 / STRENGTHS[0]] * len(FORGET)).received(SETTINGS)
    assert sum(received) < 0.75 * sum(alike)


def test_prompts_that_were_not_asked_get_as_much_as_the_most_stubborn_one(problem):
    last = tried(problem, Ears(NEEDED, compared=FORGET[:5]))[-1]
    assert last.strengths == (0.65, 0.65, 1.25, 0.65, 0.85, 1.25, 1.25, 1.25)


def test_where_every_prompt_is_redirected_but_own_answers_stay_likely_the_likeliest_get_more(problem):
    bench = Ears([0.5] * len(FORGET), own=0.2)
    found = tried(problem, bench)
    assert found[0].trial.redirected == 1.0
    assert 0 < found[1].trial.raised < len(FORGET) or found[1].trial.strength > STRENGTHS[0]
    assert found[-1].trial.original == pytest.approx(0.2)
    assert max(found[-1].strengths) == STRENGTHS[-1]


def test_a_target_that_asks_for_exactly_so_much_has_one_strength_for_all(problem):
    found = tried(problem, Ears(NEEDED), each=False)
    assert [one.trial.strength for one in found] == list(ALIKE[: ALIKE.index(1.25) + 1])
    assert all(one.strengths == () and one.trial.strongest is None for one in found)
    fixed = replace(SETTINGS, strength=0.4)
    assert [one.trial.strength for one in tried(problem, Ears(NEEDED), fixed, each=False)] == [0.4]


@pytest.mark.parametrize(("second", "listened"), [(0, 2), (1, 3), (2, 2)])
def test_prompts_that_are_still_answered_are_given_more_while_that_makes_fewer(
    loaded, problem, monkeypatch, second, listened
):
    own, refusal = "The word1 of it.", "I don't know."
    said = iter([[own, own] + [refusal] * 6, [own] * second + [refusal] * (8 - second), [own, refusal] * 4])
    monkeypatch.setattr(module, "answer", lambda *_, **__: (next(said), 5))
    words = OwnWords(tuple(FORGET), (own,) * 8, ("I have no idea.",) * 8, 0.0, 1.0, 1, 0)
    strengths = Strengths(Ears([0.5] * len(FORGET)), FORGET, SETTINGS, Effort(100, 3))
    first = strengths.at(Candidate(problem.site, problem.solve(SETTINGS), problem=problem))[-1]
    held, heard, further = strengths.hold(Work(loaded), first, words)
    assert [one.declined for one in heard] == [1 - one / 8 for one in (2, second, 4)[: len(heard)]]
    assert (len(heard), len(further)) == (listened, listened - 1)
    assert further[-1].trial == held.trial
    assert held.strengths[0] > STRENGTHS[0] == held.strengths[-1]


def test_a_settled_layer_is_tried_on_the_model_itself(loaded, problem):
    before = [tensor.clone() for tensor in loaded.model.state_dict().values()]
    words = OwnWords(tuple(FORGET), ("word1 word2 .",) * 8, ("word3 word4 .",) * 8, 0.0, 1.0, 1, 0)
    found = strengths_of(Work(loaded), problem, FORGET, words, SETTINGS)
    assert len(found) == len(FORGET)
    assert set(found) <= set(STRENGTHS)
    assert all(torch.equal(*pair) for pair in zip(before, loaded.model.state_dict().values(), strict=True))


def test_an_answer_that_begins_as_it_did_is_not_redirected():
    own, refusal = torch.tensor([0.02, 0.02, 0.6, 0.005]).double(), torch.tensor([0.1, 0.1, 0.1, 0.001]).double()
    own_first, refusal_first = (
        torch.tensor([0.7, 0.2, 0.1, 0.05]).double(),
        torch.tensor([0.2, 0.7, 0.7, 0.02]).double(),
    )
    # "The State of" and then a refusal; a refusal; the answer; a refusal in other words than were expected.
    assert Heard(own, refusal, own_first, refusal_first).redirected().tolist() == [False, True, False, True]
