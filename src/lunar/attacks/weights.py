"""Which weights an unlearned model changed, and other weights in their place for a while.

Knows models; knows nothing of records or attacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lunar.errors import LunarError


def changes(original: PreTrainedModel, unlearned: PreTrainedModel) -> dict[str, tuple[Tensor, Tensor]]:
    """By name, the original's and the unlearned model's values of every weight that differs, as they are stored.

    Raises LunarError where the two models have other names or shapes, or do not differ.
    """
    before, after = dict(original.named_parameters()), dict(unlearned.named_parameters())
    if {name: part.shape for name, part in before.items()} != {name: part.shape for name, part in after.items()}:
        raise LunarError(
            "This attack compares weights one by one, but the original and the unlearned model have others: give two "
            "models of the same shape."
        )
    found = {
        name: (before[name].detach().to(part.device), part.detach())
        for name, part in after.items()
        if not torch.equal(before[name].detach().to(part), part.detach())
    }
    if not found:
        raise LunarError(
            "This attack works on weights that unlearning changed, but none differ: give the changed model."
        )
    return found


def matrices(changed: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Those that are matrices. Raises LunarError if none is."""
    found = {name: pair for name, pair in changed.items() if pair[1].ndim == 2}
    if not found:
        raise LunarError("This attack works on changed matrices, but only vectors differ: leave it out.")
    return found


@contextmanager
def replaced(model: PreTrainedModel, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Other values in the named weights; behind it the old ones are back to the bit, also after an exception."""
    kept = {name: model.get_parameter(name).detach().clone() for name in values}
    try:
        with torch.no_grad():
            for name, value in values.items():
                model.get_parameter(name).copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                model.get_parameter(name).copy_(value)
