"""The closed form against a dense solution and a loss that are written here, independently of the library."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from squared_hinge import detector

from lunar import targets
from lunar.edit import Factors
from lunar.errors import LunarError
from lunar.moments import FewRows, Moments
from lunar.solve import Solution, detectors, gate, remembering, shares, solve
from lunar.symmetric import BLOCK, add_below, borrowed, solve_below
from lunar.targets import Term

INNER, WIDTH, PINNED, ROWS = 11, 5, 30, 8
RIDGES = [1e-4, 1e-1, 3.0]


@dataclass
class Problem:
    pinned: torch.Tensor
    pinned_weights: torch.Tensor
    inner: torch.Tensor
    weights: torch.Tensor
    mean: torch.Tensor
    residual: torch.Tensor
    position: torch.Tensor

    @property
    def moments(self) -> Moments:
        return Moments.zeros(self.pinned.shape[1]).update(self.pinned, self.pinned_weights)

    def terms(self, name: str) -> tuple[Term, ...]:
        return targets.build(name, self.mean, self.residual, self.position, self.weights)


def problem(seed: int, positions: int = 2, pinned: int = PINNED, inner: int = INNER) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Problem(
        pinned=normal(pinned, inner),
        pinned_weights=normal(pinned).abs() * 5 + 0.1,
        inner=normal(ROWS, inner) + 1,
        weights=normal(ROWS).abs() * 20 + 1,
        mean=normal(positions, WIDTH) * 3,
        residual=normal(ROWS, WIDTH),
        position=torch.arange(ROWS) % positions,
    )


def dense(case: Problem, terms: tuple[Term, ...], ridge: float) -> np.ndarray:
    """Weighted ridge regression over explicitly stacked rows, pinned ones with the target zero, one fit per term.

    For a term whose rows may get more than they ask for, one detector per group of its rows.
    """
    total = np.zeros((terms[0].wanted.shape[1], case.inner.shape[1]))
    for term in terms:
        rows = np.concatenate([case.pinned.numpy(), case.inner.numpy()])
        wanted = np.concatenate([np.zeros((len(case.pinned), total.shape[0])), term.wanted.numpy()])
        omega = np.diag(np.concatenate([case.pinned_weights.numpy(), term.weights.numpy()]))
        normal = rows.T @ omega @ rows
        penalty = ridge * np.trace(normal) / len(normal) * np.eye(len(normal))
        if term.group is not None:
            for one in term.group.unique():
                here = (term.group == one).numpy()
                ours, weights = case.inner.numpy()[here], term.weights.numpy()[here]
                least = 1.0 if term.least is None else term.least.numpy()[here]
                found = detector(normal + penalty - ours.T * weights @ ours, ours, weights, least)
                total += term.gain * np.outer(term.wanted.numpy()[here][0], found)
            continue
        total += term.gain * np.linalg.solve(normal + penalty, rows.T @ omega @ wanted).T
    return total


def loss(case: Problem, term: Term, ridge: float, change: torch.Tensor) -> float:
    """Weighted squared error over all rows, one by one, plus the absolute ridge penalty."""
    total, diagonal = 0.0, 0.0
    for row, weight in zip(case.pinned, case.pinned_weights, strict=True):
        total += float(weight * (change @ row).square().sum())
        diagonal += float(weight * row.square().mean())
    for row, weight, wanted in zip(case.inner, term.weights, term.wanted, strict=True):
        missing = wanted - change @ row
        if term.group is not None and float(missing @ wanted) < 0:
            # More of what was asked for does no harm; what is beside it does.
            missing = missing - (missing @ wanted) / (wanted @ wanted) * wanted
        total += float(weight * missing.square().sum())
        diagonal += float(weight * row.square().mean())
    return total + ridge * diagonal * float(change.square().sum())


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()) + 1e-14)


def one_sentence(error: pytest.ExceptionInfo[LunarError]) -> bool:
    message = str(error.value)
    return message.endswith(".") and ". " not in message and "\n" not in message


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("name", ["shift", "collapse"])
def test_no_perturbation_of_the_solution_lowers_the_loss(name: str, ridge: float) -> None:
    # With two positions, what is wanted at one is not square to what is wanted at the other: no loss of one matrix.
    case = problem(1, positions=1 if name == "shift" else 2)
    (term,) = case.terms(name)
    best = solve(case.moments, case.inner, (term,), ridge).change()
    least = loss(case, term, ridge, best)
    generator = torch.Generator().manual_seed(0)
    for trial in range(40):
        step = torch.randn(best.shape, generator=generator, dtype=torch.float64)
        if trial % 3 == 1:  # rank one
            step = torch.outer(step[:, 0], step[0])
        if trial % 3 == 2:  # along itself
            step = best * (-1) ** trial
        step = step / step.norm() * best.norm() * 10.0 ** -(trial % 4)
        assert loss(case, term, ridge, best + step) > least


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("name", targets.LINEAR)
@pytest.mark.parametrize("seed", range(3))
def test_thin_factors_equal_dense_weighted_ridge_regression(name: str, ridge: float, seed: int) -> None:
    case = problem(seed)
    terms = case.terms(name)
    expected = torch.from_numpy(dense(case, terms, ridge))
    solution = solve(case.moments, case.inner, terms, ridge)
    close(solution.change(), expected)
    close(Factors.of("matrix", solution, transposed=False).change(), expected, tolerance=1e-5)
    close(Factors.of("matrix", solution, transposed=True).change().T, expected, tolerance=1e-5)
    assert solution.rank == int(torch.linalg.matrix_rank(expected))
    assert solution.write.shape == (WIDTH, solution.rank)
    assert solution.read.shape == (solution.rank, INNER)


def test_fewer_rows_than_inputs_are_solved_by_the_ridge() -> None:
    case = problem(2, pinned=3, inner=40)
    terms = case.terms("collapse")
    close(solve(case.moments, case.inner, terms, 1e-4).change(), torch.from_numpy(dense(case, terms, 1e-4)), 1e-6)


def test_without_pinned_rows_and_ridge_every_row_gets_what_it_asks_for() -> None:
    case = problem(3, pinned=0, inner=ROWS)
    (term,) = case.terms("collapse")
    change = solve(case.moments, case.inner, (term,), 0.0).change()
    close(case.inner @ change.T, term.wanted, 1e-7)


@pytest.mark.parametrize("name", ["shift", "collapse"])
def test_a_weight_of_three_equals_the_row_three_times(name: str) -> None:
    case = problem(4)
    (term,) = case.terms(name)
    thrice = solve(case.moments, case.inner, (replace(term, weights=term.weights * 3),), 0.1)
    group = None if term.group is None else term.group.repeat(3)
    repeated = Term(term.wanted.repeat(3, 1), term.weights.repeat(3), group=group)
    close(solve(case.moments, case.inner.repeat(3, 1), (repeated,), 0.1).change(), thrice.change())


@pytest.mark.parametrize("name", targets.LINEAR)
def test_the_order_of_the_rows_and_where_the_stream_was_cut_do_not_matter(name: str) -> None:
    case = problem(5)
    expected = solve(case.moments, case.inner, case.terms(name), 1e-2).change()
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    terms = tuple(
        replace(
            term,
            wanted=term.wanted[order],
            weights=term.weights[order],
            group=None if term.group is None else term.group[order],
        )
        for term in case.terms(name)
    )
    first = Moments.zeros(INNER).update(case.pinned[:7], case.pinned_weights[:7])
    second = Moments.zeros(INNER).update(case.pinned[7:], case.pinned_weights[7:])
    close(solve(second.merge(first), case.inner[order], terms, 1e-2).change(), expected)


def test_solving_leaves_its_arguments_as_they_were() -> None:
    case = problem(6)
    moments, terms = case.moments, case.terms("split")
    before = moments.second.clone(), case.inner.clone(), [term.wanted.clone() for term in terms]
    solve(moments, case.inner, terms, 1e-2)
    gate(moments, case.inner, case.weights, case.position, 1e-2)
    assert torch.equal(moments.second, before[0])
    assert torch.equal(case.inner, before[1])
    assert all(torch.equal(term.wanted, wanted) for term, wanted in zip(terms, before[2], strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_shift_with_one_position_is_the_outer_product_of_direction_and_gate(seed: int) -> None:
    case = problem(seed, positions=1)
    (term,) = case.terms("shift")
    solution = solve(case.moments, case.inner, (term,), 1e-3)
    direction = case.mean[0] - case.residual.mean(dim=0)
    assert solution.rank == 1
    cosine = torch.nn.functional.cosine_similarity(solution.write[:, 0], direction, dim=0)
    assert abs(float(cosine)) == pytest.approx(1, abs=1e-12)
    found = gate(case.moments, case.inner, case.weights, torch.arange(ROWS), 1e-3, group=case.position)
    close(solution.change(), torch.outer(direction, found.vector))
    close(found.values, case.inner @ found.vector)


@pytest.mark.parametrize("ridge", [1e-4, 1e-1])
@pytest.mark.parametrize("seed", range(5))
def test_rows_that_may_get_more_get_it_and_pull_no_longer(seed: int, ridge: float) -> None:
    case = problem(seed, positions=1)
    found, exact = (
        gate(case.moments, case.inner, case.weights, torch.arange(ROWS), ridge, group=group)
        for group in (case.position, None)
    )
    more = found.values > 1
    assert 0 < int(more.sum()) < ROWS
    # Left out, a row that does not pull reads the same.
    close(found.leave_one_out[more], found.values[more])
    assert bool((found.leave_one_out[~more] < found.values[~more]).all())
    size = ridge * float((case.moments.second + case.inner.T * case.weights @ case.inner).diagonal().mean())

    def moved(vector: torch.Tensor) -> float:
        """What is changed elsewhere."""
        return float(vector @ case.moments.second @ vector + size * vector @ vector)

    missing, allowed = ((case.weights * (1 - one.values).clamp_min(0).square()).sum() for one in (found, exact))
    assert moved(found.vector) + float(missing) < moved(exact.vector) + float(allowed)


@pytest.mark.parametrize("ridge", [1e-4, 1e-1])
@pytest.mark.parametrize("seed", range(3))
def test_a_row_gets_the_least_share_it_is_asked_for_and_others_no_more_for_its_sake(seed: int, ridge: float) -> None:
    case = problem(seed)
    (term,) = case.terms("shift")
    least = torch.full((ROWS,), 0.6, dtype=torch.float64)
    least[[1, 4]] = 2.0
    before = least.clone()
    raised = replace(term, least=least)
    close(solve(case.moments, case.inner, (raised,), ridge).change(), torch.from_numpy(dense(case, (raised,), ridge)))
    # All alike, it is a factor.
    alike = replace(term, least=torch.full((ROWS,), 0.6, dtype=torch.float64))
    close(
        solve(case.moments, case.inner, (alike,), ridge).change(),
        0.6 * solve(case.moments, case.inner, (term,), ridge).change(),
    )
    prompts = torch.arange(ROWS)
    found, low, high = (
        gate(case.moments, case.inner, case.weights, prompts, ridge, group=case.position, least=one).values
        for one in (least, alike.least, torch.full_like(least, 2.0))
    )
    assert torch.equal(least, before), "what was asked for was written over"
    assert bool((found[[1, 4]] > low[[1, 4]] + 0.1).all())
    assert float(found.mean()) < float(high.mean())


def test_the_loss_of_shares_is_that_of_the_least_squares() -> None:
    case = problem(3, positions=1)
    read = detectors(case.moments, case.inner, case.weights, 1e-2)
    size = 1e-2 * float((case.moments.second + case.inner.T * case.weights @ case.inner).diagonal().mean())
    second = case.moments.second + size * torch.eye(INNER, dtype=torch.float64)
    best = shares(case.inner, read, case.weights, case.position)

    def total(wanted: torch.Tensor) -> float:
        vector = wanted @ read
        return float(vector @ second @ vector + (case.weights * (wanted - case.inner @ vector).square()).sum())

    assert float(best.min()) == 1
    generator = torch.Generator().manual_seed(0)
    for trial in range(40):
        step = torch.randn(ROWS, generator=generator, dtype=torch.float64) * 10.0 ** -(trial % 4)
        assert total(best) <= total((best + step).clamp_min(1)) + 1e-12


@pytest.mark.parametrize("factor", [-2.0, 0.5, 3.0])
def test_the_solution_scales_with_the_gain_and_with_what_is_wanted(factor: float) -> None:
    case = problem(7)
    (term,) = case.terms("collapse")
    change = solve(case.moments, case.inner, (term,), 1e-2).change()
    for scaled in (replace(term, gain=factor), replace(term, wanted=term.wanted * factor)):
        close(solve(case.moments, case.inner, (scaled,), 1e-2).change(), factor * change)
    # Inputs, pinned and redirected, times c: the change is divided by c, at the same relative ridge.
    moments = Moments.zeros(INNER).update(case.pinned * factor, case.pinned_weights)
    close(solve(moments, case.inner * factor, (term,), 1e-2).change(), change / factor)


def test_zero_gain_and_nothing_wanted_are_the_identity() -> None:
    case = problem(8)
    (term,) = case.terms("shift")
    for nothing in (replace(term, gain=0.0), replace(term, wanted=term.wanted * 0)):
        solution = solve(case.moments, case.inner, (nothing,), 1e-2)
        assert not solution.change().any()
        assert bool(torch.isfinite(solution.read).all())
        with_term = solve(case.moments, case.inner, (term, nothing), 1e-2)
        close(with_term.change(), solve(case.moments, case.inner, (term,), 1e-2).change())


def test_a_term_and_its_opposite_cancel() -> None:
    case = problem(9)
    (term,) = case.terms("collapse")
    change = solve(case.moments, case.inner, (term, replace(term, gain=-1.0)), 1e-2).change()
    assert float(change.abs().max()) < 1e-12


def test_a_larger_ridge_gives_a_smaller_change() -> None:
    case = problem(10)
    norms = [
        float(solve(case.moments, case.inner, case.terms("collapse"), ridge).change().norm())
        for ridge in (1e-6, 1e-3, 1e-1, 1.0, 100.0)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.1 * norms[0]


def test_the_gate_tells_redirected_from_pinned_rows_that_are_well_separated() -> None:
    generator = torch.Generator().manual_seed(0)
    inner = 24
    pinned = torch.randn(400, inner, generator=generator, dtype=torch.float64)
    pinned[:, 0] *= 0.02
    rows = 0.1 * torch.randn(12, inner, generator=generator, dtype=torch.float64)
    rows[:, 0] += 4
    unseen = 0.1 * torch.randn(50, inner, generator=generator, dtype=torch.float64)
    unseen[:, 0] += 4
    moments = Moments.zeros(inner).update(pinned, torch.ones(400))
    found = gate(moments, rows, torch.full((12,), 100.0), torch.arange(12), 1e-4)
    for redirected in (found.values, found.leave_one_out, unseen @ found.vector):
        assert float((redirected - 1).abs().max()) < 0.1
    assert float((pinned @ found.vector).abs().max()) < 0.1


@pytest.mark.parametrize("ridge", [0.0, *RIDGES])
@pytest.mark.parametrize("prompts", [[0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 1, 1, 1, 2, 2, 3], [3, 1, 3, 0, 1, 3, 0, 7]])
def test_leave_one_out_equals_solving_again_without_the_prompt(prompts: list[int], ridge: float) -> None:
    case = problem(11)
    prompt = torch.tensor(prompts)
    found = gate(case.moments, case.inner, case.weights, prompt, ridge)
    rows, weights = case.inner.numpy(), case.weights.numpy()
    pinned = case.pinned.numpy().T @ np.diag(case.pinned_weights.numpy()) @ case.pinned.numpy()
    everything = pinned + rows.T @ np.diag(weights) @ rows
    penalty = ridge * np.trace(everything) / INNER * np.eye(INNER)
    for left_out in sorted(set(prompts)):
        keep = np.array(prompts) != left_out
        second = pinned + rows[keep].T @ np.diag(weights[keep]) @ rows[keep] + penalty
        vector = np.linalg.solve(second, rows[keep].T @ weights[keep])
        close(found.leave_one_out[prompt == left_out], torch.from_numpy(rows[~keep] @ vector), 1e-7)


def test_a_single_prompt_left_out_leaves_nothing_to_recognise() -> None:
    case = problem(12)
    found = gate(case.moments, case.inner, case.weights, torch.zeros(ROWS, dtype=torch.int64), 1e-3)
    assert float(found.leave_one_out.abs().max()) < 1e-9


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("missing", [1, 6])
def test_a_singular_problem_is_refused_at_ridge_zero_and_solved_with_one(seed: int, missing: int) -> None:
    inner = 14 + seed
    case = problem(seed, pinned=inner - missing - ROWS if inner - missing > ROWS else 0, inner=inner)
    with pytest.raises(LunarError, match="singular at ridge 0") as error:
        solve(case.moments, case.inner, case.terms("collapse"), 0.0)
    assert one_sentence(error)
    with pytest.raises(LunarError, match="singular"):
        gate(case.moments, case.inner, case.weights, case.position, 0.0)
    assert bool(torch.isfinite(solve(case.moments, case.inner, case.terms("collapse"), 1e-8).change()).all())


@pytest.mark.parametrize("ridge", [1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("pinned", [0, 3, 9, 60])
@pytest.mark.parametrize("name", targets.LINEAR)
def test_rows_that_are_kept_give_what_their_sum_gives(name: str, pinned: int, ridge: float) -> None:
    case = problem(15, pinned=pinned, inner=40)
    few = FewRows(40)
    for part in range(3):
        few.update(case.pinned[part::3], case.pinned_weights[part::3])
    assert few.rows == pinned
    close(few.moments().second, case.moments.second, 1e-12)
    terms = case.terms(name)
    close(solve(few, case.inner, terms, ridge).change(), solve(case.moments, case.inner, terms, ridge).change(), 1e-6)
    prompts = torch.arange(ROWS) // 2
    dual, primal = (gate(one, case.inner, case.weights, prompts, ridge) for one in (few, case.moments))
    close(dual.vector, primal.vector, 1e-6)
    close(dual.values, primal.values, 1e-6)
    close(dual.leave_one_out, primal.leave_one_out, 1e-6)


@pytest.mark.parametrize("ridge", [1e-18, 1e-30])
@pytest.mark.parametrize("rank", [2, 7])
def test_where_rounding_hides_the_ridge_both_forms_fall_back_on_one_solution(rank: int, ridge: float) -> None:
    generator = torch.Generator().manual_seed(rank)
    basis = torch.randn(rank, 30, generator=generator, dtype=torch.float64)
    case = problem(16, pinned=25, inner=30)
    case = replace(case, pinned=case.pinned[:, :rank] @ basis, inner=case.inner[:, :rank] @ basis)
    terms = case.terms("collapse")
    few = FewRows(30).update(case.pinned, case.pinned_weights)
    sums = Moments(few.moments().second, few.rows)
    found, expected = (solve(one, case.inner, terms, ridge).change() for one in (few, sums))
    close(found @ case.inner.T, expected @ case.inner.T, 1e-6)
    close(found @ case.pinned.T, expected @ case.pinned.T, 1e-6)
    # The least squares in the coordinates of the rows' span has full rank and needs no ridge.
    small = replace(case, pinned=case.pinned @ torch.linalg.pinv(basis), inner=case.inner @ torch.linalg.pinv(basis))
    exact = solve(small.moments, small.inner, terms, 0.0).change() @ torch.linalg.pinv(basis).T
    close(found @ case.inner.T, exact @ case.inner.T, 1e-6)
    with pytest.raises(LunarError, match="singular at ridge 0"):
        solve(sums, case.inner, terms, 0.0)


@pytest.mark.parametrize("size", [5, BLOCK, 2 * BLOCK + 3])
def test_a_borrowed_matrix_is_solved_within_itself_and_given_back_to_the_bit(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    rows = torch.randn(size + 4, size, generator=generator, dtype=torch.float64)
    more = torch.randn(3, size, generator=generator, dtype=torch.float64)
    matrix = rows.T @ rows
    matrix = torch.triu(matrix) + torch.triu(matrix, 1).T
    before, right = matrix.clone(), torch.randn(size, 2, generator=generator, dtype=torch.float64)
    with borrowed(matrix):
        add_below(matrix, more.T, more)
        found = solve_below(matrix, right, 0.5)
        # The factor has taken the matrix's place, and nothing else was needed to hold it.
        whole = before + more.T @ more + 0.5 * torch.eye(size, dtype=torch.float64)
        close(matrix.tril() @ matrix.tril().T, whole)
    assert torch.equal(matrix, before)
    assert found is not None
    close(whole @ found, right)
    with pytest.raises(ZeroDivisionError), borrowed(matrix):  # noqa: PT012
        matrix.diagonal().zero_()
        raise ZeroDivisionError
    assert torch.equal(matrix, before)
    alike = solve_below(before.float(), right.float(), float(before.norm()))  # by torch
    assert alike is not None
    ridged = before + before.norm() * torch.eye(size, dtype=torch.float64)
    close(alike.double(), torch.linalg.solve(ridged, right), 1e-4)


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_no_number_is_refused_wherever_it_stands(kept: bool) -> None:
    case = problem(18)
    case.pinned[3, 2] = float("nan")
    moments = case.moments
    pinned = FewRows(INNER).update(case.pinned, case.pinned_weights) if kept else moments
    for call in (
        lambda: solve(pinned, case.inner, case.terms("shift"), 1e-4),
        lambda: gate(pinned, case.inner, case.weights, case.position, 1e-4),
    ):
        with pytest.raises(LunarError, match="model may be damaged"):
            call()
    assert solve_below(torch.full((2, 2), float("nan"), dtype=torch.float64), torch.ones(2, 1).double(), 1.0) is None


@pytest.mark.parametrize("count", [3, 300])
def test_sums_mirror_each_other_across_the_diagonal(count: int) -> None:
    case = problem(19, inner=BLOCK + 40, pinned=count)
    kept = FewRows(BLOCK + 40).update(case.pinned, case.pinned_weights)
    for second in (case.moments.second, kept.moments().second, case.moments.merge(case.moments).second):
        assert torch.equal(second[:BLOCK, BLOCK:], second[BLOCK:, :BLOCK].T)
    ridged, before = case.moments, case.moments.second.clone()
    gate(ridged, case.inner, case.weights, case.position, 1e-4)
    assert torch.equal(ridged.second, before)


def test_sums_of_other_types_are_solved_with_too() -> None:
    case = problem(20)
    terms = case.terms("collapse")
    single = Moments(case.moments.second.float(), PINNED)
    found = solve(single, case.inner, terms, 1e-2).change()
    close(found, solve(case.moments, case.inner, terms, 1e-2).change(), 1e-3)
    with torch.inference_mode():
        sums = Moments.zeros(INNER).update(case.pinned, case.pinned_weights)
    close(solve(sums, case.inner, terms, 1e-2).change(), solve(case.moments, case.inner, terms, 1e-2).change())


def test_a_singular_matrix_is_told() -> None:
    row = torch.ones(1, 6, dtype=torch.float64)
    for added in (0.0, -3.0, 1e-18):
        assert solve_below(row.T @ row, row.T, added) is None


def test_what_was_solved_for_is_not_solved_again_and_what_was_not_is(monkeypatch: pytest.MonkeyPatch) -> None:
    case, solved = problem(17), []

    def counting(moments: object, rows: torch.Tensor, *others: object) -> torch.Tensor:
        solved.append(len(rows))
        return detectors(moments, rows, *others)  # type: ignore[arg-type]

    monkeypatch.setattr("lunar.solve.detectors", counting)
    detect, moments = remembering(), case.moments
    first = detect(moments, case.inner, case.weights, 1e-4)
    assert torch.equal(detect(moments, case.inner.clone(), case.weights.clone(), 1e-4), first)
    assert solved == [ROWS]
    others = [
        (case.inner[1:], case.weights[1:], 1e-4),
        (case.inner[1:], 2 * case.weights[1:], 1e-4),
        (case.inner[1:], 2 * case.weights[1:], 1e-3),
    ]
    for count, one in enumerate(others, 2):
        assert torch.equal(detect(moments, *one), detectors(moments, *one))
        assert len(solved) == count
    moments.update(case.pinned, case.pinned_weights)
    assert torch.equal(detect(moments, *others[-1]), detectors(moments, *others[-1]))
    assert len(solved) == 5


def test_leaving_out_what_the_problem_cannot_do_without_is_refused() -> None:
    rows = torch.eye(4, dtype=torch.float64)
    with pytest.raises(LunarError, match="without one of the prompts is singular") as error:
        gate(Moments.zeros(4), rows, torch.ones(4), torch.arange(4), 0.0)
    assert one_sentence(error)


def test_bad_input_is_refused_in_one_sentence() -> None:
    case = problem(13)
    (term,) = case.terms("collapse")
    other, nan = problem(13, inner=INNER + 1), float("nan")
    none = Term(term.wanted[:0], term.weights[:0])
    broken = case.inner.clone()
    broken[0, 0] = nan
    short = Term(term.wanted[1:], term.weights[1:])
    weightless = replace(term, weights=term.weights * (torch.arange(ROWS) > 0))
    infinite = replace(term, weights=term.weights / (torch.arange(ROWS) > 0))
    calls = {
        "width": lambda: solve(case.moments, other.inner, (term,), 1e-4),
        "row to redirect": lambda: solve(case.moments, case.inner[:0], (none,), 1e-4),
        "Finite": lambda: solve(case.moments, broken, (term,), 1e-4),
        "One weight": lambda: solve(case.moments, case.inner, (short,), 1e-4),
        "wanted change": lambda: solve(case.moments, case.inner, (replace(term, wanted=term.wanted * nan),), 1e-4),
        "positive weights": lambda: solve(case.moments, case.inner, (weightless,), 1e-4),
        "activations and positive weights": lambda: solve(case.moments, case.inner, (infinite,), 1e-4),
        "one term": lambda: solve(case.moments, case.inner, (), 1e-4),
        "ridge must": lambda: solve(case.moments, case.inner, (term,), -1e-4),
        "ridge must be": lambda: solve(case.moments, case.inner, (term,), nan),
        "of at least 0": lambda: solve(case.moments, case.inner, (term,), float("inf")),
        "width .* expected": lambda: gate(case.moments, other.inner, case.weights, case.position, 1e-4),
    }
    for match, call in calls.items():
        with pytest.raises(LunarError, match=match) as error:
            call()
        assert one_sentence(error), match


def test_low_precision_rows_are_solved_in_float64() -> None:
    case = problem(14)
    low = case.inner.bfloat16()
    terms = case.terms("collapse")
    solution = solve(case.moments, low, terms, 1e-2)
    assert solution.change().dtype == torch.float64
    close(solution.change(), solve(case.moments, low.double(), terms, 1e-2).change(), 1e-12)


def test_factors_of_the_wrong_rank_are_no_solution() -> None:
    with pytest.raises(TypeError):  # the shapes in the signatures are checked while tests run
        Solution(torch.ones(4, 2), torch.ones(3, 5))
