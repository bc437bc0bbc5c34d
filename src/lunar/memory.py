"""How many sequences fit into a batch: by the memory that is free, and half as many where that was too hopeful.

Batches are as large as they always are unless memory is short, so that results do not depend on what else runs on the
machine. Knows models by their sizes, nothing of activations or prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from transformers import PreTrainedModel

from lunar.errors import LunarError
from lunar.layers import model_width

Result = TypeVar("Result")

MOST = 32
"""Sequences in a batch where memory does not decide: more are hardly faster, and pad more."""
SHARE = 0.5
"""Of the free memory that a batch may be expected to take."""
SOLVE = 4
"""Times a sum that a solve takes at most: by eigenvalues, where a sum is singular."""
CONTROL_GROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device; in a container, of what the container may use."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((CONTROL_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a limit
        return available
    return min(available, max(0, limit - used))


def home_of_sums(model: PreTrainedModel, width: int, count: int) -> torch.device:
    """Where so many sums of width × width are added up and solved with: beside the model on its GPU, if there is room.

    Else in main memory; so too where the model is spread over devices, or on one that may not know float64. Counted are
    the sums, and `SOLVE` times as much as one, which a solve may take in the worst case.
    """
    devices = {parameter.device for parameter in model.parameters()}
    one = next(iter(devices))
    fits = len(devices) == 1 and one.type == "cuda" and (count + SOLVE) * 8 * width**2 <= free_memory(one)
    return one if fits else torch.device("cpu")


def fitting_batch(
    model: PreTrainedModel, inner_width: int, longest: int, device: torch.device, *, layers: int = 0
) -> int:
    """How many sequences of up to `longest` tokens to run at once: `MOST`, halved until half the free memory does.

    `inner_width` is m. Counted per token: what is alive within one decoder layer, attention scores in full, keys and
    values of so many `layers` as remember them, and the rows in the float64 of the sums.
    """
    config = model.config.get_text_config(decoder=True)
    width, heads = model_width(model), int(getattr(config, "num_attention_heads", None) or 1)
    inner = max(inner_width, int(getattr(config, "intermediate_size", None) or 4 * width))
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    remembered = 2 * layers * shared * int(getattr(config, "head_dim", None) or width // heads)
    size = next(model.parameters()).element_size()
    each = longest * (size * (4 * inner + 12 * width + 2 * heads * longest + remembered) + 16 * inner_width)
    free, fitting = free_memory(device), MOST
    while fitting > 1 and fitting * each > SHARE * free:
        fitting //= 2
    return fitting


def in_batches(
    order: Sequence[int], batch_size: int, run: Callable[[list[int]], Result]
) -> Iterator[tuple[list[int], Result]]:
    """Run a function on some indices, so many at a time, and yield each batch with its result.

    Where memory runs out, the same indices are run again, half as many at once, and all that follow too. Raises
    LunarError where a single one does not fit.
    """
    start = 0
    while start < len(order):
        indices = list(order[start : start + batch_size])
        try:
            result = run(indices)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if len(indices) == 1:
                raise LunarError(
                    "Memory was expected to hold at least one prompt at a time, but it runs out: use a machine with "
                    "more, a smaller dtype, or shorter prompts."
                ) from error
            batch_size = len(indices) // 2
            continue
        yield indices, result
        del result  # before the next batch is made
        start += len(indices)


def _out_of_memory(error: BaseException) -> bool:
    # On the CPU, torch raises a plain RuntimeError of its allocator.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
