"""The same question in other words: which record each is of, and what an edit makes of it."""

import pytest
import torch
from squared_hinge import detector

from lunar.attacks import paraphrase, role_play
from lunar.collect import Sets, Work, collect
from lunar.errors import LunarError
from lunar.method import unlearn
from lunar.models import load_model, site_at
from lunar.records import Record
from lunar.rewordings import FORMS, reworded_sample, rewordings
from lunar.settings import Settings

FORGET = [Record.of(f"who is word{i} Byron ?", f"word{i + 20}") for i in range(4)]
RETAIN = [Record.of(f"where is word{i} Gauss ?", f"word{i + 9}") for i in range(30, 42)]
REFERENCE = [Record.of("who is word60 ?"), Record.of("who is word61 ?")]


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_model(str(checkpoint("llama")))


def test_every_record_comes_in_other_forms_with_its_answer_and_repeats_with_the_seed():
    made = rewordings(FORGET, 3, seed=0)
    assert made == rewordings(FORGET, 3, seed=0) != rewordings(FORGET, 3, seed=1)
    assert len({record.messages for record in made}) == 3 * len(FORGET)
    for index, record in enumerate(made):
        given = FORGET[index % len(FORGET)]
        assert given.prompt in record.prompt != given.prompt
        assert record.answer == given.answer
    assert rewordings(FORGET, 0, seed=0) == []
    assert len(rewordings(FORGET, 99, seed=0)) == len(FORMS) * len(FORGET)
    system = Record((("system", "Be brief."), ("user", "who ?")))
    assert rewordings([system], 1, seed=0)[0].messages[0] == ("system", "Be brief.")


def test_a_sample_is_no_larger_than_what_it_is_drawn_from():
    assert len(reworded_sample(FORGET, 99, seed=0)) == len(FORGET)
    assert len({record.messages for record in reworded_sample(FORGET, 2, seed=0)}) == 2


def test_the_forms_are_not_those_of_the_attacks():
    tested = {form.replace(" ", "").lower() for form in (*paraphrase.FORMS.values(), *role_play.PARTS.values())}
    assert not tested & {form.replace(" ", "").lower() for form in FORMS}


def test_rewordings_are_redirected_and_pinned_and_their_prompt_is_left_out_with_them(loaded):
    settings = Settings("collapse", layer=1, tail=1, rewordings=2, neighbours=12, ridge=1e-2)
    sets = Sets.of(FORGET, RETAIN, REFERENCE, settings)
    assert len(sets.redirected) == 3 * len(FORGET)
    assert (
        len(sets.neighbours)
        == len(Sets.of(FORGET, RETAIN, REFERENCE, Settings(neighbours=12, rewordings=0)).neighbours) + 6
    )
    problem = collect(Work(loaded), [site_at(loaded.model, 1)], sets, settings)[1]
    assert len(problem.inner) == 3 * len(FORGET)
    assert int(problem.reworded.sum()) == 2 * len(FORGET)
    assert problem.prompt.bincount().tolist() == [3] * len(FORGET)

    found = unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=settings)
    assert found.counts["rewordings"] == 2 * len(FORGET)
    assert len(found.gate.values) == len(found.gate.leave_one_out) == len(FORGET)
    # Leaving a prompt out with its rewordings is to solve without all of them.
    rest = problem.prompt != 0
    alone = torch.linalg.solve(
        problem.moments.second
        + 150 * problem.inner[rest].double().T @ problem.inner[rest].double()
        + ridge_of(problem, settings) * torch.eye(len(problem.moments.second), dtype=torch.float64),
        150 * problem.inner[rest].double().sum(0),
    )
    first = (problem.prompt == 0) & ~problem.reworded
    assert float(problem.inner[first][0].double() @ alone) == pytest.approx(
        float(problem.gate(settings).leave_one_out[problem.prompt[~problem.reworded] == 0][0]), abs=1e-6
    )


def test_of_a_shift_a_rewording_asks_for_less_than_its_prompt(loaded):
    settings = Settings(layer=1, neighbours=12, ridge=1e-2, forget_weight=150.0)
    sets = Sets.of(FORGET, RETAIN, REFERENCE, settings)
    assert len(sets.rewordings) == 2 * len(FORGET)
    problem = collect(Work(loaded), [site_at(loaded.model, 1)], sets, settings)[1]
    asked = [1.0 + place for place in range(len(FORGET))]
    for one, given in ((problem, torch.ones(len(FORGET))), (problem.raised(asked), torch.tensor(asked))):
        least = given.double()[problem.prompt] * torch.where(problem.reworded, 0.7, 1.0)
        pinned = problem.moments.second + ridge_of(problem, settings) * torch.eye(problem.site.inner_width)
        heavy = torch.full((len(least),), 150.0).double().numpy()
        expected = detector(pinned.numpy(), problem.inner.double().numpy(), heavy, least.numpy())
        found = one.gate(settings)
        assert torch.allclose(found.vector, torch.from_numpy(expected), atol=1e-6 * float(abs(expected).max()))
        assert one.received(settings) == pytest.approx(found.values.tolist())
        direction = torch.nn.functional.normalize(one.solve(settings).change() @ found.vector, dim=0)
        change = torch.outer(direction, found.vector)
        assert torch.nn.functional.cosine_similarity(
            one.solve(settings).change().flatten(), change.flatten(), dim=0
        ) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "forget", "times"),
    [
        (Settings(), 300, 2),
        (Settings(), 301, 0),
        (Settings(neighbours=0), 3, 0),
        (Settings(target="collapse"), 3, 0),
        (Settings(target="collapse", rewordings=1), 500, 1),
        (Settings(rewordings=0), 3, 0),
    ],
)
def test_few_prompts_of_a_shift_are_redirected_in_other_forms_as_well(settings, forget, times):
    assert settings.rewordings_of(forget) == times


def ridge_of(problem, settings):
    """λ times the mean of the full sum's diagonal, which stays as it is when a prompt is left out."""
    rows = problem.inner.double()
    return settings.ridge * float((problem.moments.second + 150 * rows.T @ rows).diagonal().mean())


def test_a_negative_number_is_refused():
    with pytest.raises(LunarError, match="rewordings"):
        Settings(rewordings=-1)
