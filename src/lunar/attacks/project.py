"""Take one direction out of the residual stream everywhere: behind every layer, at every token.

Source: "Refusal in Language Models Is Mediated by a Single Direction" (arXiv 2406.11717). The direction is that of one
layer, with two origins: "original" is from half of the forget prompts under the unlearned model to the same under the
original; "declined" is from retain prompts to declined ones under the unlearned model, a refusal direction for an
attacker who has neither the original nor a forget prompt. Control: the model that never knew without the same
direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from jaxtyping import Float
from torch import Tensor

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.attacks.directions import directions, usable
from lunar.attacks.hooks import projected
from lunar.models import LoadedModel, find_sites


@contextmanager
def without_direction(loaded: LoadedModel, direction: Float[Tensor, " d"]) -> Iterator[Attacked]:
    """The model without a direction."""
    with projected(loaded.model, find_sites(loaded.model), direction):
        yield Attacked(loaded)


def variants(case: Case) -> Iterator[Variant]:
    """Each origin and each layer that the budget allows."""
    sites = case.sites()
    for origin in usable(case, "original", "declined"):
        found = directions(case, sites, origin)
        for site in sites:
            yield Variant(
                {"origin": origin, "layer": site.layer},
                partial(without_direction, case.unlearned, found[site.layer]),
            )


ATTACK = Attack(
    name="project",
    title="A direction taken out everywhere",
    source="Arditi et al., arXiv 2406.11717",
    access="weights",
    needs="the weights, and declined and retain prompts or the original and half of the forgotten prompts",
    control="the control without the same direction",
    variants=variants,
    halves=True,
)
