"""Is what was exported loaded again, and does it do what the edit does?

An adapter whose keys no loader finds, or whose change is lost in rounding, loads without a word and does nothing. So
the exported model is shown inputs along the edit's own detector: every token's input of the edited matrix is replaced
by one of the same length in the direction that the edit answers to most. No forgotten prompt is needed for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lunar.activations import input_device
from lunar.edit import Edit
from lunar.errors import LunarError
from lunar.models import LoadedModel, context_length, load_model
from lunar.prompts import default_retain_records, encode_all

PROBES = 8
LEAST = 1e-6
"""Of the spread of the logits: a change below it is rounding."""
AGREEMENT = 0.05
"""Share of the edit's change of the logits by which an export may differ from it, rounding to 16 bits included."""


@dataclass(frozen=True)
class Effect:
    """How the logits of an export differ from the original model's.

    Attributes:
        moved: root mean square of their change, as a share of their spread (standard deviation).
        difference: root mean square of what the export does otherwise than the edit, as a share of the edit's change.
    """

    moved: float
    difference: float

    def check(self, what: str) -> Effect:
        """Raise LunarError where the export does nothing, or something else than the edit."""
        if not self.moved > LEAST:
            raise LunarError(
                f"The {what} has no effect: loaded again, it does not change what the model says, so it was not kept. "
                "The edit may be lost in the checkpoint's precision."
            )
        if not self.difference < AGREEMENT:
            raise LunarError(
                f"The {what} does something else than the edit: loaded again, its change of the logits differs by "
                f"{self.difference:.0%}, so it was not kept."
            )
        return self


def adapter_effect(loaded: LoadedModel, edit: Edit, folder: Path) -> Effect:
    """Load an adapter with PEFT and compare. The model is left as it was. Raises LunarError without PEFT."""
    check_peft()
    peft: Any = import_module("peft")
    before, wanted = _before_and_after(loaded, edit)
    wrapped = peft.PeftModel.from_pretrained(loaded.model, str(folder))
    try:
        after = _logits(wrapped, loaded, edit)
    finally:
        wrapped.unload()
    return _effect(before, wanted, after)


def merged_effect(loaded: LoadedModel, edit: Edit, folder: Path) -> Effect:
    """Load a merged checkpoint and compare; it is held in memory beside the original."""
    before, wanted = _before_and_after(loaded, edit)
    device = str(input_device(loaded.model))
    return _effect(before, wanted, _logits(load_model(folder, device=device).model, loaded, edit))


def check_peft() -> None:
    """Raise LunarError where PEFT is not installed."""
    if find_spec("peft") is None:
        raise LunarError(
            "An adapter is loaded again with PEFT, which is not installed: pip install 'lunar-unlearn[export]'."
        )


def _before_and_after(loaded: LoadedModel, edit: Edit) -> tuple[Tensor, Tensor]:
    before = _logits(loaded.model, loaded, edit)
    with edit.applied(loaded.model):
        return before, _logits(loaded.model, loaded, edit)


def _effect(before: Tensor, wanted: Tensor, after: Tensor) -> Effect:
    change = wanted - before
    moved = (after - before).square().mean().sqrt() / before.std().clamp_min(1e-30)
    difference = (after - wanted).norm() / change.norm().clamp_min(1e-30)
    return Effect(float(moved), float(difference))


def _logits(model: nn.Module, loaded: LoadedModel, edit: Edit) -> Tensor:
    """Logits at the last tokens of a few built-in prompts, with inputs along the edit's detectors, in float64."""
    records = default_retain_records()[:PROBES]
    limit = context_length(loaded.model)
    sequences = encode_all(loaded.tokenizer, records, with_answer=False, context_length=None, name="probe")
    rows = []
    with torch.no_grad(), _along(model, edit):
        for sequence in sequences:
            tokens = torch.tensor([sequence.tokens[-(limit or len(sequence.tokens)) :]])
            rows.append(model(input_ids=tokens.to(input_device(loaded.model))).logits[0, -1].double().cpu())
    return torch.stack(rows)


@contextmanager
def _along(model: nn.Module, edit: Edit) -> Iterator[None]:
    """Within the block, the edited matrices read inputs along what the edit answers to most."""
    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for part in edit.factors:
            name = next(one for one in (part.module_name, f"base_model.model.{part.module_name}") if one in modules)
            # The product's first right singular vector, by its small core.
            left, _ = torch.linalg.qr(part.read.double().T)
            core = part.write.double() @ (part.read.double() @ left)
            direction = left @ torch.linalg.svd(core, full_matrices=False).Vh[0]
            stack.callback(modules[name].register_forward_pre_hook(_replacing(direction)).remove)
        yield


def _replacing(direction: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def replace(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        own, *others = inputs
        along = direction.to(own) * own.norm(dim=-1, keepdim=True)
        return (along, *others)

    return replace
