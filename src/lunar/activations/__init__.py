"""One batched, truncated pass over token sequences, yielding what goes into a site's matrix and what leaves its layer.

The pass stops behind the layer, so later layers cost nothing; what prompts begin with alike is run once; padding is
removed before anything is yielded. Nothing on the model remains changed between batches. This package knows nothing of
what the rows are for: redirected or pinned, weights and targets are the caller's.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from transformers import PreTrainedModel

from lunar.activations.batches import (
    batches_by_length,
    check_batch_size,
    check_sequences,
    evaluation_mode,
    input_device,
    longest_first,
    pad,
)
from lunar.activations.calls import batch_of, can_share, each_call, planned_for
from lunar.activations.one_batch import Wanted, capture_batch
from lunar.activations.prefixes import Stage, stages
from lunar.activations.rows import Captured, join
from lunar.errors import LunarError
from lunar.memory import fitting_batch, in_batches
from lunar.models import Site
from lunar.prompts import TokenSequence

__all__ = [
    "Captured",
    "Stage",
    "batch_of",
    "batches_by_length",
    "capture",
    "capture_all",
    "capture_layers",
    "check_batch_size",
    "check_sequences",
    "each_call",
    "evaluation_mode",
    "input_device",
    "join",
    "longest_first",
    "pad",
    "planned_for",
    "stages",
]


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
    distinct: bool = False,
    share_prefixes: bool = True,
    start: int = 0,
    share: tuple[int, int] = (0, 1),
    batch_size: int | None = None,
    pad_token_id: int = 0,
    padding_side: Literal["left", "right"] = "right",
    progress: Callable[[int], None] | None = None,
) -> Iterator[dict[int, Captured]]:
    """`capture` at several layers in one pass, which stops behind the deepest: per batch, a `Captured` for each layer.

    With `last_only`, rows are those of the last prompt tokens alone, and no more than these is ever held. With
    `inner_only` residuals are left out, and the pass stops before the deepest matrix is multiplied. With `distinct`,
    what is the same for several sequences of a batch, because they begin alike, is one row, and `Captured.row` says
    which. `share_prefixes` is whether to run that once too; it changes values by no more than rounding. The first
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
        layers = max(site.layer for site in sites) + 1 if share_prefixes and can_share(model) else 0
        width = max(site.inner_width for site in sites)
        batch_size = fitting_batch(model, width, longest, input_device(model), layers=layers)
    check_batch_size(batch_size)

    wanted = Wanted(last_only, inner_only, distinct, share_prefixes, pad_token_id, padding_side)

    def run(indices: list[int]) -> dict[int, Captured]:
        return capture_batch(model, sites, sequences, indices, wanted)

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
    share_prefixes: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Captured:
    """`capture` for a set small enough to hold: all rows at once, ordered by sequence and then by position in it."""
    batches = list(
        capture_layers(
            model,
            [site],
            sequences,
            share_prefixes=share_prefixes,
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
    return join([batch[site.layer] for batch in batches])
