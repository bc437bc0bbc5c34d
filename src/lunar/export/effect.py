"""Is what was exported loaded again, and does it do what the edit does?

An adapter whose keys no loader finds, or whose change is lost in rounding, loads without a word and does nothing. So
the exported model is shown inputs along the edit's own detectors: every token's input of the edited matrix is replaced
by one of the same length in a direction that the edit answers to, each of these in turn. No forgotten prompt is needed
for that.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lunar.activations import input_device
from lunar.edit import Edit, Factors
from lunar.errors import LunarError
from lunar.models import LoadedModel, context_length, load_model
from lunar.preflight import check_peft
from lunar.prompts import default_retain_records, encode_all

PROBES = 8
"""At least so many; more where the edit answers to more directions."""
DIRECTIONS = 64
"""The strongest directions of a matrix that are probed at most, to bound the cost."""
NOISE = 1e-6
"""Of the strongest direction's change, below which a direction is rounding of the stored factors."""
WEAKEST, ROUGH = 0.01, 1.0
"""A direction that changes the logits by less than this share of the strongest one's change counts as if by so much.

The second holds where weights have 16 bits: their rounding drowns what weak directions do.
"""
LEAST = 1e-6
"""Of the spread of the logits: a change below it is rounding."""
FAINT = 2e-5
"""Of the spread of the logits: of a change below it, rounding to 32 bits is more than a few percent."""
AGREEMENT = 0.05
"""Share of the edit's change of the logits by which an export may differ from it, rounding to 16 bits included."""


@dataclass(frozen=True)
class Effect:
    """How the logits of an export differ from the original model's.

    Attributes:
        moved: root mean square of their change, as a share of their spread (standard deviation).
        difference: what the export does otherwise than the edit, as a share of the edit's change: the largest over the
            directions that were probed.
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
    with warnings.catch_warnings():
        # What PEFT still calls of transformers is for them to settle.
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = peft.PeftModel.from_pretrained(loaded.model, str(folder))
    try:
        after = _logits(wrapped, loaded, edit)
    finally:
        wrapped.unload()
    weights = dict(loaded.model.named_parameters())
    rough = any(weights[f"{part.module_name}.weight"].element_size() < 4 for part in edit.factors)
    return _effect(before, wanted, after, ROUGH if rough else WEAKEST)


def merged_effect(loaded: LoadedModel, edit: Edit, folder: Path) -> Effect:
    """Load a merged checkpoint and compare; it is held in memory beside the original.

    It may hold 16 bits whatever the model was loaded in. That its tensors are the edited ones, bit for bit, is for
    `lunar.export.merged.merged_faults` to say.
    """
    before, wanted = _before_and_after(loaded, edit)
    device = str(input_device(loaded.model))
    return _effect(before, wanted, _logits(load_model(folder, device=device).model, loaded, edit), ROUGH)


def _before_and_after(loaded: LoadedModel, edit: Edit) -> tuple[Tensor, Tensor]:
    before = _logits(loaded.model, loaded, edit)
    with edit.applied(loaded.model):
        return before, _logits(loaded.model, loaded, edit)


def _effect(before: Tensor, wanted: Tensor, after: Tensor, weakest: float) -> Effect:
    """Compare logits [probes, vocabulary]; see `WEAKEST` for the last."""
    change, spread = (wanted - before).norm(dim=1), before.std().clamp_min(1e-30)
    strongest = change.max().clamp_min(1e-30)
    least = (weakest * strongest).clamp_min(FAINT * spread * before.shape[1] ** 0.5).clamp_max(strongest)
    moved = (after - before).square().mean().sqrt() / spread
    difference = ((after - wanted).norm(dim=1) / change.clamp_min(least)).max()
    return Effect(float(moved), float(difference))


def _logits(model: nn.Module, loaded: LoadedModel, edit: Edit) -> Tensor:
    """Logits at the last tokens of built-in prompts, with inputs along the edit's detectors, in float64.

    Prompts and directions are gone through side by side, so that every direction is seen by at least one probe.
    """
    directions = {part.module_name: _directions(part) for part in edit.factors}
    records = default_retain_records()[:PROBES]
    limit = context_length(loaded.model)
    sequences = encode_all(loaded.tokenizer, records, with_answer=False, context_length=None, name="probe")
    rows = []
    for probe in range(max(PROBES, *map(len, directions.values()))):
        sequence = sequences[probe % len(sequences)]
        tokens = torch.tensor([sequence.tokens[-(limit or len(sequence.tokens)) :]])
        shown = {name: own[probe % len(own)] for name, own in directions.items() if len(own)}
        with torch.no_grad(), _along(model, shown):
            rows.append(model(input_ids=tokens.to(input_device(loaded.model))).logits[0, -1].double().cpu())
    return torch.stack(rows)


def _directions(part: Factors) -> Float[Tensor, "directions m"]:
    """What a change answers to: the right singular vectors of the product, strongest first, by its small core."""
    left, _ = torch.linalg.qr(part.read.double().T)
    core = part.write.double() @ (part.read.double() @ left)
    _, values, right = torch.linalg.svd(core, full_matrices=False)
    count = int((values > NOISE * values.max()).sum()) if len(values) else 0
    return right[: min(count, DIRECTIONS)] @ left.T


@contextmanager
def _along(model: nn.Module, shown: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block, the modules of these names read inputs in these directions."""
    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for own, direction in shown.items():
            name = next(one for one in (own, f"base_model.model.{own}") if one in modules)
            stack.callback(modules[name].register_forward_pre_hook(_replacing(direction)).remove)
        yield


def _replacing(direction: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def replace(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        own, *others = inputs
        along = direction.to(own) * own.norm(dim=-1, keepdim=True)
        return (along, *others)

    return replace
