"""Multiply the matrices that unlearning changed by a number.

Source: this library. A redirection that is written by one matrix is weaker where the matrix is; an attacker needs the
weights and to know which matrix it is, which our edits say of themselves. Control: wrong answers to like questions,
since a model that never knew has no such matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.attacks.weights import changes, matrices, replaced
from lunar.models import LoadedModel

FACTORS = (0.25, 0.5, 0.75, 1.25, 1.5)


@contextmanager
def scaled(loaded: LoadedModel, original: LoadedModel, factor: float) -> Iterator[Attacked]:
    """The model with every changed matrix multiplied by a factor. The original only says which they are.

    Raises LunarError where the models have other shapes or no matrix differs.
    """
    changed = matrices(changes(original.model, loaded.model))
    with replaced(loaded.model, {name: after * factor for name, (_, after) in changed.items()}):
        yield Attacked(loaded)


def variants(case: Case) -> Iterator[Variant]:
    """Weaker and stronger."""
    for factor in FACTORS:
        yield Variant({"factor": factor}, partial(scaled, case.unlearned, case.original, factor))


ATTACK = Attack(
    name="scale",
    title="The changed matrices scaled",
    source="this library",
    access="weights",
    needs="the weights, and which matrices were changed",
    control="wrong answers to like questions",
    variants=variants,
    uses_original=True,
)
