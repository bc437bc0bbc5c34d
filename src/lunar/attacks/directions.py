"""Where a model's activations stand at the last prompt token, on average: what directions are differences of.

Knows models and records; knows nothing of what a direction is used for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lunar.activations import capture_layers
from lunar.errors import LunarError
from lunar.models import LoadedModel, Site, context_length
from lunar.prompts import encode_all
from lunar.records import Record

Means = dict[int, Float[Tensor, " d"]]
"""By layer, a mean in float64 on the CPU."""


def last_token_means(loaded: LoadedModel, sites: Sequence[Site], records: Sequence[Record], name: str) -> Means:
    """The mean output of each site's layer at the last prompt token of the records.

    Raises LunarError if there are no records or one does not fit the model.
    """
    if not records:
        raise LunarError(f"The {name} set must hold at least one record for this attack, but it is empty: add one.")
    limit = context_length(loaded.model)
    sequences = encode_all(loaded.tokenizer, records, with_answer=False, context_length=limit, name=name)
    sums: Means = {site.layer: torch.zeros(site.width, dtype=torch.float64) for site in sites}
    for batch in capture_layers(loaded.model, sites, sequences, last_only=True):
        for layer, rows in batch.items():
            sums[layer] += rows.residual.double().sum(0).cpu()
    return {layer: total / len(records) for layer, total in sums.items()}


def difference(to: Means, away: Means) -> Means:
    """By layer, from one mean to the other, in float32."""
    return {layer: (mean - away[layer]).float() for layer, mean in to.items()}
