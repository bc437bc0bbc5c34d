"""Add a difference of means to the residual stream of one layer, towards where the answers are given.

Source: "Extracting Unlearned Information from LLMs with Activation Steering" (arXiv 2411.02631), with differences of
means as in "Steering Llama 2 via Contrastive Activation Addition" (arXiv 2312.06681). The direction is estimated on
one half of the forget prompts and scored on the other. Two origins: "original" is from the unlearned model's forget
prompts to the original's, for an attacker who has both models; "known" is from the unlearned model's forget prompts to
its retain prompts, for one who has the unlearned model and some of the questions. Control: the model that never knew,
steered in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from jaxtyping import Float
from torch import Tensor

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.attacks.directions import directions, usable
from lunar.attacks.hooks import added
from lunar.models import LoadedModel, Site


@contextmanager
def steered(
    loaded: LoadedModel, site: Site, direction: Float[Tensor, " d"], *, everywhere: bool = False
) -> Iterator[Attacked]:
    """The model with a direction added behind the site's layer, at the last prompt token or at all tokens."""
    with added(loaded.model, site, direction, everywhere=everywhere):
        yield Attacked(loaded)


def variants(case: Case) -> Iterator[Variant]:
    """Each origin, layer, strength and place that the budget allows; all tokens only where there is time."""
    places = (False, True) if len(case.budget.strengths) > 2 else (False,)
    sites = case.sites()
    for origin in usable(case, "original", "known"):
        found = directions(case, sites, origin)
        for site in sites:
            for strength in case.budget.strengths:
                for everywhere in places:
                    settings = {"origin": origin, "layer": site.layer, "strength": strength}
                    yield Variant(
                        settings | {"tokens": "all" if everywhere else "last"},
                        partial(steered, case.unlearned, site, strength * found[site.layer], everywhere=everywhere),
                    )


ATTACK = Attack(
    name="steering",
    title="A steering vector",
    source="Seyitoğlu et al., arXiv 2411.02631; difference of means as in arXiv 2312.06681",
    access="weights",
    needs="the weights, half of the forgotten prompts, and the original model or retain prompts",
    control="the control steered in the same way",
    variants=variants,
    halves=True,
)
