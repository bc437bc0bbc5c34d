"""What redirected rows are asked for: the parts add up, and arriving there means arriving at the reference mean."""

import pytest
import torch

from lunar import targets
from lunar.errors import LunarError
from lunar.targets import Term

POSITIONS, ROWS, WIDTH = 3, 14, 6


def example(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(POSITIONS, WIDTH, generator=generator, dtype=torch.float64)
    residual = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64) + 2
    position = torch.randint(0, POSITIONS, (ROWS,), generator=generator)
    position[:POSITIONS] = torch.arange(POSITIONS)
    return mean, residual, position, torch.rand(ROWS, generator=generator, dtype=torch.float64) + 0.1


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_collapse_moves_every_row_onto_the_reference_mean_of_its_position(seed: int) -> None:
    mean, residual, position, weights = example(seed)
    (term,) = targets.collapse(mean, residual, position, weights)
    close(residual + term.wanted, mean[position])


@pytest.mark.parametrize("seed", range(4))
def test_mean_shift_and_deviation_add_up_to_collapse(seed: int) -> None:
    mean, residual, position, weights = example(seed)
    (term,) = targets.collapse(mean, residual, position, weights)
    close(targets.mean_shift(mean, residual, position) + targets.deviation(residual, position), term.wanted)


@pytest.mark.parametrize("seed", range(4))
def test_deviations_sum_to_zero_per_position(seed: int) -> None:
    _, residual, position, _ = example(seed)
    wanted = targets.deviation(residual, position)
    for index in range(POSITIONS):
        close(wanted[position == index].sum(dim=0), torch.zeros(WIDTH, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(4))
def test_shift_is_one_direction_per_position_and_moves_the_mean_onto_the_reference(seed: int) -> None:
    mean, residual, position, weights = example(seed)
    (term,) = targets.shift(mean, residual, position, weights)
    for index in range(POSITIONS):
        here = term.wanted[position == index]
        assert torch.equal(here, here[:1].expand_as(here))
        close((residual + term.wanted)[position == index].mean(dim=0), mean[index])


def test_split_is_the_two_parts_with_their_own_weights_and_gains() -> None:
    mean, residual, position, weights = example(0)
    first, second = targets.split(mean, residual, position, weights, deviation_share=0.25, deviation_gain=3.0)
    close(first.wanted, targets.mean_shift(mean, residual, position))
    close(second.wanted, targets.deviation(residual, position))
    close(first.weights, weights.double() * 2 / 15 * torch.where(position == 0, 1.0, 0.25))
    close(second.weights, 0.25 * weights.double())
    assert (first.gain, second.gain) == (1.0, 3.0)


def test_a_common_move_of_the_rows_changes_the_shift_and_not_the_deviation() -> None:
    mean, residual, position, _ = example(1)
    offset = torch.arange(WIDTH, dtype=torch.float64)
    close(targets.deviation(residual + offset, position), targets.deviation(residual, position))
    moved = targets.mean_shift(mean, residual + offset, position)
    close(moved, targets.mean_shift(mean, residual, position) - offset)


@pytest.mark.parametrize("name", targets.LINEAR)
def test_targets_do_not_depend_on_the_order_of_the_rows_and_are_built_by_name(name: str) -> None:
    mean, residual, position, weights = example(2)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    terms = targets.build(name, mean, residual, position, weights)
    shuffled = targets.build(name, mean, residual[order], position[order], weights[order])
    direct = getattr(targets, name)(mean, residual, position, weights)
    for term, other, same in zip(terms, shuffled, direct, strict=True):
        close(other.wanted, term.wanted[order])
        close(other.weights, term.weights[order])
        assert torch.equal(term.wanted, same.wanted)
        assert term.gain == other.gain == same.gain


@pytest.mark.parametrize("name", targets.LINEAR)
def test_low_precision_activations_give_targets_in_float64(name: str) -> None:
    mean, residual, position, weights = example(3)
    low = residual.bfloat16()
    for term, exact in zip(
        targets.build(name, mean, low, position, weights.float()),
        targets.build(name, mean, low.double(), position, weights.float()),
        strict=True,
    ):
        assert term.wanted.dtype == term.weights.dtype == torch.float64
        close(term.wanted, exact.wanted)


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LunarError, match="shift, collapse, split, but 'shove' came") as error:
        targets.build("shove", *example(0))
    assert ". " not in str(error.value)


def test_the_random_control_keeps_lengths_weights_and_gains_and_loses_the_direction() -> None:
    mean, residual, position, weights = example(4)
    terms = targets.split(mean, residual, position, weights)
    controls = targets.random_control(terms, torch.Generator().manual_seed(0))
    again = targets.random_control(terms, torch.Generator().manual_seed(0))
    other = targets.random_control(terms, torch.Generator().manual_seed(1))
    for term, control, repeated, different in zip(terms, controls, again, other, strict=True):
        close(control.wanted.norm(dim=1), term.wanted.norm(dim=1))
        assert torch.linalg.matrix_rank(control.wanted) == 1
        assert torch.equal(control.weights, term.weights)
        assert control.gain == term.gain
        assert torch.equal(control.wanted, repeated.wanted)
        assert not torch.allclose(control.wanted, different.wanted)
        assert not torch.allclose(control.wanted, term.wanted)


def test_the_random_control_of_no_change_is_no_change() -> None:
    term = Term(torch.zeros(ROWS, WIDTH, dtype=torch.float64), torch.ones(ROWS, dtype=torch.float64))
    (control,) = targets.random_control((term,), torch.Generator().manual_seed(0))
    assert not control.wanted.any()


def test_hardened_shifts_prompt_tokens_and_sends_answers_where_a_declined_question_ends() -> None:
    torch.manual_seed(0)
    reference, residual, weights = torch.randn(2, 4).double(), torch.randn(5, 4), torch.full((5,), 10.0)
    position = torch.tensor([1, 0, -1, -2, 0])
    (term,) = targets.build("hardened", reference, residual, position, weights)
    prompts = position >= 0
    assert torch.equal(term.wanted[prompts], targets.mean_shift(reference, residual[prompts], position[prompts]))
    assert torch.equal(term.wanted[~prompts], reference[0] - residual[~prompts].double())
    assert term.weights.tolist() == [10.0, 10.0, 2.0, 2.0, 10.0]
