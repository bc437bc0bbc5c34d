"""The edit that leaves a solve: thin factors, and how a model takes them on and puts them off again.

An edit knows names and shapes of the matrices it changes, not how it was found. Applying adds ΔW = write @ read to a
weight; reverting restores the original bits, whatever other edits came and went in between: while any edit is active,
the original weight is kept and the current one is original plus the active edits in the order of their application.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from lunar.errors import LunarError
from lunar.solve import Solution
from lunar.weights import parameter_of, replace_weight

WEIGHTS_FILE = "edit.safetensors"
CARD_FILE = "edit.json"
FORMAT = 1
BLOCK = 1 << 22
"""Numbers of a weight that are changed at once."""


@dataclass(frozen=True)
class Factors:
    """The change of one matrix.

    Attributes:
        module_name: as in `model.named_modules()`; its `weight` is changed.
        write: [d, k] columns in the residual stream. Float32.
        read: [k, m] linear detectors of inputs. Float32.
        transposed: the weight is stored as [m, d] (the Conv1D of GPT-2) instead of [d, m].
        fingerprint: SHA-256 of the original weight in bfloat16, by which the right base model is recognised.
    """

    module_name: str
    write: Float[Tensor, "d k"] = field(repr=False)
    read: Float[Tensor, "k m"] = field(repr=False)
    transposed: bool = False
    fingerprint: str = ""

    @classmethod
    def of(cls, module_name: str, solution: Solution, transposed: bool, fingerprint: str = "") -> Factors:
        """Factors in storage precision from a solution in float64."""
        write, read = solution.write.float().cpu().contiguous(), solution.read.float().cpu().contiguous()
        return cls(module_name, write, read, transposed, fingerprint)

    def change(self) -> Float[Tensor, "rows columns"]:
        """ΔW in float64, in the orientation in which the weight is stored."""
        left, right = self.product()
        return left @ right

    def product(self) -> tuple[Float[Tensor, "rows k"], Float[Tensor, "k columns"]]:
        """What ΔW is the product of, likewise."""
        write, read = self.write.double(), self.read.double()
        return (read.T, write.T) if self.transposed else (write, read)


@dataclass
class _Original:
    """What a changed module weighed before, and the edits it bears now."""

    weight: Tensor
    active: list[tuple[object, Factors]] = field(default_factory=list)


_originals: weakref.WeakKeyDictionary[nn.Module, _Original] = weakref.WeakKeyDictionary()


def fingerprint(weight: Tensor) -> str:
    """SHA-256 of a weight's bfloat16 bytes: the same whether a bfloat16 checkpoint was loaded as such or as float32."""
    values = weight.detach().to("cpu", torch.bfloat16).contiguous()
    return hashlib.sha256(values.view(torch.int16).numpy().tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of one or more matrices. `settings` says how it was made; it does not influence what `apply` does."""

    factors: tuple[Factors, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = {part.module_name for part in self.factors}
        if not names or len(names) < len(self.factors):
            raise LunarError(
                f"An edit holds one change for each of its matrices, but {len(self.factors)} changes of {len(names)} "
                "matrices came: give at least one and join those of the same matrix."
            )

    @property
    def rank(self) -> int:
        """The largest rank over the changed matrices."""
        return max(part.read.shape[0] for part in self.factors)

    @property
    def stored_numbers(self) -> int:
        """How many numbers describe the edit: k(d + m) per matrix."""
        return sum(part.write.numel() + part.read.numel() for part in self.factors)

    def scaled(self, strength: float) -> Edit:
        """The same edit, its change multiplied by `strength`; 0 is the identity."""
        return replace(self, factors=tuple(replace(part, write=part.write * strength) for part in self.factors))

    def apply(self, model: nn.Module) -> None:
        """Add the change to the model's weights in place.

        Raises LunarError, with the model untouched, if a matrix is missing, has another shape or other values than
        the edit was made for, or if this edit is active already.
        """
        modules = [self._module(model, part) for part in self.factors]
        for module, part in zip(modules, self.factors, strict=True):
            original = _originals.get(module)
            if original and any(owner is self for owner, _ in original.active):
                raise LunarError("This edit is active on the model already: revert it before applying it again.")
            weight = original.weight if original else parameter_of(module)
            if part.fingerprint and fingerprint(weight) != part.fingerprint:
                raise LunarError(
                    f"The edit was made for other values of {part.module_name} than this model has: load the model "
                    "that it was made from."
                )
        for module, part in zip(modules, self.factors, strict=True):
            if module not in _originals:
                _originals[module] = _Original(parameter_of(module).detach().clone())
            _originals[module].active.append((self, part))
            _refresh(module)

    def revert(self, model: nn.Module) -> None:
        """Take the change out again: without other active edits, the weights have their original bits.

        Raises LunarError if the edit is not active on the model.
        """
        modules = [self._module(model, part) for part in self.factors]
        for module in modules:
            original = _originals.get(module)
            if original is None or not any(owner is self for owner, _ in original.active):
                raise LunarError("This edit is not active on the model: apply it before reverting it.")
        for module in modules:
            original = _originals[module]
            original.active = [(owner, part) for owner, part in original.active if owner is not self]
            _refresh(module)
            if not original.active:
                del _originals[module]

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The edit is active within the block and reverted after it, also after an exception."""
        self.apply(model)
        try:
            yield
        finally:
            self.revert(model)

    def save(self, folder: Path | str) -> None:
        """Write `edit.safetensors` and `edit.json` into a folder, which is made if it is missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (folder / name).write_bytes(content)

    def files(self) -> dict[str, bytes]:
        """The content of the two files by name; the card holds the hash of the weights, so that they stay together."""
        tensors = {}
        for part in self.factors:
            tensors[f"{part.module_name}.write"] = part.write.contiguous()
            tensors[f"{part.module_name}.read"] = part.read.contiguous()
        weights = save(tensors, {"format": "pt"})
        card = {
            "format": FORMAT,
            "matrices": [
                {
                    "module_name": part.module_name,
                    "transposed": part.transposed,
                    "rank": part.read.shape[0],
                    "shape": [part.write.shape[0], part.read.shape[1]],
                    "fingerprint": part.fingerprint,
                }
                for part in self.factors
            ],
            "sha256": hashlib.sha256(weights).hexdigest(),
            "settings": dict(self.settings),
        }
        return {WEIGHTS_FILE: weights, CARD_FILE: (json.dumps(card, indent=2) + "\n").encode()}

    @classmethod
    def load(cls, folder: Path | str) -> Edit:
        """Read what `save` wrote. Raises LunarError if the folder is missing, damaged or something else."""
        folder = Path(folder)
        for name in (CARD_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise LunarError(
                    f"{folder} was expected to hold an edit, but it has no {name}: give the output folder of "
                    "`lunar unlearn`."
                )
        return cls.read(folder / CARD_FILE, folder / WEIGHTS_FILE)

    @classmethod
    def read(cls, card_file: Path, weights_file: Path) -> Edit:
        """As `load`, from the two files wherever they are and whatever they are called."""
        try:
            return cls.of_bytes(card_file.read_bytes(), weights_file.read_bytes())
        except (OSError, ValueError) as error:
            raise LunarError(
                f"The edit in {card_file.parent} cannot be read ({type(error).__name__}): the files are damaged, make "
                "it again."
            ) from error

    @classmethod
    def of_bytes(cls, card_bytes: bytes, content: bytes) -> Edit:
        """From the content of the two files; raises ValueError where it is not an edit's."""
        try:
            card = json.loads(card_bytes)
            if "sha256" in card and card["sha256"] != hashlib.sha256(content).hexdigest():
                raise ValueError("the card belongs to other weights")
            tensors = load(content)
            parts = [
                Factors(
                    entry["module_name"],
                    tensors[f"{entry['module_name']}.write"],
                    tensors[f"{entry['module_name']}.read"],
                    bool(entry["transposed"]),
                    str(entry["fingerprint"]),
                )
                for entry in card["matrices"]
            ]
            if not parts or not all(_is_thin(part) for part in parts):
                raise KeyError("matrices")
            shapes = [[part.write.shape[0], part.read.shape[1]] for part in parts]
            if card["format"] != FORMAT or shapes != [entry["shape"] for entry in card["matrices"]]:
                raise ValueError("the card does not describe the tensors")
            return cls(tuple(parts), dict(card.get("settings", {})))
        except (KeyError, TypeError, SafetensorError) as error:
            raise ValueError(f"not an edit ({type(error).__name__})") from error

    @staticmethod
    def _module(model: nn.Module, part: Factors) -> nn.Module:
        modules = dict(model.named_modules())
        module = modules.get(part.module_name)
        if module is None:
            raise LunarError(
                f"The edit changes {part.module_name}, but the model has no such matrix: load the model that the edit "
                "was made from."
            )
        if not isinstance(getattr(module, "weight", None), Tensor):
            raise LunarError(
                f"The edit changes {part.module_name}, but this part of the model has no weight: load the model that "
                "the edit was made from."
            )
        expected = (part.write.shape[0], part.read.shape[1])
        expected = expected[::-1] if part.transposed else expected
        if tuple(module.weight.shape) != expected:
            raise LunarError(
                f"The edit changes {part.module_name} of shape {expected}, but the model's has "
                f"{tuple(module.weight.shape)}: load the model that the edit was made from."
            )
        return module


def _is_thin(part: Factors) -> bool:
    both = (part.write, part.read)
    return (
        all(tensor.ndim == 2 and bool(torch.isfinite(tensor).all()) for tensor in both)
        and part.write.shape[1] == part.read.shape[0]
    )


def _refresh(module: nn.Module) -> None:
    """Set a weight to its original plus the active edits."""
    original = _originals[module]
    weight = original.weight
    # A change of rank 0 is none: adding zeros would still turn -0.0 into 0.0.
    active = [part for _, part in original.active if part.read.shape[0]]
    if active:
        weight = torch.empty_like(weight)
        pairs = [tuple(side.to(weight.device) for side in part.product()) for part in active]
        # In blocks of rows, because a whole matrix in float64 is twice the weight, several times over.
        step = max(1, BLOCK // weight.shape[1])
        for start in range(0, len(weight), step):
            exact = original.weight[start : start + step].to(torch.float64)
            for left, right in pairs:
                exact += left[start : start + step] @ right
            weight[start : start + step] = exact
    replace_weight(module, weight, original=not original.active)


def changed_tensors(before: Mapping[str, Tensor], model: nn.Module) -> Sequence[str]:
    """Names of the tensors of a model that differ in any bit from a state taken before."""
    return [name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)]
