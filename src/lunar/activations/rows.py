"""What is captured: rows of activations, and where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Captured:
    """Activations of some tokens, one row each, in the model's dtype and on its device; no padding.

    `inner` is the input of the write-back matrix and `residual` the residual stream behind it: the output of its
    decoder layer or, where the matrix ends the attention, the layer's input plus what the matrix writes. `sequence` is
    the index into the sequences that were given. `from_end` counts from the prompt's end: 0 for the last prompt token,
    1 for the one before; answer tokens are negative, -1 for the first. Where inputs alone were asked for, `residual`
    has no columns.

    Where each distinct row was asked for once, `row` is the place among them of each token's; None elsewhere.
    """

    inner: Float[Tensor, "rows m"]
    residual: Float[Tensor, "rows d"]
    sequence: Int[Tensor, " tokens"]
    from_end: Int[Tensor, " tokens"]
    row: Int[Tensor, " tokens"] | None = None

    def to(self, device: torch.device | str) -> "Captured":
        """The same rows on a device."""
        row = None if self.row is None else self.row.to(device)
        where = self.sequence.to(device), self.from_end.to(device)
        return Captured(self.inner.to(device), self.residual.to(device), *where, row)

    def weighted(
        self, weights: Float[Tensor, " tokens"]
    ) -> tuple[Float[Tensor, "weighted m"], Float[Tensor, " weighted"], int]:
        """The inputs of tokens with a weight above 0, the weights that each row has together, and how many tokens."""
        count = int((weights > 0).sum())
        if self.row is not None:
            weights = weights.new_zeros(len(self.inner)).index_add_(0, self.row, weights)
        weighted = weights > 0
        if bool(weighted.all()):  # as nearly always: no copy
            return self.inner, weights, count
        return self.inner[weighted], weights[weighted], count

    def expanded(self) -> "Captured":
        """The same with a row for every token."""
        if self.row is None:
            return self
        return Captured(self.inner[self.row], self.residual[self.row], self.sequence, self.from_end)


def join(batches: Sequence[Captured]) -> Captured:
    """The rows of at least one batch together, one per token, ordered by sequence and then by position in it."""
    batches = [batch.expanded() for batch in batches]
    sequence = torch.cat([batch.sequence for batch in batches])
    # A stable sort, and batches hold whole sequences in order: positions stay in order within each sequence.
    order = torch.argsort(sequence, stable=True)
    return Captured(
        torch.cat([batch.inner for batch in batches])[order],
        torch.cat([batch.residual for batch in batches])[order],
        sequence[order],
        torch.cat([batch.from_end for batch in batches])[order],
    )
