"""How well forget prompts are told from all others at one layer, judged on prompts that were left out.

A detector of the last prompt tokens is solved as the gate of a `shift` edit is, but in the dual, so that its cost goes
with the number of prompts and not with the MLP's width m:

    G = Ω^½ H Hᵀ Ω^½        C = (G + κI)⁻¹        α = C Ω^½ t        κ = λ · trace(G) / m

H [rows, m] are the write-back inputs, t is 1 for forget prompts and 0 for others, Ω the weights. Without row i the
detector would read t_i − α_i / (C_ii √ω_i) there: the leave-one-out formula of kernel ridge regression (Rifkin and
Lippert, "Notes on regularized least squares", 2007). The ridge keeps its size. Torch only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lunar.errors import LunarError

LOW, HIGH = 0.1, 0.99
"""The quantiles between which the margin lies: of forget prompts, and of the many more others."""


@dataclass(frozen=True)
class Separation:
    """Gate values of prompts that were left out, each in its turn: 1 is a forget prompt, 0 none.

    Attributes:
        forget: [forget] of the forget prompts.
        retain: [retain] of the retain prompts: how strongly an unseen one would be taken for a forget prompt.
    """

    forget: Float[Tensor, " forget"]
    retain: Float[Tensor, " retain"]

    @property
    def ordered(self) -> float:
        """Share of pairs in which the forget prompt has the higher value, ties counting half; 0.5 is chance."""
        higher = (self.forget[:, None] > self.retain[None]).double().mean()
        equal = (self.forget[:, None] == self.retain[None]).double().mean()
        return float(higher + equal / 2)

    @property
    def margin(self) -> float:
        """The 10% quantile of the forget prompts minus the 99% quantile of the retain prompts; 1 is perfect."""
        return float(self.forget.quantile(LOW) - self.retain.quantile(HIGH))


def separation(
    forget: Float[Tensor, "forget m"],
    retain: Float[Tensor, "retain m"],
    others: Float[Tensor, "others m"],
    *,
    forget_weight: float,
    retain_weight: float,
    ridge: float,
) -> Separation:
    """Leave-one-prompt-out gate values at one layer.

    Args:
        forget: write-back inputs at the last tokens of the forget prompts. A single one cannot be left out, so that its
            plain value is taken.
        retain: the same of the retain prompts.
        others: of further prompts to leave alone; they count as examples and are not judged.
        forget_weight: weight of each forget prompt.
        retain_weight: weight of each of the others.
        ridge: λ, relative to the mean of A's diagonal, as in `lunar.solve`.

    Raises LunarError without forget or retain prompts, or if the problem is singular (ridge 0).
    """
    if not len(forget) or not len(retain):
        raise LunarError(
            f"Forget and retain prompts to tell apart were expected, but {len(forget)} and {len(retain)} came: give "
            "some of both."
        )
    rows = torch.cat([forget, retain, others]).double()
    wanted = torch.zeros(len(rows), dtype=rows.dtype, device=rows.device)
    wanted[: len(forget)] = 1
    weights = torch.full_like(wanted, retain_weight)
    weights[: len(forget)] = forget_weight
    values, left_out = leave_one_out(rows, wanted, weights, ridge)
    ours = left_out[: len(forget)] if len(forget) > 1 else values[:1]
    return Separation(ours, left_out[len(forget) : len(forget) + len(retain)])


def leave_one_out(
    inner: Float[Tensor, "rows m"], wanted: Float[Tensor, " rows"], weights: Float[Tensor, " rows"], ridge: float
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The fitted value of each row, and what it would be had the row not been there; float64."""
    rows, roots = inner.double(), weights.double().sqrt()
    scaled = rows * roots[:, None]
    gram = scaled @ scaled.T
    size = ridge * gram.diagonal().sum() / inner.shape[1]
    matrix = gram + size * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed) or not bool(torch.isfinite(factor).all()):
        raise LunarError(
            f"The detector of the forget prompts is singular at ridge {ridge:g}: give a larger ridge (1e-4 is the "
            "usual value) or check the model's activations."
        )
    inverse = torch.cholesky_inverse(factor)
    dual = inverse @ (roots * wanted.double())
    values = wanted - size * dual / roots
    return values, wanted - dual / (inverse.diagonal() * roots)
