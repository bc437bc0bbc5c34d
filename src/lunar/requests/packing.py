"""The files that a ledger keeps of its data: tensors under names, sums of which as triangles. Knows no request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lunar.errors import LunarError
from lunar.moments import Moments

FORMAT, BEFORE = "lunar part 3", "lunar part 2"
"""What is written, and what is read as well: parts that released nothing."""

Kept = TypeVar("Kept")


def symmetric(moments: Moments) -> Moments:
    """The same sums with the lower triangle above the diagonal too, as they come back from a file."""
    lower = torch.tril(moments.second)
    return Moments(lower + torch.tril(lower, -1).T, moments.rows)


def names_of(name: str) -> tuple[str, str]:
    """Of the two tensors that hold some sums in a file."""
    return f"{name}.triangle", f"{name}.rows"


def packed(name: str, moments: Moments) -> dict[str, Tensor]:
    """The lower triangle of the sums, row after row: it says all of a symmetric matrix."""
    size = len(moments.second)
    flat = torch.empty(size * (size + 1) // 2, dtype=torch.float64)
    for row in range(size):
        flat[row * (row + 1) // 2 : (row + 1) * (row + 2) // 2] = moments.second[row, : row + 1]
    return dict(zip(names_of(name), (flat, torch.tensor([moments.rows])), strict=True))


def unpacked(name: str, tensors: Mapping[str, Tensor]) -> Moments:
    """The sums again; raises ValueError where the tensors are no triangle of finite numbers."""
    flat, rows = (tensors[one] for one in names_of(name))
    size = int(((8 * len(flat) + 1) ** 0.5 - 1) / 2)
    if size * (size + 1) // 2 != len(flat) or not bool(torch.isfinite(flat).all()):
        raise ValueError("not a triangle of numbers")
    second = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size):
        second[row, : row + 1] = flat[row * (row + 1) // 2 : (row + 1) * (row + 2) // 2]
    return symmetric(Moments(second, int(rows)))


def of_bytes(content: bytes) -> Tensor:
    """A file's content as a tensor of bytes."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def to_bytes(tensor: Tensor) -> bytes:
    """The content again."""
    return bytes(tensor.numpy())


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": FORMAT})


def load(path: Path, build: Callable[[Mapping[str, Tensor]], Kept], names: Sequence[str]) -> Kept:
    """What `build` makes of those of the named tensors that a file holds; raises LunarError for a wrong file."""
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata()["format"] not in (FORMAT, BEFORE):
                raise ValueError("another format")
            there = set(file.keys())
            return build({name: file.get_tensor(name) for name in names if name in there})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise LunarError(
            f"The ledger's file {path.name} cannot be read ({type(error).__name__}): restore the folder from a copy."
        ) from error
