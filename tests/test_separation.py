"""Leave-one-out values equal those of solves without the row, in the dual and with the ridge kept at its size."""

import pytest
import torch

from lunar.errors import LunarError
from lunar.select.separation import Separation, leave_one_out, separation


def rows(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("count", "width"), [(9, 4), (5, 30)])
def test_values_equal_the_solve_and_left_out_ones_a_solve_without_the_row(count, width):
    inner, ridge = rows(count, width), 1e-2
    wanted, weights = (torch.arange(count) < 2).double(), torch.linspace(1, 7, count).double()

    def primal(kept):
        second = inner[kept].T @ (weights[kept, None] * inner[kept])
        size = ridge * (weights[:, None] * inner.square()).sum() / width
        vector = torch.linalg.solve(second + size * torch.eye(width).double(), inner[kept].T @ (weights * wanted)[kept])
        return inner @ vector

    values, left_out = leave_one_out(inner, wanted, weights, ridge)
    everything = torch.ones(count, dtype=torch.bool)
    torch.testing.assert_close(values, primal(everything))
    for row in range(count):
        without = everything.clone()
        without[row] = False
        torch.testing.assert_close(left_out[row], primal(without)[row])


def judged(forget, retain, others=None):
    others = rows(0, forget.shape[1]) if others is None else others
    return separation(forget, retain, others, forget_weight=150.0, retain_weight=10.0, ridge=1e-4)


def test_sets_that_differ_are_ordered_and_sets_that_do_not_are_not():
    base, apart = rows(60, 20), torch.zeros(20).double()
    apart[3] = 8
    clear = judged(base[:15] + apart, base[15:])
    assert clear.ordered == 1.0
    assert clear.margin > 0.3
    mixed = [judged(sample[:15], sample[15:]).ordered for sample in (rows(60, 20, seed) for seed in range(20))]
    assert abs(sum(mixed) / len(mixed) - 0.5) < 0.1


def test_examples_beside_the_retain_prompts_teach_but_are_not_judged():
    gained = []
    for seed in range(10):
        base = rows(90, 40, seed)
        base[:, 1] += 2
        base[30:, 0] += 2
        few, many = judged(base[:20], base[30:40]), judged(base[:20], base[30:40], base[40:])
        assert len(many.retain) == len(few.retain) == 10
        gained.append(many.ordered - few.ordered)
    assert sum(gained) / len(gained) > 0.05


def test_a_single_forget_prompt_keeps_its_plain_value_and_empty_sets_are_refused():
    base = rows(20, 30)
    assert judged(base[:1], base[1:]).forget[0] > 0.5
    with pytest.raises(LunarError, match="0 and 20"):
        judged(base[:0], base)
    with pytest.raises(LunarError, match="singular"):
        leave_one_out(torch.zeros(3, 4), torch.ones(3), torch.ones(3), 1e-4)


def test_equal_values_count_half():
    assert Separation(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])).ordered == 0.5
