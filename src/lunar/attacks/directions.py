"""Directions in the residual stream: differences between mean activations at the last prompt token.

From where to where is the origin of a direction. Forget prompts are always those of the half that the attacker has.
Knows models and records; knows nothing of what a direction is used for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lunar.activations import capture_layers
from lunar.attacks.attack import Case
from lunar.errors import LunarError
from lunar.models import LoadedModel, Site, context_length, site_at
from lunar.prompts import encode_all
from lunar.records import Record

Means = dict[int, Float[Tensor, " d"]]
"""By layer, a mean in float64 on the CPU."""

ORIGINS = {
    "original": (("unlearned", "forget"), ("original", "forget")),
    "known": (("unlearned", "forget"), ("unlearned", "retain")),
    "reference": (("original", "forget"), ("original", "reference")),
    "declined": (("unlearned", "retain"), ("unlearned", "reference")),
}
"""By name, from where to where a direction leads: a model and a set of prompts each. "reference" is the method's own r,
"declined" the same without the original model and without a forget prompt."""


def last_token_means(loaded: LoadedModel, sites: Sequence[Site], records: Sequence[Record], name: str) -> Means:
    """The mean output of each site's layer at the last prompt token of the records.

    Raises LunarError if there are no records or one does not fit the model, or it is of another width.
    """
    if not records:
        raise LunarError(f"The {name} set must hold at least one record for this attack, but it is empty: add one.")
    # Its own matrices: an edit may have widened the MLPs of the other model.
    own = [site_at(loaded.model, site.layer).at_layer_output() for site in sites]
    if [site.width for site in own] != [site.width for site in sites]:
        raise LunarError(
            "This attack takes differences between the activations of two models, but they are not of the same width: "
            "give the original and what was made of it."
        )
    limit = context_length(loaded.model)
    sequences = encode_all(loaded.tokenizer, records, with_answer=False, context_length=limit, name=name)
    sums: Means = {site.layer: torch.zeros(site.width, dtype=torch.float64) for site in sites}
    for batch in capture_layers(loaded.model, own, sequences, last_only=True):
        for layer, rows in batch.items():
            sums[layer] += rows.residual.double().sum(0).cpu()
    return {layer: total / len(records) for layer, total in sums.items()}


def directions(case: Case, sites: Sequence[Site], origin: str) -> Means:
    """By layer, the direction of an origin, in float32.

    Raises LunarError where a set that it needs is empty or cannot be halved.
    """
    models = {"original": case.original, "unlearned": case.unlearned}
    sets = {"forget": case.halves()[0], "retain": case.retain, "reference": case.reference}
    away, to = (last_token_means(models[model], sites, sets[name], name) for model, name in ORIGINS[origin])
    return {layer: (to[layer] - mean).float() for layer, mean in away.items()}


def usable(case: Case, *origins: str) -> list[str]:
    """Those of the origins for which there are prompts; all of them where there are none for any, which is refused."""
    there = {"forget": True, "retain": bool(case.retain), "reference": bool(case.reference)}
    return [one for one in origins if all(there[name] for _, name in ORIGINS[one])] or list(origins)
