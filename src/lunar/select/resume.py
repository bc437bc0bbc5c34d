"""Run a model from the output of one decoder layer onwards: what happens below is remembered, not computed again.

A trial of an edit at layer l needs only the layers above l: its residual there is the cached one plus what the edit
writes. The layers up to l are made to hand the residual through, so that embeddings, masks and positions are still
prepared by the model itself, whatever its architecture. Knows nothing of records or scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.activations import Captured, Stage, capture_layers, evaluation_mode, input_device
from lunar.errors import LunarError
from lunar.logits import Resume, answer_logits
from lunar.models import Site
from lunar.passage import DIRECT, Passage, written
from lunar.prompts import TokenSequence
from lunar.solve import Solution


class _Stop(Exception):  # noqa: N818 (not an error: it ends a pass that has shown all it was run for)
    """Raised behind a layer."""


@dataclass(frozen=True)
class Cached:
    """One batch of sequences and what passed some layers at every token, in the order in which it was captured.

    Attributes:
        indices: of the sequences in the list that they came from.
        sequences: the batch.
        rows: per layer, the write-back inputs and residuals of all tokens.
        as_tuple: whether the model's layers yield a tuple that begins with the residual.
    """

    indices: tuple[int, ...]
    sequences: tuple[TokenSequence, ...]
    rows: dict[int, Captured]
    as_tuple: bool


def cache(
    model: PreTrainedModel,
    sites: Sequence[Site],
    sequences: Sequence[TokenSequence],
    *,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Cached]:
    """What passes the layers of `sites` at all tokens of the sequences, from one pass up to the deepest of them.

    Memory: tokens × layers × (m + d) numbers in the model's precision, on its device.
    """
    found: list[Cached] = []
    as_tuple = _yields_tuple(model, sites[0].layer_module(model))
    for batch in capture_layers(model, sites, sequences, batch_size=batch_size, progress=progress):
        # Rows of one sequence stand together, sequences in the order of the batch.
        indices = tuple(dict.fromkeys(next(iter(batch.values())).sequence.tolist()))
        found.append(Cached(indices, tuple(sequences[index] for index in indices), batch, as_tuple))
    return found


def resumed_logits(
    model: PreTrainedModel,
    site: Site,
    cached: Cached,
    solution: Solution | None = None,
    strength: float = 1.0,
    passage: Passage | None = None,
) -> list[Float[Tensor, "_ vocabulary"]]:
    """`lunar.logits.answer_logits` of a cached batch, running only the layers above the site's.

    Args:
        model: the one that the batch was cached from; it is left as it was.
        site: the layer to resume from; it must be among the cached ones.
        cached: the batch.
        solution: a change of the site's matrix, added to the residual as the edited matrix would add it.
        strength: factor on that change.
        passage: how what the matrix writes arrives, where the solution says what is to arrive; None is straight.

    Raises LunarError for a layer that was not cached, or whose outputs cannot be replaced.
    """
    if site.layer not in cached.rows:
        raise LunarError(f"Layer {site.layer} was expected among the cached ones, but they are {sorted(cached.rows)}.")
    rows = cached.rows[site.layer]
    residual = rows.residual
    if solution is not None:
        read, write = solution.read.to(rows.inner.device, torch.float32), solution.write.to(residual.device)
        change = (rows.inner.float() @ read.T).to(residual.device) @ (strength * write).float().T
        if passage is not None and passage.kind != DIRECT:
            own = written(model, site, rows.inner).to(change)
            change = passage.carried(own, passage.factor().to(change) * change)
        residual = (residual.float() + change).to(residual.dtype)
    whole = padded(residual, cached.sequences)

    def within(stage: Stage) -> AbstractContextManager[None]:
        return resumed(model, site, whole[list(stage.rows), stage.start : stage.end], as_tuple=cached.as_tuple)

    # Where the residual is that before a layer's MLP, its attention runs.
    return answer_logits(model, cached.sequences, resume=Resume(site.layer + (not site.before_mlp), within))


def padded(rows: Float[Tensor, "tokens d"], sequences: Sequence[TokenSequence]) -> Float[Tensor, "batch length d"]:
    """Rows of consecutive sequences as a batch padded on the right with zeros, as `answer_logits` pads its tokens."""
    lengths = torch.tensor([len(sequence.tokens) for sequence in sequences], device=rows.device)
    kept = torch.arange(int(lengths.max()), device=rows.device)[None] < lengths[:, None]
    filled = rows.new_zeros(*kept.shape, rows.shape[1])
    filled[kept] = rows
    return filled


@contextmanager
def resumed(
    model: PreTrainedModel, site: Site, residual: Float[Tensor, "batch length d"], *, as_tuple: bool
) -> Iterator[None]:
    """Within the block, a pass over a batch of these dimensions goes on as if the site's layer had yielded `residual`.

    `as_tuple` says whether the model's layers yield a tuple, as `Cached` knows. The layers up to the site's hand their
    input through; what they are is not touched, and their `forward` is as it was behind the block, also after an
    exception. Where the residual is that before the layer's MLP, the layer runs on it with attention that writes 0.
    """
    name, _, last = site.layer_name.rpartition(".")
    layers: Any = model.get_submodule(name)
    chosen: list[nn.Module] = [layers[index] for index in range(int(last) + 1)]
    layer, matrix = chosen[-1], site.module(model)
    run_layer = layer.forward
    if site.before_mlp:
        chosen.append(matrix)
    kept = [module.__dict__.get("forward") for module in chosen]

    def hand_through(*inputs: Any, **named: Any) -> Any:
        hidden = inputs[0] if inputs else named["hidden_states"]
        return (hidden,) if as_tuple else hidden

    def replace(*inputs: Any, **named: Any) -> Any:
        hidden = inputs[0] if inputs else named["hidden_states"]
        if hidden.shape != residual.shape:
            raise LunarError(
                f"A pass over a batch of the shape {tuple(residual.shape)} was expected, but one of "
                f"{tuple(hidden.shape)} came: run the sequences that the residuals were cached from."
            )
        if site.before_mlp:
            named.pop("hidden_states", None)
            return run_layer(residual, *inputs[1:], **named)
        return (residual,) if as_tuple else residual

    def write_nothing(rows: Tensor) -> Tensor:
        return rows.new_zeros(*rows.shape[:-1], site.width)

    try:
        for module in chosen:
            module.__dict__["forward"] = hand_through
        layer.__dict__["forward"] = replace
        if site.before_mlp:
            matrix.__dict__["forward"] = write_nothing
        yield
    finally:
        for module, forward in zip(chosen, kept, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward


def _yields_tuple(model: PreTrainedModel, layer: nn.Module) -> bool:
    """Whether a decoder layer yields a tuple whose first entry is the residual, tried out on one token."""
    seen: list[bool] = []

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen.append(isinstance(output, tuple))
        raise _Stop

    handle = layer.register_forward_hook(look)
    body: Any = model.base_model
    try:
        with torch.no_grad(), evaluation_mode(model):
            body(input_ids=torch.zeros(1, 1, dtype=torch.long, device=input_device(model)), use_cache=False)
    except _Stop:
        pass
    finally:
        handle.remove()
    return seen[0]
