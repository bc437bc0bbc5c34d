"""The weighted ridge least squares that gives the edit, in closed form.

    ΔW = Tᵀ Ω H (A + λ·mean(diag A)·I)⁻¹        A = pinned moments + Hᵀ Ω H

H [rows, m] are the write-back inputs of the redirected rows, T [rows, d] their wanted changes, Ω their weights; pinned
rows ask for no change and enter through their moments only. What rows of one group are asked for they may get more of:
their wanted changes are then multiplied by `shares`. Nothing here knows models or prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import nnls
from torch import Tensor

from lunar.errors import LunarError
from lunar.moments import FewRows, Moments
from lunar.symmetric import add_below, borrowed, mirror, solve_below
from lunar.targets import Term

RANK_TOLERANCE = 1e-9
"""Singular values below this share of the largest are rounding noise of the float64 solve."""

MOST_STEPS = 100
"""Of the nonnegative least squares, for each row: far more than it takes."""

LEVERAGE_TOLERANCE = 1e-13
"""A prompt whose rows leave less than this of themselves unexplained cannot be left out."""


@dataclass(frozen=True)
class Solution:
    """The change of one matrix as thin factors: ΔW = write @ read.

    Attributes:
        write: [d, k] where to go: columns in the residual stream (`lora_B`).
        read: [k, m] linear detectors of what to redirect (`lora_A`).
    """

    write: Float[Tensor, "d k"]
    read: Float[Tensor, "k m"]

    @property
    def rank(self) -> int:
        """k, the rank of the change."""
        return self.read.shape[0]

    def change(self) -> Float[Tensor, "d m"]:
        """ΔW in full."""
        return self.write @ self.read


@dataclass(frozen=True)
class Gate:
    """How a `shift` edit recognises what it redirects.

    Attributes:
        vector: [m] g = A⁻¹ Σ w y h, with the `shares` y, else 1; g·h is the share of the wanted change that an input h
            receives.
        values: [rows] g·h of the redirected rows, near 1, or the least share asked for, or above where the edit works.
        leave_one_out: [rows] the same, had the row's whole prompt not been among the redirected rows: an estimate for
            unseen phrasings, from the same factorisation.
    """

    vector: Float[Tensor, " m"]
    values: Float[Tensor, " rows"]
    leave_one_out: Float[Tensor, " rows"]

    def of(self, rows: Bool[Tensor, " rows"]) -> Gate:
        """The same detector with the readings of some rows alone."""
        return Gate(self.vector, self.values[rows], self.leave_one_out[rows])


def _check(moments: Moments | FewRows, inner: Tensor, weights: Tensor, ridge: float) -> None:
    if not 0 <= ridge < float("inf"):
        raise LunarError(f"The ridge must be a number of at least 0, but {ridge} came: the usual value is 1e-4.")
    if len(inner) == 0:
        raise LunarError("At least one row to redirect was expected, but none came: give a forget prompt.")
    width = len(moments.second) if isinstance(moments, Moments) else moments.width
    if inner.shape[1] != width:
        raise LunarError(
            f"Redirected rows of width {width} were expected, but {inner.shape[1]} came: take rows and "
            "moments from the same layer."
        )
    if len(weights) != len(inner):
        raise LunarError(f"One weight per redirected row was expected, but {len(weights)} for {len(inner)} rows came.")
    sums = [moments.second.diagonal()] if isinstance(moments, Moments) else moments.kept
    finite = all(bool(torch.isfinite(one).all()) for one in (inner, weights, *sums))
    if not finite or not bool((weights > 0).all()):
        raise LunarError("Finite activations and positive weights were expected: the model may be damaged, check it.")


def _by_eigenvalues(
    matrix: Float[Tensor, "n n"], right: Float[Tensor, "n k"], added: float, ridge: float
) -> Float[Tensor, "n k"]:
    """Solve for a symmetric matrix that is singular to its precision, with `added` on its diagonal.

    A sum of fewer independent rows than inputs is singular, and a ridge below its rounding noise is none. For a ridge
    above 0, the limit of a small ridge is taken instead: the solution of least norm, by the eigenvalues above the
    noise. Raises LunarError for a ridge of 0.
    """
    if ridge == 0:
        raise _singular(ridge)
    matrix.diagonal().add_(added)
    noise = len(matrix) * torch.finfo(matrix.dtype).eps * float(torch.linalg.matrix_norm(matrix))
    values, vectors = torch.linalg.eigh(matrix)
    vectors, values = vectors[:, values > noise], values[values > noise]
    return vectors @ ((vectors.T @ right) / values[:, None])


def _singular(ridge: float) -> LunarError:
    return LunarError(
        f"The least squares is singular at ridge {ridge:g}: there are fewer independent rows than inputs, so give a "
        "larger ridge (1e-4 is the usual value)."
    )


Detect = Callable[[Moments | FewRows, Tensor, Tensor, float], Tensor]
"""`detectors`, or what remembers what it gave."""


def detectors(
    moments: Moments | FewRows, rows: Float[Tensor, "rows m"], weights: Float[Tensor, " rows"], ridge: float
) -> Float[Tensor, "rows m"]:
    """Ω H (A + λ·mean(diag A)·I)⁻¹: by the sum A, or where the rows are kept, by their products with each other.

    Args:
        moments: sums over the pinned rows, or these rows. Sums are written over while this runs, and left as they
            were: no two threads may solve with the same.
        rows: [rows, m] redirected rows, in float64.
        weights: [rows] theirs.
        ridge: λ.

    Raises LunarError where the problem is singular at a ridge of 0.
    """
    try:
        if isinstance(moments, Moments):
            return _by_sum(moments, rows, weights, ridge)
        return _by_products(moments, rows, weights, ridge)
    except torch.OutOfMemoryError:
        if moments.device.type == "cpu":
            raise
    # What else lies on the GPU may have come after its room was looked at.
    return detectors(moments.cpu(), rows.cpu(), weights.cpu(), ridge).to(rows)


def _by_sum(moments: Moments, rows: Tensor, weights: Tensor, ridge: float) -> Tensor:
    right, second = (rows * weights[:, None]).T, moments.second.detach()
    if second.dtype != torch.float64 or second.is_inference():
        second = second.to(torch.float64, copy=True)
    with borrowed(second):
        add_below(second, right, rows)
        added = ridge * float(second.diagonal().mean())
        found = solve_below(second, right, added)
    if found is None:
        found = _by_eigenvalues(second + right @ rows, right, added, ridge)
    return found.T


def _by_products(moments: FewRows, rows: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """The dual, whose cost goes with the number of rows instead of that of inputs.

    With G all rows times the roots of their weights, A = Gᵀ G and (Gᵀ G + λI)⁻¹ Gᵀ = Gᵀ (G Gᵀ + λI)⁻¹.
    """
    roots = weights.sqrt()
    every = [rows * roots[:, None], *(part.to(rows) for part in moments.kept)]
    ends = [0, *accumulate(map(len, every))]
    if ridge == 0 and ends[-1] < moments.width:
        raise _singular(ridge)
    products = torch.empty(ends[-1], ends[-1], dtype=rows.dtype, device=rows.device)
    for (start, stop), one in zip(pairwise(ends), every, strict=True):
        for (left, right), other in zip(pairwise(ends), every, strict=True):
            if left >= start:
                products[start:stop, left:right] = one @ other.T
            if left > start:
                products[left:right, start:stop] = products[start:stop, left:right].T
    mirror(products)
    chosen = torch.eye(ends[-1], len(rows), dtype=rows.dtype, device=rows.device)
    added = ridge * float(products.diagonal().sum()) / moments.width
    with borrowed(products):
        found = solve_below(products, chosen, added)
    if found is None:
        found = _by_eigenvalues(products, chosen, added, ridge)
    read = torch.zeros_like(rows)
    for (start, stop), one in zip(pairwise(ends), every, strict=True):
        read += found[start:stop].T @ one
    return roots[:, None] * read


def remembering() -> Detect:
    """`detectors` that gives the last ones again where it is asked for the same: a gate and a shift often are alike."""
    last: list[tuple[Moments | FewRows, int, float, Tensor, Tensor, Tensor]] = []

    def detect(moments: Moments | FewRows, rows: Tensor, weights: Tensor, ridge: float) -> Tensor:
        for sums, count, size, same, weighted, found in last:
            alike = sums is moments and (count, size) == (moments.rows, ridge)
            if alike and torch.equal(same, rows) and torch.equal(weighted, weights):
                return found
        found = detectors(moments, rows, weights, ridge)
        last[:] = [(moments, moments.rows, ridge, rows, weights, found)]
        return found

    return detect


def solve(
    moments: Moments | FewRows,
    inner: Float[Tensor, "rows m"],
    terms: Sequence[Term],
    ridge: float,
    *,
    detect: Detect = detectors,
) -> Solution:
    """The change of the write-back matrix that best gives every row what it asks for.

    Args:
        moments: sums over the pinned rows, or these rows where they are fewer than the inputs.
        inner: [rows, m] write-back inputs of the redirected rows.
        terms: one ridge problem each over the same rows; their solutions are added with their gains.
        ridge: λ, relative to the mean of A's diagonal. Larger: smaller weights, less exact redirection, less
            sensitivity to rare inputs. Smaller: the reverse.
        detect: what gives `detectors`.

    Returns thin factors of the smallest rank that represents the solution, in float64.
    Raises LunarError for mismatched widths, an empty row set, or a singular problem (ridge 0 with too few rows).
    """
    rows = inner.to(moments.device, torch.float64)
    if not terms:
        raise LunarError("At least one term was expected, but none came: build them with lunar.targets.")
    writes, reads = [], []
    for term in terms:
        weights = term.weights.to(rows)
        _check(moments, rows, weights, ridge)
        if len(term.wanted) != len(rows) or not bool(torch.isfinite(term.wanted).all()):
            raise LunarError(
                f"One finite wanted change per redirected row was expected, but {len(term.wanted)} for {len(rows)} "
                "rows or values that are not finite came: build the targets from the same rows."
            )
        reads.append(detect(moments, rows, weights, ridge))
        wanted = term.wanted.to(rows)
        if term.group is not None:
            wanted = shares(rows, reads[-1], weights, term.group, term.least)[:, None] * wanted
        writes.append(term.gain * wanted.T)
    return thin(torch.cat(writes, dim=1), torch.cat(reads, dim=0))


def shares(
    rows: Float[Tensor, "rows m"],
    read: Float[Tensor, "rows m"],
    weights: Float[Tensor, " rows"],
    group: Int[Tensor, " rows"],
    least: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, " rows"]:
    """How much of what it is asked for each row should get so that least is changed elsewhere: so much, or more.

    Least squares pulls a row back that would get more than was asked, and for that the detector has to know it from
    its like; here that is left alone. With Q = Ω − Ω H A⁻¹ Hᵀ Ω, the least squares' loss for shares y is yᵀ Q y, and
    over y ≥ f it is a problem of nonnegative least squares in y − f. The rows above f then pull no longer, as the
    vectors beyond the margin of a support vector machine with squared hinge loss.

    Args:
        rows: [rows, m] H.
        read: [rows, m] Ω H A⁻¹, of `detectors`.
        weights: [rows] the diagonal of Ω.
        group: [rows] each group is a problem of its own, in which the others are asked for nothing.
        least: [rows] f, the share that each row should get at least; None is 1 for all.
    """
    loss = weights.diag() - (read @ rows.T) * weights
    result = torch.ones_like(weights) if least is None else least.to(weights, copy=True)
    for one in group.unique():
        here = group == one
        values, vectors = torch.linalg.eigh((loss[here][:, here] + loss[here][:, here].T) / 2)
        root = (vectors * values.clamp_min(0).sqrt()).T.cpu().numpy()
        try:
            more, _ = nnls(root, -root @ result[here].cpu().numpy(), maxiter=MOST_STEPS * len(root))
        except RuntimeError:
            # It did not come to an end, which no case is known of: least squares for the least shares is still right.
            continue
        result[here] += torch.from_numpy(more).to(result)
    return result


def thin(write: Float[Tensor, "d rows"], read: Float[Tensor, "rows m"]) -> Solution:
    """The same product with as few columns as its rank, by the singular value decomposition of the small core."""
    left, left_core = torch.linalg.qr(write)
    right, right_core = torch.linalg.qr(read.T)
    core_left, values, core_right = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    rank = max(1, int((values > RANK_TOLERANCE * values[0]).sum()))
    roots = values[:rank].sqrt()
    return Solution((left @ core_left[:, :rank]) * roots, roots[:, None] * (core_right[:rank] @ right.T))


@dataclass(frozen=True)
class Detector:
    """What recognises the redirected rows, before any is left out.

    Attributes:
        rows: [rows, m] in float64.
        weights: [rows] theirs.
        read: [rows, m] of `detectors`.
        wanted: [rows] what each row is asked for.
        vector: [m] g.
        values: [rows] g·h, what each row gets.
    """

    rows: Float[Tensor, "rows m"]
    weights: Float[Tensor, " rows"]
    read: Float[Tensor, "rows m"]
    wanted: Float[Tensor, " rows"]
    vector: Float[Tensor, " m"]
    values: Float[Tensor, " rows"]


def detector(
    moments: Moments | FewRows,
    inner: Float[Tensor, "rows m"],
    weights: Float[Tensor, " rows"],
    ridge: float,
    *,
    group: Int[Tensor, " rows"] | None = None,
    least: Float[Tensor, " rows"] | None = None,
    detect: Detect = detectors,
) -> Detector:
    """The detector of the redirected rows; arguments as of `gate`."""
    rows = inner.to(moments.device, torch.float64)
    weight = weights.to(rows)
    _check(moments, rows, weight, ridge)
    read = detect(moments, rows, weight, ridge)
    wanted = torch.ones_like(weight) if group is None else shares(rows, read, weight, group, least)
    vector = wanted @ read
    return Detector(rows, weight, read, wanted, vector, rows @ vector)


def gate(
    moments: Moments | FewRows,
    inner: Float[Tensor, "rows m"],
    weights: Float[Tensor, " rows"],
    prompt: Int[Tensor, " rows"],
    ridge: float,
    *,
    group: Int[Tensor, " rows"] | None = None,
    least: Float[Tensor, " rows"] | None = None,
    detect: Detect = detectors,
) -> Gate:
    """The detector of the redirected rows, with leave-one-prompt-out values.

    Args:
        prompt: [rows] which prompt each row belongs to; rows of one prompt are left out together.
        group: [rows] as in `shares`, whose shares y are kept where a prompt is left out; None asks all rows for y = 1.
        least: [rows] as in `shares`.

    With L = Ω^½ H A⁻¹ Hᵀ Ω^½ and e = y − ŷ, the residuals without prompt I are (I − L_II)⁻¹ e_I in the weighted
    coordinates (the block form of the leave-one-out formula of linear regression). The ridge term keeps its size.
    """
    found = detector(moments, inner, weights, ridge, group=group, least=least, detect=detect)
    rows, read, wanted, values = found.rows, found.read, found.wanted, found.values
    roots = found.weights.sqrt()
    left_out = torch.empty_like(values)
    for index in prompt.unique():
        here = prompt == index
        leverage = (rows[here] * roots[here, None]) @ (read[here] / roots[here, None]).T
        residual = roots[here] * (wanted[here] - values[here])
        identity = torch.eye(len(leverage), dtype=leverage.dtype, device=leverage.device)
        remaining, failed = torch.linalg.cholesky_ex(identity - leverage)
        if bool(failed) or not bool((remaining.diagonal() ** 2 > LEVERAGE_TOLERANCE).all()):
            raise LunarError(
                f"The least squares without one of the prompts is singular at ridge {ridge:g}: give more retain "
                "prompts or a larger ridge (1e-4 is the usual value)."
            )
        left_out[here] = wanted[here] - torch.cholesky_solve(residual[:, None], remaining)[:, 0] / roots[here]
    return Gate(found.vector, values, left_out)
