"""Sums that a run has added up so far, in a folder beside its output, for the run that goes on after it was cut off.

A sum is known by everything that decides it, so that one of other data, another model or other settings is never taken
for it. What is saved is exact: a run that goes on ends in the same bytes. Knows moments; knows nothing of prompts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lunar.errors import LunarError
from lunar.moments import Moments

FORMAT = "lunar sums 2"
EVERY = 60.0
"""Seconds between two savings at least; shorter runs save nothing."""
COST = 20.0
"""Times what the last saving took, between two savings at least."""


def saved_sums(output: Path) -> SavedSums:
    """The place beside an output folder; nothing is made yet."""
    output = output.absolute()
    return SavedSums(output.parent / f".{output.name}.interrupted", EVERY)


@dataclass
class SavedSums:
    """A folder of sums, mode 0700: they derive from the data, and are to be protected like it.

    Attributes:
        folder: made with the first saving.
        every: seconds between two savings at least.
        seconds: what the last saving took.
    """

    folder: Path
    every: float = EVERY
    seconds: float = 0.0
    _last: float = field(default_factory=time.monotonic)

    def restore(self, key: str, sums: Mapping[int, Moments]) -> tuple[int, int | None]:
        """Fill the sums, by layer, with what was saved under a key.

        Returns how many sequences are in them and how many were run at once; 0 and None where nothing was saved, or
        what was saved cannot be read.
        """
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                known = json.loads(file.metadata()["lunar"])
                found = {layer: file.get_tensor(str(layer)) for layer in sums}
            fitting = all(found[layer].shape == one.second.shape for layer, one in sums.items())
            if known["format"] != FORMAT or known["key"] != key or not fitting:
                return 0, None
            rows = {layer: int(known["rows"][str(layer)]) for layer in sums}
            done, batch_size = int(known["done"]), int(known["batch_size"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return 0, None
        for layer, one in sums.items():
            one.second.copy_(found[layer])
            one.rows = rows[layer]
        return done, batch_size

    def save(self, key: str, sums: Mapping[int, Moments], done: int, batch_size: int, *, complete: bool) -> None:
        """Save the sums if it is time to, and whenever a sum that took long is complete.

        A disk that is full, or a folder that cannot be made, is no reason to stop: nothing is saved any more.
        """
        waited = time.monotonic() - self._last
        due = waited >= max(self.every, COST * self.seconds) or (complete and self._path(key).exists())
        if not due:
            return
        began = time.monotonic()
        try:
            self._write(key, sums, done, batch_size)
        except (OSError, SafetensorError):
            self.every = float("inf")
        self._last = time.monotonic()
        self.seconds = self._last - began

    def remove(self) -> None:
        """Remove the folder: the output is there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise LunarError(
                f"{self.folder} holds sums over the data of an interrupted run and cannot be removed: remove it."
            )

    def _write(self, key: str, sums: Mapping[int, Moments], done: int, batch_size: int) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(key)
        partial = path.with_suffix(".partial")
        partial.touch(mode=0o600)
        about = {
            "format": FORMAT,
            "key": key,
            "rows": {str(layer): one.rows for layer, one in sums.items()},
            "done": done,
            "batch_size": batch_size,
        }
        tensors = {str(layer): one.second.contiguous() for layer, one in sums.items()}
        save_file(tensors, partial, {"lunar": json.dumps(about)})
        partial.chmod(0o600)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key[:32]}.safetensors"


def digest(*parts: object) -> str:
    """A key of what decides a sum: tensors by their bytes, anything else by its text."""
    found = hashlib.sha256()
    for part in parts:
        content = part.contiguous().cpu().numpy().tobytes() if isinstance(part, torch.Tensor) else repr(part).encode()
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()
