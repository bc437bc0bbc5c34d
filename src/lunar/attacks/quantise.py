"""Round the weights to 8 or 4 bits, as whoever serves a model does, and with it perhaps the small change away.

Source: "Catastrophic Failure of LLM Unlearning via Quantization" (arXiv 2410.16454). Weight-only rounding to nearest
by torchao (the extra `quantise`): 8 bits with a scale per row, 4 bits with one per 32 weights. An attacker needs the
weights, and no data; nobody needs to mean it as an attack. Control: the model that never knew in as few bits, or wrong
answers to like questions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.errors import LunarError
from lunar.models import LoadedModel

BITS = (8, 4)
GROUP = 32


@contextmanager
def quantised(loaded: LoadedModel, bits: int) -> Iterator[Attacked]:
    """A copy of the model with its linear layers in 8 or 4 bits; the model stays as it is.

    Raises LunarError for other numbers of bits, without torchao, and where no matrix can be rounded (torchao takes
    linear layers, with 4 bits those whose inputs are a multiple of 32; GPT-2 has none).
    """
    yield Attacked(replace(loaded, model=rounded(loaded.model, bits)))


def rounded(original: PreTrainedModel, bits: int) -> PreTrainedModel:
    """A copy of a model with its linear layers in so few bits; raises LunarError as `quantised` does."""
    if bits not in BITS:
        raise LunarError(f"The number of bits must be 8 or 4, but {bits} came: choose one of them.")
    rounding, settings = _torchao(bits)
    model = copy.deepcopy(original)
    chosen = [name for name, module in model.named_modules() if _fits(module, bits)]
    if not chosen:
        raise LunarError(
            f"No matrix of {type(model).__name__} can be rounded to {bits} bits by torchao, which takes linear layers "
            "only: leave this attack out."
        )
    rounding(model, settings, filter_fn=lambda module, name: name in chosen)
    return model


def _fits(module: nn.Module, bits: int) -> bool:
    return isinstance(module, nn.Linear) and (bits == 8 or module.in_features % GROUP == 0)


def _torchao(bits: int) -> tuple[Any, Any]:
    """The function that rounds, and its settings. Imported here: only this attack needs it."""
    try:
        package: Any = import_module("torchao.quantization")
    except ImportError as error:
        raise LunarError(
            "The attack quantise needs torchao, which is not installed: pip install 'lunar-unlearn[quantise]'."
        ) from error
    if bits == 8:
        return package.quantize_, package.Int8WeightOnlyConfig()
    numbers: Any = torch  # its stub does not know the type
    settings = package.IntxWeightOnlyConfig(weight_dtype=numbers.int4, granularity=package.PerGroup(GROUP))
    return package.quantize_, settings


def variants(case: Case) -> Iterator[Variant]:
    """8 bits and 4."""
    for bits in BITS:
        yield Variant({"bits": bits}, partial(quantised, case.unlearned, bits))


ATTACK = Attack(
    name="quantise",
    title="The weights in 8 or 4 bits",
    source="Zhang et al., arXiv 2410.16454; rounding by torchao",
    access="weights",
    needs="the weights; no data",
    control="the control in as few bits",
    variants=variants,
)
