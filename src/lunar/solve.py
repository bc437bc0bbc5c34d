"""The weighted ridge least squares that gives the edit, in closed form.

    ΔW = Tᵀ Ω H (A + λ·mean(diag A)·I)⁻¹        A = pinned moments + Hᵀ Ω H

H [rows, m] are the write-back inputs of the redirected rows, T [rows, d] their wanted changes, Ω their weights; pinned
rows ask for no change and enter through their moments only. Torch only: nothing here knows models or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lunar.errors import LunarError
from lunar.moments import Moments
from lunar.targets import Term

RANK_TOLERANCE = 1e-9
"""Singular values below this share of the largest are rounding noise of the float64 solve."""

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
        vector: [m] g = A⁻¹ Σ w h; g·h is the share of the wanted change that an input h receives.
        values: [rows] g·h of the redirected rows, near 1 where the edit works.
        leave_one_out: [rows] the same, had the row's whole prompt not been among the redirected rows: an estimate for
            unseen phrasings, from the same factorisation.
    """

    vector: Float[Tensor, " m"]
    values: Float[Tensor, " rows"]
    leave_one_out: Float[Tensor, " rows"]

    def of(self, rows: Bool[Tensor, " rows"]) -> Gate:
        """The same detector with the readings of some rows alone."""
        return Gate(self.vector, self.values[rows], self.leave_one_out[rows])


def _check(moments: Moments, inner: Tensor, weights: Tensor, ridge: float) -> None:
    if not 0 <= ridge < float("inf"):
        raise LunarError(f"The ridge must be a number of at least 0, but {ridge} came: the usual value is 1e-4.")
    if len(inner) == 0:
        raise LunarError("At least one row to redirect was expected, but none came: give a forget prompt.")
    if inner.shape[1] != len(moments.second):
        raise LunarError(
            f"Redirected rows of width {len(moments.second)} were expected, but {inner.shape[1]} came: take rows and "
            "moments from the same layer."
        )
    if len(weights) != len(inner):
        raise LunarError(f"One weight per redirected row was expected, but {len(weights)} for {len(inner)} rows came.")
    if not bool(torch.isfinite(inner).all()) or not bool(((weights > 0) & torch.isfinite(weights)).all()):
        raise LunarError("Finite activations and positive weights were expected: the model may be damaged, check it.")


def _factor(
    moments: Moments, inner: Float[Tensor, "rows m"], weights: Float[Tensor, " rows"], ridge: float
) -> Float[Tensor, "m m"]:
    """The Cholesky factor of A + λ·mean(diag A)·I, in float64."""
    matrix = moments.second + inner.T @ (inner * weights[:, None])
    matrix.diagonal().add_(ridge * matrix.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(matrix)
    # A singular matrix may get through on pivots of pure rounding noise, and then gives an arbitrary solution.
    noise = len(matrix) * torch.finfo(matrix.dtype).eps * torch.linalg.matrix_norm(matrix)
    if bool(failed) or not bool(_smallest_eigenvalue(factor) > noise):
        raise LunarError(
            f"The least squares is singular at ridge {ridge:g}: there are fewer independent rows than inputs, so give "
            "a larger ridge (1e-4 is the usual value)."
        )
    return factor


def _smallest_eigenvalue(factor: Float[Tensor, "m m"]) -> Float[Tensor, ""]:
    """About the smallest eigenvalue of L Lᵀ by inverse iteration: a few solves, cheap beside the factorisation."""
    vector = torch.randn(len(factor), 1, generator=torch.Generator().manual_seed(0), dtype=factor.dtype)
    vector = vector.to(factor.device) / vector.norm()
    length = torch.ones((), dtype=factor.dtype, device=factor.device)
    for _ in range(4):
        vector = torch.cholesky_solve(vector, factor)
        length = vector.norm()
        vector = vector / length
    return 1 / length


def solve(moments: Moments, inner: Float[Tensor, "rows m"], terms: Sequence[Term], ridge: float) -> Solution:
    """The change of the write-back matrix that best gives every row what it asks for.

    Args:
        moments: sums over the pinned rows.
        inner: [rows, m] write-back inputs of the redirected rows.
        terms: one ridge problem each over the same rows; their solutions are added with their gains.
        ridge: λ, relative to the mean of A's diagonal. Larger: smaller weights, less exact redirection, less
            sensitivity to rare inputs. Smaller: the reverse.

    Returns thin factors of the smallest rank that represents the solution, in float64.
    Raises LunarError for mismatched widths, an empty row set, or a singular problem (ridge 0 with too few rows).
    """
    rows = inner.to(moments.second)
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
        factor = _factor(moments, rows, weights, ridge)
        reads.append(torch.cholesky_solve((rows * weights[:, None]).T, factor).T)
        writes.append(term.gain * term.wanted.to(rows).T)
    return thin(torch.cat(writes, dim=1), torch.cat(reads, dim=0))


def thin(write: Float[Tensor, "d rows"], read: Float[Tensor, "rows m"]) -> Solution:
    """The same product with as few columns as its rank, by the singular value decomposition of the small core."""
    left, left_core = torch.linalg.qr(write)
    right, right_core = torch.linalg.qr(read.T)
    core_left, values, core_right = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    rank = max(1, int((values > RANK_TOLERANCE * values[0]).sum()))
    roots = values[:rank].sqrt()
    return Solution((left @ core_left[:, :rank]) * roots, roots[:, None] * (core_right[:rank] @ right.T))


def gate(
    moments: Moments,
    inner: Float[Tensor, "rows m"],
    weights: Float[Tensor, " rows"],
    prompt: Int[Tensor, " rows"],
    ridge: float,
) -> Gate:
    """The detector of the redirected rows, with leave-one-prompt-out values.

    Args:
        prompt: [rows] which prompt each row belongs to; rows of one prompt are left out together.

    With L = Ω^½ H A⁻¹ Hᵀ Ω^½ and e = 1 − ŷ, the residuals without prompt I are (I − L_II)⁻¹ e_I in the weighted
    coordinates (the block form of the leave-one-out formula of linear regression). The ridge term keeps its size.
    """
    rows, weight = inner.to(moments.second), weights.to(moments.second)
    _check(moments, rows, weight, ridge)
    factor = _factor(moments, rows, weight, ridge)
    vector = torch.cholesky_solve((rows.T @ weight)[:, None], factor)[:, 0]
    values = rows @ vector
    roots = weight.sqrt()
    half = torch.linalg.solve_triangular(factor, (rows * roots[:, None]).T, upper=False)
    left_out = torch.empty_like(values)
    for index in prompt.unique():
        here = prompt == index
        leverage = half[:, here].T @ half[:, here]
        residual = roots[here] * (1 - values[here])
        identity = torch.eye(len(leverage), dtype=leverage.dtype, device=leverage.device)
        remaining, failed = torch.linalg.cholesky_ex(identity - leverage)
        if bool(failed) or not bool((remaining.diagonal() ** 2 > LEVERAGE_TOLERANCE).all()):
            raise LunarError(
                f"The least squares without one of the prompts is singular at ridge {ridge:g}: give more retain "
                "prompts or a larger ridge (1e-4 is the usual value)."
            )
        left_out[here] = 1 - torch.cholesky_solve(residual[:, None], remaining)[:, 0] / roots[here]
    return Gate(vector, values, left_out)
