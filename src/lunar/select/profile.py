"""What one pass over all prompts says of every layer: where forget prompts are best told from the others.

At each decoder layer, only the last prompt token is kept: the input of the matrix that writes back, and the residual.
Nothing is generated and no answer is read. The mathematics is in `lunar.select.separation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lunar.activations import Captured, capture_layers, join
from lunar.models import LoadedModel, Site
from lunar.prompts import TokenSequence
from lunar.select.separation import separation
from lunar.settings import Settings

Encoded = Mapping[str, Sequence[TokenSequence]]


@dataclass(frozen=True)
class LayerProfile:
    """One layer's line of the profile; all values are of prompts that were left out, each in its turn.

    Attributes:
        layer: the decoder layer.
        ordered: share of pairs of a forget and a retain prompt in which the forget prompt has the higher gate value;
            0.5 is chance, 1 is perfect.
        margin: the 10% quantile of the forget prompts minus the 99% quantile of the retain prompts.
        forget_median: of the gate values of the forget prompts.
        retain_high: the 99% quantile of the gate values of the retain prompts.
        distance: of the reference mean from the mean forget prompt, relative to the forget residuals' norm.
    """

    layer: int
    ordered: float
    margin: float
    forget_median: float
    retain_high: float
    distance: float


def ranked(lines: Sequence[LayerProfile]) -> list[LayerProfile]:
    """Best separated first: by the share of ordered pairs to two digits, then the lower layer."""
    return sorted(lines, key=lambda line: (-round(line.ordered, 2), line.layer))


def profile(
    loaded: LoadedModel,
    sites: Sequence[Site],
    sets: Encoded,
    settings: Settings,
    *,
    progress: Callable[[int], None] | None = None,
) -> tuple[LayerProfile, ...]:
    """One line per site, from one pass over the sets "forget", "retain", "neighbours" (may be empty) and "reference".

    Memory: prompts × layers × (m + d) numbers in the model's precision. Raises LunarError as `separation` does.
    """
    names = ("forget", "retain", "neighbours", "reference")
    prompts = [
        TokenSequence(one.tokens[: one.prompt_length], one.prompt_length) for name in names for one in sets[name]
    ]
    rows = last_rows(loaded, sites, prompts, progress)
    lines = []
    for site in sites:
        inner, residual = rows.pop(site.layer)
        sizes = [len(sets[name]) for name in names]
        forget, retain, others, _ = inner.split(sizes)
        found = separation(
            forget.double(),
            retain.double(),
            others.double(),
            forget_weight=settings.redirected_weight(),
            retain_weight=settings.retain_weight,
            ridge=settings.ridge,
        )
        ours, _, _, reference = residual.double().split(sizes)
        distance = (reference.mean(0) - ours.mean(0)).norm() / ours.norm(dim=1).mean().clamp_min(1e-12)
        lines.append(
            LayerProfile(
                site.layer,
                found.ordered,
                found.margin,
                float(found.forget.median()),
                float(found.retain.quantile(0.99)),
                float(distance),
            )
        )
    return tuple(lines)


def last_rows(
    loaded: LoadedModel,
    sites: Sequence[Site],
    prompts: Sequence[TokenSequence],
    progress: Callable[[int], None] | None,
) -> dict[int, tuple[Float[Tensor, "prompts m"], Float[Tensor, "prompts d"]]]:
    """Inputs and residuals at the last prompt tokens per layer, in the order of the prompts, on the CPU."""
    padding = loaded.tokenizer.pad_token_id or 0
    batches: dict[int, list[Captured]] = {site.layer: [] for site in sites}
    for batch in capture_layers(loaded.model, sites, prompts, last_only=True, pad_token_id=padding, progress=progress):
        for layer, seen in batch.items():
            batches[layer].append(seen.to("cpu"))
    joined = {layer: join(seen) for layer, seen in batches.items()}
    return {layer: (rows.inner, rows.residual) for layer, rows in joined.items()}
