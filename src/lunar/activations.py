"""One batched, truncated pass over token sequences, yielding what goes into a site's matrix and what leaves its layer.

The pass stops behind the layer, so later layers cost nothing; padding is removed before anything is yielded. Nothing on
the model remains changed between batches. This module knows nothing of what the rows are for: redirected or pinned,
weights and targets are the caller's.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.errors import LunarError
from lunar.memory import fitting_batch, in_batches
from lunar.models import Site, context_length
from lunar.prompts import TokenSequence
from lunar.weights import device_of


@dataclass(frozen=True)
class Captured:
    """Activations of some tokens, one row each, in the model's dtype and on its device; no padding.

    `inner` is the input of the write-back matrix and `residual` the residual stream behind it: the output of its
    decoder layer or, where the matrix ends the attention, the layer's input plus what the matrix writes. `sequence` is
    the index into the sequences that were given. `from_end` counts from the prompt's end: 0 for the last prompt token,
    1 for the one before; answer tokens are negative, -1 for the first. Where inputs alone were asked for, `residual`
    has no columns.
    """

    inner: Float[Tensor, "tokens m"]
    residual: Float[Tensor, "tokens d"]
    sequence: Int[Tensor, " tokens"]
    from_end: Int[Tensor, " tokens"]

    def cpu(self) -> "Captured":
        """The same rows in main memory."""
        return Captured(self.inner.cpu(), self.residual.cpu(), self.sequence.cpu(), self.from_end.cpu())


class _Stop(Exception):  # noqa: N818 (not an error: it ends a pass that has shown all it was run for)
    """Raised behind the layer."""


def capture(
    model: PreTrainedModel,
    site: Site,
    sequences: Sequence[TokenSequence],
    *,
    batch_size: int | None = None,
    pad_token_id: int = 0,
    padding_side: Literal["left", "right"] = "right",
    progress: Callable[[int], None] | None = None,
) -> Iterator[Captured]:
    """Run the sequences, longest first, up to the site's layer and yield one `Captured` per batch.

    Values do not depend on batch size or padding side beyond rounding. A batch is as large as memory allows where
    `batch_size` is None; where memory runs out, batches are halved and the pass goes on. `progress` is called after
    each batch with the number of sequences done. Nothing is shortened: raises `LunarError`, before running anything,
    for an empty sequence, a prompt length outside the sequence, a token the model does not have, or more tokens than
    its context holds.
    """
    for batch in capture_layers(
        model,
        [site],
        sequences,
        batch_size=batch_size,
        pad_token_id=pad_token_id,
        padding_side=padding_side,
        progress=progress,
    ):
        yield batch[site.layer]


def capture_layers(
    model: PreTrainedModel,
    sites: Sequence[Site],
    sequences: Sequence[TokenSequence],
    *,
    last_only: bool = False,
    inner_only: bool = False,
    start: int = 0,
    share: tuple[int, int] = (0, 1),
    batch_size: int | None = None,
    pad_token_id: int = 0,
    padding_side: Literal["left", "right"] = "right",
    progress: Callable[[int], None] | None = None,
) -> Iterator[dict[int, Captured]]:
    """`capture` at several layers in one pass, which stops behind the deepest: per batch, a `Captured` for each layer.

    With `last_only`, rows are those of the last prompt tokens alone, and no more than these is ever held. With
    `inner_only` residuals are left out, and the pass stops before the deepest matrix is multiplied. The first
    `start` sequences, in the order in which they are run, are left out: they were run before. `share` is which of how
    many processes this is; of the rest it runs every so many.
    """
    check_sequences(model, sequences)
    if padding_side not in ("left", "right"):
        raise LunarError(f"padding_side was expected to be 'left' or 'right', got {padding_side!r}.")
    if not sites:
        raise LunarError("At least one layer to look at was expected, but none came: give the sites of the model.")
    order = longest_first([len(sequence.tokens) for sequence in sequences])
    if batch_size is None:
        longest = len(sequences[order[0]].tokens) if order else 1
        batch_size = fitting_batch(model, max(site.inner_width for site in sites), longest, input_device(model))
    check_batch_size(batch_size)

    def run(indices: list[int]) -> dict[int, Captured]:
        return _capture_batch(model, sites, sequences, indices, pad_token_id, padding_side, last_only, inner_only)

    done = start
    for indices, captured in in_batches(order[start:][share[0] :: share[1]], batch_size, run):
        yield captured
        done += len(indices)
        if progress is not None:
            progress(done)


def capture_all(
    model: PreTrainedModel,
    site: Site,
    sequences: Sequence[TokenSequence],
    *,
    batch_size: int | None = None,
    pad_token_id: int = 0,
    padding_side: Literal["left", "right"] = "right",
    progress: Callable[[int], None] | None = None,
) -> Captured:
    """`capture` for a set small enough to hold: all rows at once, ordered by sequence and then by position in it."""
    batches = list(
        capture(
            model,
            site,
            sequences,
            batch_size=batch_size,
            pad_token_id=pad_token_id,
            padding_side=padding_side,
            progress=progress,
        )
    )
    if not batches:
        device, weight = input_device(model), next(site.module(model).parameters())
        indices = torch.empty(0, dtype=torch.long, device=device)
        rows = [torch.empty(0, width, dtype=weight.dtype, device=device) for width in (site.inner_width, site.width)]
        return Captured(rows[0], rows[1], indices, indices)
    return join(batches)


def join(batches: Sequence[Captured]) -> Captured:
    """The rows of at least one batch together, ordered by sequence and then by position in it."""
    sequence = torch.cat([batch.sequence for batch in batches])
    # A stable sort, and batches hold whole sequences in order: positions stay in order within each sequence.
    order = torch.argsort(sequence, stable=True)
    return Captured(
        torch.cat([batch.inner for batch in batches])[order],
        torch.cat([batch.residual for batch in batches])[order],
        sequence[order],
        torch.cat([batch.from_end for batch in batches])[order],
    )


# Shared with `lunar.generation`


def check_sequences(model: PreTrainedModel, sequences: Sequence[TokenSequence]) -> None:
    """Raise `LunarError` for the first sequence that the model cannot read as it is."""
    limit = context_length(model)
    embedding: Any = model.get_input_embeddings()
    vocabulary = embedding.weight.shape[0]
    for index, sequence in enumerate(sequences):
        count = len(sequence.tokens)
        if not 1 <= sequence.prompt_length <= count:
            raise LunarError(
                f"Sequence {index} has {count} tokens and a prompt of {sequence.prompt_length}; expected at least one "
                "prompt token and no more than there are tokens."
            )
        if limit is not None and count > limit:
            raise LunarError(
                f"Sequence {index} has {count} tokens, more than the model's context of {limit}: shorten it."
            )
        if not 0 <= min(sequence.tokens) <= max(sequence.tokens) < vocabulary:
            raise LunarError(
                f"Sequence {index} has a token outside the model's vocabulary of {vocabulary}: the tokenizer belongs "
                "to another model."
            )


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first so that memory runs out at once if it does."""
    check_batch_size(batch_size)
    order = longest_first(lengths)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Indices by falling length, those of one length as they came."""
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])


def check_batch_size(batch_size: int) -> None:
    """Raise `LunarError` for a batch of less than one."""
    if batch_size < 1:
        raise LunarError(f"batch_size was expected to be at least 1, got {batch_size}.")


def pad(
    rows: Sequence[Sequence[int]], pad_token_id: int, side: Literal["left", "right"], device: torch.device
) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch length"]]:
    """Token ids and attention mask (1 on tokens, 0 on padding) of rows of different lengths."""
    length = max(len(row) for row in rows)
    tokens = torch.full((len(rows), length), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        tokens[index, place] = torch.tensor(list(row), dtype=torch.long)
        mask[index, place] = 1
    return tokens.to(device), mask.to(device)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where the model expects its token ids."""
    return device_of(model.get_input_embeddings())


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout and the like off, and give every module back the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            # The attribute and not .train(), which would switch the children as well.
            module.training = True


