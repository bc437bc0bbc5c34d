"""Large symmetric matrices: summed up, and solved with in their own memory, after which they are as they were.

A sum over activations takes 1.6 GB at 14336 inputs, and a copy to factorise as much again. What is symmetric says
everything twice: here the lower triangle is written over by the factor, and made again from the upper one. Torch only:
nothing here knows what the matrix is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 256
"""Rows that are worked on at once. Outside of the blocks on the diagonal, one triangle is the other's mirror image."""


def blocks(size: int) -> list[tuple[int, int]]:
    """Where each block of rows begins and ends."""
    return [(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]


def mirror(matrix: Float[Tensor, "n n"]) -> None:
    """Make what lies left of the blocks on the diagonal that of the other side of it."""
    for start, stop in blocks(len(matrix)):
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T


def add(matrix: Float[Tensor, "n n"], left: Float[Tensor, "n k"], right: Float[Tensor, "k n"]) -> None:
    """Add a product that is symmetric: half of it is known from the other half, which is nearly half of the work."""
    for start, stop in blocks(len(matrix)):
        matrix[start:stop, start:].addmm_(left[start:stop], right[:, start:])
    mirror(matrix)


def add_below(matrix: Float[Tensor, "n n"], left: Float[Tensor, "n k"], right: Float[Tensor, "k n"]) -> None:
    """Add a product that is symmetric to the lower triangle and the diagonal alone."""
    for start, stop in blocks(len(matrix)):
        matrix[start:stop, :stop].addmm_(left[start:stop], right[:, :stop])


@contextmanager
def borrowed(matrix: Float[Tensor, "n n"]) -> Iterator[None]:
    """Within the block, the lower triangle and the diagonal may be written over; behind it they are as they were.

    The matrix must be one that `add` or `mirror` left, its upper triangle be let alone, and nobody else read it
    meanwhile.
    """
    kept = [matrix[start:stop, start:stop].clone() for start, stop in blocks(len(matrix))]
    try:
        yield
    finally:
        for (start, stop), one in zip(blocks(len(matrix)), kept, strict=True):
            matrix[start:stop, start:stop] = one
        mirror(matrix)


def solve_below(matrix: Float[Tensor, "n n"], right: Float[Tensor, "n k"], added: float) -> Float[Tensor, "n k"] | None:
    """Solve for the symmetric matrix of which the lower triangle is given, with `added` on its diagonal, by Cholesky.

    The lower triangle and the blocks on the diagonal are written over, and nothing of the matrix's size is allocated.
    None where the matrix is singular to the precision of its type, or holds what is no number.
    """
    matrix.diagonal().add_(added)
    noise = len(matrix) * torch.finfo(matrix.dtype).eps * _norm(matrix)
    # A singular matrix may get through on pivots of pure rounding noise, and then gives an arbitrary solution.
    if not _factorised(matrix) or not _smallest_eigenvalue(matrix) > noise:
        return None
    return _substituted(matrix, right)


def _norm(matrix: Float[Tensor, "n n"]) -> float:
    """Frobenius's, of the symmetric matrix whose lower triangle is given."""
    squares = 0.0
    for start, stop in blocks(len(matrix)):
        own = matrix[start:stop, start:stop]
        squares += 2 * float(torch.linalg.vector_norm(matrix[start:stop, :start])) ** 2
        squares += 2 * float(torch.linalg.vector_norm(own.tril(-1))) ** 2
        squares += float(torch.linalg.vector_norm(own.diagonal())) ** 2
    return squares**0.5


def _factorised(matrix: Float[Tensor, "n n"]) -> bool:
    """Write L over the lower triangle, a block of columns after the other; whether all pivots were positive.

    Source: the left-looking blocked form of Cholesky's factorisation, Golub and Van Loan, "Matrix Computations".
    """
    for start, stop in blocks(len(matrix)):
        matrix[start:, start:stop].addmm_(matrix[start:, :start], matrix[start:stop, :start].T, alpha=-1)
        factor, failed = torch.linalg.cholesky_ex(matrix[start:stop, start:stop])
        if bool(failed):
            return False
        matrix[start:stop, start:stop] = factor
        below = matrix[stop:, start:stop]
        below.copy_(torch.linalg.solve_triangular(factor.T, below, upper=True, left=False))
    return True


def _substituted(factor: Float[Tensor, "n n"], right: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """(L Lᵀ)⁻¹ times the right side: forwards through L, and backwards through its transpose."""
    found = right.clone()
    for start, stop in blocks(len(factor)):
        known = found[start:stop] - factor[start:stop, :start] @ found[:start]
        found[start:stop] = torch.linalg.solve_triangular(factor[start:stop, start:stop], known, upper=False)
    for start, stop in reversed(blocks(len(factor))):
        known = found[start:stop] - factor[stop:, start:stop].T @ found[stop:]
        found[start:stop] = torch.linalg.solve_triangular(factor[start:stop, start:stop].T, known, upper=True)
    return found


def _smallest_eigenvalue(factor: Float[Tensor, "n n"]) -> float:
    """About the smallest eigenvalue of L Lᵀ by inverse iteration: a few solves, cheap beside the factorisation."""
    vector = torch.randn(len(factor), 1, generator=torch.Generator().manual_seed(0), dtype=factor.dtype)
    vector = vector.to(factor.device) / vector.norm()
    length = torch.ones((), dtype=factor.dtype, device=factor.device)
    for _ in range(4):
        vector = _substituted(factor, vector)
        length = vector.norm()
        vector = vector / length
    return float(1 / length)
