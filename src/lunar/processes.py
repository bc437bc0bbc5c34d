"""Several processes over the data, started by `torchrun` or `accelerate launch`: each runs its share of the prompts.

What they add up lies in main memory (`lunar.collect`), and is summed over gloo wherever the models are. Knows sums;
knows nothing of models or prompts. Source: torch.distributed, environment variables of `torchrun`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from lunar.moments import FewRows, Moments
from lunar.symmetric import blocks, mirror

Value = TypeVar("Value")


@contextmanager
def joined() -> Iterator[None]:
    """Within the block, this process works with those that were started with it; nothing where it was started alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or not distributed.is_available() or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def place() -> tuple[int, int]:
    """Which of how many processes this is: (0, 1) alone."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def own_device() -> str | None:
    """The GPU of this process among those of its machine; None where it is alone or there is none."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if local is not None and place()[1] > 1 and torch.cuda.is_available() else None


def of_first(value: Value) -> Value:
    """What the first process has: where each found something out for itself, rounding may have led them apart."""
    if place()[1] > 1:
        shared = [value]
        distributed.broadcast_object_list(shared, 0)
        return shared[0]
    return value


def add_share(one: Moments | FewRows, rows: Float[Tensor, "tokens m"]) -> None:
    """Add rows of weight 1 that every process has: to a sum, which `end_share` makes of all, each a part of them."""
    number, count = place() if isinstance(one, Moments) else (0, 1)
    part = rows[number::count]
    one.update(part, torch.ones(len(part)))


def end_share(sums: Mapping[int, Moments | FewRows]) -> None:
    """Every process gets the sums of all, in place. Few rows, which no process shares, are left as they are."""
    if place()[1] > 1:
        for layer in sorted(sums):
            one = sums[layer]
            if isinstance(one, Moments):
                rows = torch.tensor(one.rows)
                for start, stop in blocks(len(one.second)):
                    one.second[start:stop, start:] = summed(one.second[start:stop, start:].contiguous())
                mirror(one.second)  # what lies below is known from above, and not sent
                one.rows = int(summed(rows))


def summed(numbers: Tensor) -> Tensor:
    """The sum of what every process has; the same tensor, written over."""
    if place()[1] > 1:
        distributed.all_reduce(numbers)
    return numbers
