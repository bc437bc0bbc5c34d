"""Low-rank changes in the place of whole matrices, for training: W + 2·B·A, B zero at first.

Source: "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), with its scale α/r at α = 2r. Written
with torch's parametrizations, so that the shared training loop sees nothing but parameters with other names. Knows
models; knows nothing of data or losses.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from lunar.models import find_sites

SCALE = 2.0


class LowRank(nn.Module):
    """W to W + scale·B·A, with A [r, columns] drawn by a seed and B [rows, r] zero."""

    def __init__(self, weight: Float[Tensor, "rows columns"], rank: int, seed: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        drawn = torch.randn(rank, columns, generator=torch.Generator().manual_seed(seed)) / columns**0.5
        self.right = nn.Parameter(drawn.to(weight))
        self.left = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """The changed matrix."""
        return weight + SCALE * self.left @ self.right


def with_low_rank(model: PreTrainedModel, rank: int, seed: int) -> tuple[PreTrainedModel, list[str]]:
    """A copy with a low-rank change on every matrix of its decoder layers, and the names of what is to be trained."""
    changed = copy.deepcopy(model)
    for site in find_sites(changed):
        for number, module in enumerate(list(site.layer_module(changed).modules())):
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim == 2:
                part = LowRank(weight.detach(), rank, seed + 1000 * site.layer + number)
                parametrize.register_parametrization(module, "weight", part)
    names = [name for name, _ in changed.named_parameters() if name.endswith((".left", ".right"))]
    return changed, names


def merge(model: PreTrainedModel) -> None:
    """The low-rank changes of a model become part of its matrices."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
