"""Streaming sums over activations: what a solve needs to know of data it will never see again.

`Moments` adds up w h hᵀ over pinned rows, `ReferenceMean` the mean residual per position over reference prompts. Both
see batches, can be merged, and forget the batches. `FewRows` keeps them where that takes less. They know nothing of
models, prompts or tokens: torch only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lunar import symmetric
from lunar.errors import LunarError

FORMAT = "lunar moments 1"


@dataclass
class Moments:
    """The weighted second moment A = sum of w h hᵀ of write-back inputs.

    Attributes:
        second: [m, m] in float64, products included: a few rows of huge activations, as first tokens have in large
            models, would otherwise drown the rest in rounding noise and make the sum indefinite.
        rows: how many rows were added.
    """

    second: Float[Tensor, "m m"]
    rows: int = 0

    @classmethod
    def zeros(cls, inner_width: int, device: torch.device | str = "cpu") -> Moments:
        """Empty sums for inputs of width m."""
        return cls(torch.zeros(inner_width, inner_width, dtype=torch.float64, device=device))

    @property
    def device(self) -> torch.device:
        """Where they are added up."""
        return self.second.device

    def cpu(self) -> Moments:
        """The same in main memory."""
        return Moments(self.second.cpu(), self.rows)

    def update(
        self, inner: Float[Tensor, "tokens m"], weights: Float[Tensor, " tokens"], rows: int | None = None
    ) -> Moments:
        """Add rows with their weights (non-negative); returns self.

        `rows` is how many they are where one stands for several, and None where each is one.
        """
        if inner.shape[1] != len(self.second):
            raise LunarError(
                f"Rows of width {len(self.second)} were expected, but {inner.shape[1]} came: take all rows from the "
                "same layer of the same model."
            )
        # The product is taken in float64, as its second factor is.
        exact = inner.to(self.second.device) * weights.to(self.second).sqrt()[:, None]
        symmetric.add(self.second, exact.T, exact)
        self.rows += len(inner) if rows is None else rows
        return self

    def add(self, other: Moments, weight: float = 1.0) -> Moments:
        """Add the sums over another stream, so many times over; returns self. Raises LunarError as `merge` does."""
        self._check(other)
        self.second.add_(other.second.to(self.second), alpha=weight)
        self.rows += other.rows
        return self

    def merge(self, other: Moments) -> Moments:
        """The sums over both streams; neither is changed. Raises LunarError if the widths differ."""
        self._check(other)
        return Moments(self.second + other.second.to(self.second), self.rows + other.rows)

    def _check(self, other: Moments) -> None:
        if self.second.shape != other.second.shape:
            raise LunarError(
                f"Moments of one width can be merged, but these have {len(self.second)} and {len(other.second)}: "
                "collect both at the same layer of the same model."
            )

    def save(self, path: Path) -> None:
        """Write one safetensors file. The sums derive from the data: protect them like the data."""
        path.touch(mode=0o600)
        path.chmod(0o600)  # before the data is there, also where the file existed
        save_file({"second": self.second.contiguous()}, path, {"rows": str(self.rows), "format": FORMAT})
        path.chmod(0o600)

    @classmethod
    def load(cls, path: Path) -> Moments:
        """Read what `save` wrote. Raises LunarError if the file is missing, damaged or something else."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata, second = file.metadata(), file.get_tensor("second")
            rows = int(metadata["rows"])
            square = second.ndim == 2 and second.shape[0] == second.shape[1]
            if metadata["format"] != FORMAT or not square or not bool(torch.isfinite(second).all()):
                raise ValueError("not moments")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise LunarError(
                f"{path} holds no moments that can be read ({type(error).__name__}): collect them again."
            ) from error
        return cls(second, rows)


@dataclass
class FewRows:
    """The same of rows that are fewer than their inputs: they are kept, and the problem is solved in their number.

    Attributes:
        width: m.
        device: where they are kept.
        kept: [tokens, m] batches in float64, every row times the root of its weight, so that A is the sum of g gᵀ.
        rows: how many rows were added.
    """

    width: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    kept: list[Float[Tensor, "_ m"]] = field(default_factory=list)
    rows: int = 0

    def update(
        self, inner: Float[Tensor, "tokens m"], weights: Float[Tensor, " tokens"], rows: int | None = None
    ) -> FewRows:
        """Add rows with their weights (non-negative), as `Moments.update`; returns self."""
        if inner.shape[1] != self.width:
            raise LunarError(
                f"Rows of width {self.width} were expected, but {inner.shape[1]} came: take all rows from the same "
                "layer of the same model."
            )
        self.kept.append(inner.to(self.device) * weights.to(self.device, torch.float64).sqrt()[:, None])
        self.rows += len(inner) if rows is None else rows
        return self

    def cpu(self) -> FewRows:
        """The same in main memory."""
        return FewRows(self.width, torch.device("cpu"), [part.cpu() for part in self.kept], self.rows)

    def moments(self) -> Moments:
        """Their sum A."""
        total = Moments.zeros(self.width, self.device)
        for part in self.kept:
            total.update(part, torch.ones(len(part)))
        total.rows = self.rows
        return total


@dataclass
class ReferenceMean:
    """The mean residual activation per position from the prompt's end: μ in the design.

    Attributes:
        total: [positions, d] sums in float64; position 0 is the last prompt token.
        count: [positions] rows per position.
    """

    total: Float[Tensor, "positions d"]
    count: Int[Tensor, " positions"]

    @classmethod
    def zeros(cls, positions: int, width: int, device: torch.device | str = "cpu") -> ReferenceMean:
        """Empty sums for the last `positions` prompt tokens of a model of width d."""
        total = torch.zeros(positions, width, dtype=torch.float64, device=device)
        return cls(total, torch.zeros(positions, dtype=torch.int64, device=device))

    def update(self, residual: Float[Tensor, "tokens d"], from_end: Int[Tensor, " tokens"]) -> ReferenceMean:
        """Add rows; those outside the counted positions (answers, earlier tokens) are ignored; returns self."""
        wanted = (from_end >= 0) & (from_end < len(self.total))
        index = from_end[wanted].to(self.total.device)
        self.total.index_add_(0, index, residual[wanted].to(self.total))
        self.count += torch.bincount(index, minlength=len(self.total))
        return self

    def merge(self, other: ReferenceMean) -> ReferenceMean:
        """The sums over both streams; neither is changed. Raises LunarError if the shapes differ."""
        if self.total.shape != other.total.shape:
            raise LunarError(
                f"Reference means of one shape can be merged, but these have {tuple(self.total.shape)} and "
                f"{tuple(other.total.shape)}: collect both for the same positions of the same model."
            )
        return ReferenceMean(self.total + other.total, self.count + other.count)

    def mean(self) -> Float[Tensor, "positions d"]:
        """μ, [positions, d] in float64. Raises LunarError if no reference prompt reaches back to some position."""
        if not bool((self.count > 0).all()):
            raise LunarError(
                f"The reference prompts must be at least {len(self.count)} tokens long, but the longest has "
                f"{int((self.count > 0).sum())}: give longer ones or redirect fewer tokens."
            )
        return self.total / self.count[:, None]
