"""A batch as one call of the model for each of its stages; every call goes on from what the ones before remembered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lunar.activations.batches import input_device, pad
from lunar.activations.prefixes import Stage, Tokens, stages

CALL = {"cpu": 64, "cuda": 256}
"""What calling a model costs whatever it is given, in tokens: it reads all of its weights, and a GPU is left idle."""
ATTENTION = {"full_attention", "sliding_attention"}
BY_LENGTH = ("dynamic", "longrope")
"""Rotary positions that depend on how long a sequence is, and not only on where a token stands."""


@dataclass(frozen=True)
class Batch:
    """Token ids, mask (1 on tokens) and positions."""

    tokens: Int[Tensor, "batch length"]
    mask: Int[Tensor, "batch length"]
    positions: Int[Tensor, "batch length"]


def batch_of(
    model: PreTrainedModel, sequences: Sequence[Tokens], pad_token_id: int, side: Literal["left", "right"]
) -> Batch:
    """Some sequences, padded, where the model expects them."""
    tokens, mask = pad(sequences, pad_token_id, side, input_device(model))
    return Batch(tokens, mask, (mask.cumsum(1) - 1).clamp_min(0))


def planned_for(model: PreTrainedModel, sequences: Sequence[Tokens], most: int | None = None) -> list[Stage]:
    """The stages that cost least on the model's device, a single one where it is not known to go on from a prefix.

    No stage but the last has tokens beyond the first `most` of each sequence.
    """
    if len(sequences) < 2 or not can_share(model):
        return stages(sequences)
    return stages(sequences, CALL.get(input_device(model).type, CALL["cuda"]), most)


def can_share(model: PreTrainedModel) -> bool:
    """Whether it is known that the model can go on from what it remembers of a prefix as if it read the whole.

    That holds for the architectures of transformers that remember keys and values and nothing else, and in which no
    token sees those behind it. Where accelerate keeps weights elsewhere, every call would fetch them once more.
    """
    body: Any = model.base_model
    config: Any = model.config.get_text_config(decoder=True)
    return (
        type(model).__module__.startswith("transformers.models.")
        and "past_key_values" in signature(body.forward).parameters
        and not getattr(model, "_is_stateful", False)
        and not getattr(config, "use_bidirectional_attention", None)
        and getattr(config, "is_causal", True)
        and ATTENTION.issuperset(getattr(config, "layer_types", None) or ())
        and not any(kind in repr(getattr(config, "rope_parameters", None)) for kind in BY_LENGTH)
        and all(parameter.device.type != "meta" for parameter in model.parameters())
    )


def each_call(
    model: PreTrainedModel, batch: Batch, planned: Sequence[Stage], *, skipped: int = 0
) -> Iterator[tuple[Stage, dict[str, Any]]]:
    """Each stage with the arguments of its call; the caller calls before it takes the next.

    `skipped` is how many of the first layers are not run, so that what they would remember is made up: nobody reads it,
    but the model learns from the first layer how much there is.
    """
    body: Any = model.base_model
    positioned = "position_ids" in signature(body.forward).parameters
    remembered = DynamicCache(config=model.config) if len(planned) > 1 else None
    for stage in planned:
        rows, here = list(stage.rows), slice(stage.start, stage.end)
        arguments: dict[str, Any] = {
            "input_ids": batch.tokens[rows, here],
            "attention_mask": batch.mask[rows, : stage.end],
            "use_cache": remembered is not None,
        }
        if positioned:
            # Absolute position embeddings would count the padding otherwise.
            arguments["position_ids"] = batch.positions[rows, here]
        if remembered is not None:
            if stage.parents:
                remembered.batch_select_indices(torch.tensor(stage.parents))
            arguments["past_key_values"] = remembered
        yield stage, arguments
        if remembered is not None and skipped and stage is not planned[-1]:
            nothing = torch.zeros(len(rows), 1, stage.length, 1, device=batch.tokens.device)
            layers: list[Any] = remembered.layers[:skipped]
            for layer in layers:
                layer.update(nothing, nothing)
