"""Go back a part of the way to the original: W = (1 − t)·W_unlearned + t·W_original in every changed weight.

Source: interpolation as in "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs" (arXiv 1802.10026); as an
attack this library's. It shows how much of the change is needed: an attacker who has the original has everything
already. Control: wrong answers to like questions, since interpolating with the original lets any model know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.attacks.weights import changes, replaced
from lunar.models import LoadedModel

SHARES = (0.25, 0.5, 0.75)


@contextmanager
def interpolated(loaded: LoadedModel, original: LoadedModel, share: float) -> Iterator[Attacked]:
    """The model with its weights that share of the way towards the original's. 0 changes nothing, 1 is the original.

    Raises LunarError where the models have other shapes or do not differ.
    """
    changed = changes(original.model, loaded.model)
    values = {name: torch.lerp(after.float(), before.float(), share) for name, (before, after) in changed.items()}
    with replaced(loaded.model, values):
        yield Attacked(loaded)


def variants(case: Case) -> Iterator[Variant]:
    """A quarter, a half and three quarters of the way."""
    for share in SHARES:
        yield Variant({"share": share}, partial(interpolated, case.unlearned, case.original, share))


ATTACK = Attack(
    name="interpolate",
    title="Part of the way back to the original",
    source="this library; interpolation of weights as in arXiv 1802.10026",
    access="weights",
    needs="the weights before and after",
    control="wrong answers to like questions",
    variants=variants,
    uses_original=True,
)
