"""One batch through the model, in the stages that its common prefixes make; hooks live no longer than a stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.activations.batches import evaluation_mode
from lunar.activations.calls import Batch, batch_of, each_call, planned_for
from lunar.activations.prefixes import Stage, stages
from lunar.activations.rows import Captured
from lunar.errors import LunarError
from lunar.models import Site
from lunar.prompts import TokenSequence


@dataclass(frozen=True)
class Wanted:
    """Which rows are kept, and how the batch is laid out: the arguments of `lunar.activations.capture_layers`."""

    last_only: bool
    inner_only: bool
    distinct: bool
    share_prefixes: bool
    pad_token_id: int
    padding_side: Literal["left", "right"]


class _Stop(Exception):  # noqa: N818 (not an error: it ends a pass that has shown all it was run for)
    """Raised behind the layer."""


def capture_batch(
    model: PreTrainedModel,
    sites: Sequence[Site],
    sequences: Sequence[TokenSequence],
    indices: Sequence[int],
    wanted: Wanted,
) -> dict[int, Captured]:
    """The rows of some of the sequences, by layer."""
    chosen = [sequences[index] for index in indices]
    batch = batch_of(model, [one.tokens for one in chosen], wanted.pad_token_id, wanted.padding_side)
    last = torch.tensor([one.prompt_length - 1 for one in chosen], device=batch.mask.device)
    from_end = last[:, None] - batch.positions
    kept = batch.mask.bool() & (from_end == 0) if wanted.last_only else batch.mask.bool()
    share = wanted.share_prefixes and wanted.padding_side == "right"
    planned = planned_for(model, [one.tokens for one in chosen]) if share else stages([one.tokens for one in chosen])
    needed, row = _rows(planned, kept)
    sequence = torch.tensor(list(indices), device=kept.device)[:, None].expand_as(kept)[kept]
    from_end = from_end[kept]
    every = wanted.distinct or len(planned) == 1
    found = {}
    for layer, rows in _run(model, sites, batch, planned, needed, wanted.inner_only).items():
        inner, residual = (one if every else one[row.to(one.device)] for one in rows)
        where = sequence.to(inner.device), from_end.to(inner.device)
        found[layer] = Captured(inner, residual, *where, row.to(inner.device) if wanted.distinct else None)
    return found


def _rows(
    planned: Sequence[Stage], kept: Bool[Tensor, "batch length"]
) -> tuple[list[Bool[Tensor, " _"]], Int[Tensor, " tokens"]]:
    """Which of the rows that each stage runs are needed, and for every kept token its place among those of all."""
    place = torch.zeros_like(kept, dtype=torch.long)
    sizes, device = [len(stage.rows) * stage.length for stage in planned], kept.device
    for number, stage in enumerate(planned):
        members = torch.tensor(stage.members, device=device)[:, None]
        within = torch.arange(stage.length, device=device)
        place[:, stage.start : stage.end] = sum(sizes[:number]) + members * stage.length + within
    index = place[kept]
    needed = torch.zeros(sum(sizes), dtype=torch.bool, device=device)
    needed[index] = True
    return list(needed.split(sizes)), (needed.cumsum(0) - 1)[index]


def _run(
    model: PreTrainedModel,
    sites: Sequence[Site],
    batch: Batch,
    planned: Sequence[Stage],
    needed: Sequence[Bool[Tensor, " _"]],
    inner_only: bool,
) -> dict[int, tuple[Tensor, Tensor]]:
    """Needed rows of the matrices' inputs and the layers' outputs, by layer."""
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {site.layer: [] for site in sites}
    for (stage, arguments), kept in zip(each_call(model, batch, planned), needed, strict=True):
        for layer, rows in _run_stage(model, sites, stage, arguments, kept, inner_only).items():
            seen[layer].append(rows)
    together = {layer: tuple(zip(*rows, strict=True)) for layer, rows in seen.items()}
    return {layer: (_one(inner), _one(residual)) for layer, (inner, residual) in together.items()}


def _one(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _run_stage(
    model: PreTrainedModel,
    sites: Sequence[Site],
    stage: Stage,
    arguments: dict[str, Any],
    kept: Bool[Tensor, " rows"],
    inner_only: bool,
) -> dict[int, tuple[Tensor, Tensor]]:
    deepest = max(site.layer for site in sites)
    shape, some = (len(stage.rows), stage.length), None if bool(kept.all()) else kept
    watches = [_Watch(site, shape, some, site.layer == deepest, inner_only) for site in sites]
    # Without the head: were the pass not stopped, logits of a whole batch would be the largest tensor of all.
    body: Any = model.base_model
    handles: list[Any] = []
    try:
        for watch in watches:
            handles += watch.hook(model)
        with torch.no_grad(), evaluation_mode(model):
            body(**arguments)
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    for watch in watches:
        if "residual" not in watch.seen:
            raise watch.unsupported("nothing")
    return {watch.site.layer: (watch.seen["inner"], watch.seen["residual"]) for watch in watches}


class _Watch:
    """Hooks on one site that keep the wanted rows of what its matrix reads and its layer yields; `kept` None is all."""

    def __init__(
        self, site: Site, shape: tuple[int, int], kept: Tensor | None, deepest: bool, inner_only: bool
    ) -> None:
        self.site, self.shape, self.kept, self.deepest, self.inner_only = site, shape, kept, deepest, inner_only
        self.seen: dict[str, Tensor] = {}
        self.layer_input: Tensor | None = None

    def hook(self, model: PreTrainedModel) -> list[Any]:
        """Register the hooks; returns their handles."""
        matrix, layer = self.site.module(model), self.site.layer_module(model)
        handles = [matrix.register_forward_pre_hook(self.read_inner)]
        if self.inner_only:
            return handles
        if self.site.before_mlp:
            handles.append(layer.register_forward_pre_hook(self.read_layer_input, with_kwargs=True))
            return [*handles, matrix.register_forward_hook(self.read_written)]
        return [*handles, layer.register_forward_hook(self.read_residual)]

    def read_inner(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows = inputs[0].detach().reshape(-1, self.site.inner_width)
        if len(rows) != self.shape[0] * self.shape[1]:
            raise self.unsupported(f"{len(rows)} inputs for {self.shape[0] * self.shape[1]} tokens")
        self.seen["inner"] = self.wanted(rows)
        if self.inner_only:
            self.seen["residual"] = self.seen["inner"][:, :0]
            if self.deepest:
                raise _Stop

    def read_layer_input(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.layer_input = (inputs[0] if inputs else named["hidden_states"]).detach()

    def read_written(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert self.layer_input is not None  # the layer began before its matrix was used
        self.read_residual(module, inputs, self.layer_input + output.detach().reshape(self.layer_input.shape))

    def read_residual(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        residual = (output[0] if isinstance(output, tuple) else output).detach()
        expected = (*self.shape, self.site.width)
        if "inner" not in self.seen or tuple(residual.shape) != expected:
            raise self.unsupported(tuple(residual.shape))
        self.seen["residual"] = self.wanted(residual.reshape(-1, self.site.width))
        if self.deepest:
            raise _Stop

    def wanted(self, rows: Tensor) -> Tensor:
        # Copied in any case: a later module may write into it.
        return rows.clone() if self.kept is None else rows[self.kept.to(rows.device)]

    def unsupported(self, shape: tuple[int, ...] | str) -> LunarError:
        return LunarError(
            f"{self.site.module_name} and {self.site.layer_name} were expected to run once and yield a residual stream "
            f"of shape {(*self.shape, self.site.width)}, but yielded {shape}: this architecture is not supported."
        )
