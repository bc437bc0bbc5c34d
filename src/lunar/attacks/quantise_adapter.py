"""Round the original to 8 or 4 bits and put the change on top, as a server does that loads an adapter over such a base.

Source: "Catastrophic Failure of LLM Unlearning via Quantization" (arXiv 2410.16454) for the merged weights; over a
rounded base, the layout of "QLoRA" (arXiv 2305.14314). By torchao (the extra `quantise`). The change of every matrix is
added to what the rounded one writes, in full precision. Nobody needs to mean it as an attack: the edit was solved for
activations that the rounded base does not have. Control: wrong answers to like questions, as a model that never knew
has no adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.attacks.quantise import BITS, rounded
from lunar.attacks.weights import changes, matrices
from lunar.errors import LunarError
from lunar.models import LoadedModel


@contextmanager
def over_rounded(loaded: LoadedModel, original: LoadedModel, bits: int) -> Iterator[Attacked]:
    """The original in few bits with the unlearned model's change of each linear layer beside it; both stay as they are.

    Raises LunarError as rounding does, and for a change of anything but linear layers.
    """
    found = {name: after.float() - before.float() for name, (before, after) in _changed(loaded, original).items()}
    model = rounded(original.model, bits)
    with ExitStack() as stack:
        for name, change in found.items():
            handle = model.get_submodule(name.removesuffix(".weight")).register_forward_hook(_adding(change))
            stack.callback(handle.remove)
        yield Attacked(replace(loaded, model=model))


def _changed(loaded: LoadedModel, original: LoadedModel) -> dict[str, tuple[Tensor, Tensor]]:
    everything = changes(original.model, loaded.model)
    found = matrices(everything)
    linear = all(isinstance(original.model.get_submodule(name.rpartition(".")[0]), nn.Linear) for name in everything)
    if len(found) != len(everything) or not linear:
        raise LunarError(
            "Over a rounded base a change is an adapter of linear layers, but other weights differ as well: leave this "
            "attack out."
        )
    return found


def _adding(change: Tensor) -> Any:
    def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + (inputs[0].float() @ change.T.to(inputs[0].device)).to(output.dtype)

    return add


def variants(case: Case) -> Iterator[Variant]:
    """8 bits and 4."""
    for bits in BITS:
        yield Variant({"bits": bits}, partial(over_rounded, case.unlearned, case.original, bits))


ATTACK = Attack(
    name="quantise-adapter",
    title="The change over a base in 8 or 4 bits",
    source="Zhang et al., arXiv 2410.16454; layout of Dettmers et al., arXiv 2305.14314; rounding by torchao",
    access="weights",
    needs="a server that loads the adapter over rounded weights; no data",
    control="wrong answers to like questions",
    variants=variants,
    uses_original=True,
)
