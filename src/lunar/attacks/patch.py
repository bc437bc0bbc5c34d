"""Put the original's activations into the unlearned model at one layer, and the other way round.

Source: "Dissecting Fine-Tuning Unlearning in Large Language Models" (arXiv 2410.06606) and "Measuring the Depth of LLM
Unlearning via Activation Patching" (arXiv 2605.24614), here by what is said instead of by likelihoods. From
the original into the unlearned model at layer l: what comes back shows that all layers above l still make the answer of
it. From the unlearned model into the original: what is still said shows that up to layer l nothing was forgotten. At
the upper layers this gives any model the original's answer, so it is a measurement: nobody has the activations without
the model. Control: wrong answers to like questions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.attacks.hooks import changed_residual
from lunar.errors import LunarError
from lunar.models import LoadedModel, Site, site_at

READS = ("input_ids", "attention_mask", "position_ids")


@contextmanager
def patched(loaded: LoadedModel, source: LoadedModel, layer: int) -> Iterator[Attacked]:
    """The model with the output of a layer, at all tokens of the prompt, as another model has it there.

    The passes over one token that follow, those of the answer, are the model's own. Raises LunarError where the two
    are not of the same width.
    """
    site, other = site_at(loaded.model, layer), site_at(source.model, layer)
    if site.width != other.width:
        raise LunarError(
            "This attack puts activations of one model into another, but the two are not of the same width: give the "
            "original and what was made of it."
        )
    found: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.clear()
        tokens = named.get("input_ids")
        if tokens is not None and tokens.shape[1] > 1:
            found.append(_output(source.model, other, named))

    def change(hidden: Tensor) -> Tensor:
        return found[0].to(hidden) if found and found[0].shape == hidden.shape else hidden

    with ExitStack() as stack:
        handle = loaded.model.register_forward_pre_hook(look, with_kwargs=True)
        stack.callback(handle.remove)
        stack.enter_context(changed_residual(loaded.model, site, change))
        yield Attacked(loaded)


def _output(model: PreTrainedModel, site: Site, named: dict[str, Any]) -> Tensor:
    """The output [batch, tokens, d] of a site's layer on the same tokens."""
    kept: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        kept.append(hidden)
        return hidden

    known = inspect.signature(model.forward).parameters
    arguments = {name: named[name] for name in READS if name in known and named.get(name) is not None}
    with torch.no_grad(), changed_residual(model, site, keep):
        body: Any = model
        body(**arguments, use_cache=False)
    return kept[0]


def variants(case: Case) -> Iterator[Variant]:
    """Each layer that the budget allows, from the original; and, as a comparison, into the original."""
    for site in case.sites():
        yield Variant(
            {"layer": site.layer, "into": "unlearned"}, partial(patched, case.unlearned, case.original, site.layer)
        )
    for site in case.sites():
        yield Variant(
            {"layer": site.layer, "into": "original"},
            partial(patched, case.original, case.unlearned, site.layer),
            counts=False,
        )


ATTACK = Attack(
    name="patch",
    title="The original's activations at one layer",
    source="Hong et al., arXiv 2410.06606; Lee et al., arXiv 2605.24614",
    access="weights",
    needs="the original, for a look at how deep the change goes",
    control="wrong answers to like questions",
    variants=variants,
    uses_original=True,
    measures=True,
    costly=True,
    curve=True,
)