# One batch


def _capture_batch(
    model: PreTrainedModel,
    sites: Sequence[Site],
    sequences: Sequence[TokenSequence],
    indices: list[int],
    pad_token_id: int,
    padding_side: Literal["left", "right"],
    last_only: bool,
    inner_only: bool,
) -> dict[int, Captured]:
    chosen = [sequences[index] for index in indices]
    tokens, mask = pad([one.tokens for one in chosen], pad_token_id, padding_side, input_device(model))
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    last = torch.tensor([one.prompt_length - 1 for one in chosen], device=tokens.device)
    from_end = last[:, None] - positions
    kept = (mask.bool() & (from_end == 0) if last_only else mask.bool()).flatten()
    sequence = torch.tensor(indices, device=tokens.device)[:, None].expand_as(mask).flatten()[kept]
    from_end = from_end.flatten()[kept]
    found = {}
    for layer, (inner, residual) in _run(model, sites, tokens, mask, positions, kept, inner_only).items():
        found[layer] = Captured(inner, residual, sequence.to(residual.device), from_end.to(residual.device))
    return found


class _Watch:
    """Hooks on one site that keep the wanted rows of what its matrix reads and its layer yields."""

    def __init__(self, site: Site, shape: tuple[int, int], kept: Tensor, deepest: bool, inner_only: bool) -> None:
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
        if len(rows) != len(self.kept):
            raise self.unsupported(f"{len(rows)} inputs for {len(self.kept)} tokens")
        self.seen["inner"] = rows[self.kept.to(rows.device)]
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
        self.seen["residual"] = residual.reshape(-1, self.site.width)[self.kept.to(residual.device)]
        if self.deepest:
            raise _Stop

    def unsupported(self, shape: tuple[int, ...] | str) -> LunarError:
        return LunarError(
            f"{self.site.module_name} and {self.site.layer_name} were expected to run once and yield a residual stream "
            f"of shape {(*self.shape, self.site.width)}, but yielded {shape}: this architecture is not supported."
        )


def _run(
    model: PreTrainedModel,
    sites: Sequence[Site],
    tokens: Tensor,
    mask: Tensor,
    positions: Tensor,
    kept: Tensor,
    inner_only: bool,
) -> dict[int, tuple[Tensor, Tensor]]:
    """Rows of the matrices' inputs and the layers' outputs, by layer; hooks live no longer than this call."""
    deepest = max(site.layer for site in sites)
    shape = (int(tokens.shape[0]), int(tokens.shape[1]))
    watches = [_Watch(site, shape, kept, site.layer == deepest, inner_only) for site in sites]
    # Without the head: were the pass not stopped, logits of a whole batch would be the largest tensor of all.
    body: Any = model.base_model
    arguments = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
    if "position_ids" in inspect.signature(body.forward).parameters:
        # Absolute position embeddings would count the padding otherwise.
        arguments["position_ids"] = positions
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
