"""What attacks do to the residual stream while a model runs: leave a layer out, add a direction, take one out.

Every function is a context manager whose hooks are gone behind it, also after an exception; no weight is touched.
Knows models; knows nothing of records or of where a direction comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.models import Site


@contextmanager
def without_mlp(model: PreTrainedModel, site: Site) -> Iterator[None]:
    """The MLP of the site's layer writes nothing."""

    def nothing(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    handle = site.module(model).register_forward_hook(nothing)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def without_layer(model: PreTrainedModel, site: Site) -> Iterator[None]:
    """The site's layer hands its input through. It still runs, so that its keys and values are counted as usual."""

    def hand_through(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        hidden = inputs[0] if inputs else named["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = site.layer_module(model).register_forward_hook(hand_through, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def changed_residual(model: PreTrainedModel, site: Site, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The output [batch, tokens, d] of the site's layer goes through `change`."""

    def replace(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    handle = site.layer_module(model).register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def added(
    model: PreTrainedModel, site: Site, direction: Float[Tensor, " d"], *, everywhere: bool = False
) -> Iterator[None]:
    """A direction is added to the output of the site's layer, at the last prompt token or at all tokens.

    The last prompt token is the last one of a pass over more than one token, as in generation with a cache from prompts
    padded on the left; the passes over one token that follow are those of the answer.
    """

    def change(hidden: Tensor) -> Tensor:
        step = direction.to(hidden.device)
        if everywhere:
            return (hidden.float() + step).to(hidden.dtype)
        if hidden.shape[1] == 1:
            return hidden
        last = (hidden[:, -1:].float() + step).to(hidden.dtype)
        return torch.cat([hidden[:, :-1], last], dim=1)

    with changed_residual(model, site, change):
        yield


@contextmanager
def projected(model: PreTrainedModel, sites: Sequence[Site], direction: Float[Tensor, " d"]) -> Iterator[None]:
    """A direction r is taken out of every token at the outputs of the layers: a − r(r·a)/(r·r). Zero is no change."""
    unit = direction.double()
    unit = (unit / unit.norm().clamp_min(torch.finfo(torch.float64).tiny)).float()

    def change(hidden: Tensor) -> Tensor:
        out = unit.to(hidden.device)
        return (hidden.float() - (hidden.float() @ out)[..., None] * out).to(hidden.dtype)

    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(changed_residual(model, site, change))
        yield
