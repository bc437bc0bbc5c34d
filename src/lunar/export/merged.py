"""An edit as a checkpoint of its own: the source's files, with the edited tensors' bytes in the place of the old ones.

Shards are copied, and only the bytes of an edited tensor are overwritten where they stand; so sharding, order, headers,
dtype and every other tensor are what they were, and the memory needed is that of one matrix. Weights in other forms
(pickled, for other programs, shards that no index names) are left behind: they would bring the old model back.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lunar.checkpoints import FULL_PRECISION
from lunar.edit import Edit, Factors, fingerprint
from lunar.errors import LunarError
from lunar.requests.store import sha256
from lunar.safety import TEMPLATES, weight_files

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICENSE*", "*.md")
CHUNK = 2**24


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in a checkpoint: its shard, and the bytes from `start` to `end` of that file."""

    shard: str
    start: int
    end: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self, folder: Path) -> Tensor:
        """The tensor."""
        with (folder / self.shard).open("rb") as file:
            file.seek(self.start)
            content = bytearray(file.read(self.end - self.start))
        return torch.frombuffer(content, dtype=self.dtype).reshape(self.shape)

    def write(self, folder: Path, tensor: Tensor) -> None:
        """Other numbers in its place."""
        content = tensor.to(self.dtype).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        with (folder / self.shard).open("r+b") as file:
            file.seek(self.start)
            file.write(content)


def places(folder: Path) -> dict[str, Place]:
    """Every tensor of a checkpoint by name."""
    return {name: place for shard in weight_files(folder) for name, place in _tensors(folder, shard)}


def _tensors(folder: Path, shard: str) -> Iterator[tuple[str, Place]]:
    with (folder / shard).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in DTYPES:
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            yield name, Place(shard, start, end, DTYPES[entry["dtype"]], tuple(entry["shape"]))


def place_of(part: Factors, known: dict[str, Place], folder: Path) -> Place:
    """Where the matrix of a change stands; checkpoints may have other first parts of a module's name, or none.

    Raises LunarError where it is not there, or holds other numbers than the edit was made for.
    """
    parts = f"{part.module_name}.weight".split(".")
    names = [".".join(parts[first:]) for first in range(len(parts) - 1)]
    name = next((one for one in names if one in known), None) or _elsewhere(part, known, folder)
    if name is None:
        raise LunarError(
            f"The checkpoint was expected to hold {part.module_name} as plain numbers, but it does not: it is another "
            f"model, or quantised. {FULL_PRECISION}"
        )
    if part.fingerprint and fingerprint(known[name].read(folder)) != part.fingerprint:
        raise LunarError(f"The edit was made for other values of {part.module_name} than the checkpoint holds.")
    return known[name]


def _elsewhere(part: Factors, known: dict[str, Place], folder: Path) -> str | None:
    """The matrix under the same name from its list of layers on, as models of text and images have it."""
    parts = f"{part.module_name}.weight".split(".")
    number = next((index for index, one in enumerate(parts) if one.isdecimal()), 1)
    ending = "." + ".".join(parts[max(0, number - 1) :])
    found = [name for name in known if name.endswith(ending)]
    same = [name for name in found if fingerprint(known[name].read(folder)) == part.fingerprint]
    return same[0] if len(same) == 1 else None


def write_merged(source: Path, folder: Path, edit: Edit) -> dict[str, float]:
    """Write the source's checkpoint with the edit in it into a folder that exists and is empty.

    Returns by matrix which share of its change is left after rounding to the checkpoint's precision: 1 is all of it.
    """
    known = places(source)
    found = [(part, place_of(part, known, source)) for part in edit.factors]
    for name in sorted(_copied(source)):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    realised = {}
    for part, place in found:
        before, change = place.read(source), part.change()
        place.write(folder, before.double() + change)
        moved = place.read(folder).double() - before.double()
        realised[part.module_name] = float((moved * change).sum() / change.square().sum().clamp_min(1e-300))
    return realised


def merged_faults(source: Path, folder: Path, edit: Edit) -> list[str]:
    """What a merged checkpoint differs in from its source besides the edited tensors, in sentences."""
    known = places(source)
    edited = [place_of(part, known, source) for part in edit.factors]
    found = []
    names = _copied(source)
    for name in sorted(names):
        allowed = [(place.start, place.end) for place in edited if place.shard == name]
        if not (folder / name).is_file():
            found.append(f"The merged checkpoint has no {name}.")
        elif not allowed and sha256(folder / name) != sha256(source / name):
            found.append(f"The merged checkpoint's {name} is not the source's.")
        elif allowed and not _same_outside(source / name, folder / name, allowed):
            found.append(f"The merged checkpoint's {name} differs outside the edited tensors.")
    extra = _present(folder) - names
    if extra:
        found.append(f"The merged checkpoint has files or folders that its source has not: {', '.join(sorted(extra))}.")
    for part, place in zip(edit.factors, edited, strict=True):
        if found:
            break
        wanted = (place.read(source).double() + part.change()).to(place.dtype)
        if not torch.equal(place.read(folder), wanted):
            found.append(f"The merged checkpoint's {part.module_name} is not the source's with the edit.")
    return found


def _copied(source: Path) -> set[str]:
    """What a merged checkpoint holds of its source, by names relative to the folder."""
    patterns = (*COPIED, f"{TEMPLATES}/*.jinja")
    found = {str(path.relative_to(source)) for one in patterns for path in source.glob(one) if path.is_file()}
    return found | set(weight_files(source))


def _present(folder: Path) -> set[str]:
    """All that stands in a folder, by relative names, folders within as such; of that of the templates its content."""
    templates = folder / TEMPLATES
    own = {path.name for path in folder.iterdir()}
    if templates.is_dir() and not templates.is_symlink():
        own = own - {TEMPLATES} | {f"{TEMPLATES}/{path.name}" for path in templates.iterdir()}
    return own


def _same_outside(one: Path, other: Path, allowed: list[tuple[int, int]]) -> bool:
    """Whether two files have the same bytes but for some ranges."""
    size = one.stat().st_size
    if other.stat().st_size != size:
        return False
    edges = [0, *(edge for pair in sorted(allowed) for edge in pair), size]
    with one.open("rb") as first, other.open("rb") as second:
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            first.seek(start)
            second.seek(start)
            for place in range(start, end, CHUNK):
                length = min(CHUNK, end - place)
                if first.read(length) != second.read(length):
                    return False
    return True
