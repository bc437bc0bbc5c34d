"""Ask many times at temperature 1, and take the best answer.

Source: leak at k, as in "Leak@k: Unlearning Does Not Make LLMs Forget Under Probabilistic Decoding" (arXiv 2511.04934)
and "A Probabilistic Perspective on Unlearning and Alignment for Large Language Models" (arXiv 2410.03523). An attacker
needs to ask often and to know a right answer when it is there, so this is what may be found among the answers and not
what is found. Control: the best of as many answers of the model that never knew, or the best by a wrong answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.errors import LunarError
from lunar.models import LoadedModel


@contextmanager
def sampling(loaded: LoadedModel, count: int) -> Iterator[Attacked]:
    """The model asked `count` times at temperature 1. Raises LunarError for less than once."""
    if count < 1:
        raise LunarError(f"At least 1 answer must be drawn for each question, but {count} came: raise it.")
    yield Attacked(loaded, samples=count)


def variants(case: Case) -> Iterator[Variant]:
    """As many answers as the budget allows."""
    yield Variant({"samples": case.budget.samples}, partial(sampling, case.unlearned, case.budget.samples))


ATTACK = Attack(
    name="sampling",
    title="Many answers at temperature 1",
    source="leak at k, arXiv 2511.04934; Scholten et al., arXiv 2410.03523",
    access="black box",
    needs="to ask often, and to know a right answer when it is there",
    control="the best of as many answers of the control",
    variants=variants,
)
