"""Undo the redirection by its own direction: subtract s·r from the residual stream behind one layer.

Source: reversing the direction is one of the white-box attacks of "LLM Unlearning via Neural Activation Redirection"
(arXiv 2502.07218). r leads from what is known to what the model declines, with two origins: "reference" is the r of
the method, from half of the forget prompts to the reference prompts under the original model; "declined" is from
retain to reference prompts under the unlearned model, for an attacker who has neither the original nor a forget
prompt. Control: the model that never knew with the same direction subtracted.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from lunar.attacks.attack import Attack, Case, Variant
from lunar.attacks.directions import directions, usable
from lunar.attacks.steering import steered


def variants(case: Case) -> Iterator[Variant]:
    """Each origin, layer and strength that the budget allows, at the last prompt token."""
    sites = case.sites()
    for origin in usable(case, "reference", "declined"):
        found = directions(case, sites, origin)
        for site in sites:
            for strength in case.budget.strengths:
                yield Variant(
                    {"origin": origin, "layer": site.layer, "strength": strength},
                    partial(steered, case.unlearned, site, -strength * found[site.layer]),
                )


ATTACK = Attack(
    name="reverse",
    title="The direction of the redirection subtracted",
    source="Shen et al., arXiv 2502.07218 (reverse direction)",
    access="weights",
    needs="the weights, declined prompts, and retain prompts or the original and half of the forgotten prompts",
    control="the control with the same direction subtracted",
    variants=variants,
    halves=True,
)
