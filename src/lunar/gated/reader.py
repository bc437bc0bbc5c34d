"""Find the MLP behind a layer's write-back, and make sure by trying it that it computes what units are built for.

A gated MLP behind a root-mean-square norm: write-back · (act(gate x) · (up x)), x = scale · a / rms(a). Knows modules
and shapes, no names of architectures and nothing of flags.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.activations import evaluation_mode, input_device
from lunar.errors import LunarError
from lunar.models import LoadedModel, Site, site_at
from lunar.weights import parameter_of

TOLERANCE = 2e-2
"""Relative; what 16 bits may differ by."""


@dataclass(frozen=True)
class Reader:
    """The gated MLP of the layer behind the flags.

    Attributes:
        site: its write-back matrix.
        gate: name of the matrix whose output goes through the activation function.
        up: name of the other.
        scale: [d] what the norm before it multiplies by, after dividing by the root mean square.
        activation: the function.
    """

    site: Site
    gate: str
    up: str
    scale: Float[Tensor, " d"]
    activation: Any

    @property
    def input_site(self) -> Site:
        """Where capture finds the MLP's input as `inner`, and the layer's output as `residual`."""
        return replace(self.site, module_name=self.gate, inner_width=self.site.width)

    def weight(self, loaded: LoadedModel, name: str) -> Float[Tensor, "rows columns"]:
        """A matrix of the MLP in float64 on the CPU, the write-back one as [d, m]."""
        exact: Tensor = parameter_of(loaded.model.get_submodule(name)).detach().double().cpu()
        return exact.T if name == self.site.module_name and self.site.transposed else exact

    def hidden(self, loaded: LoadedModel, rows: Float[Tensor, "rows d"]) -> Float[Tensor, "rows m"]:
        """What the MLP's units make of inputs, in the model's precision and place."""
        gate, up = (loaded.model.get_submodule(name) for name in (self.gate, self.up))
        with torch.no_grad():
            given = rows.to(gate.weight)  # type: ignore[arg-type]
            return self.activation(gate(given)) * up(given)


def reader_behind(loaded: LoadedModel, site: Site) -> Reader:
    """The MLP of the layer after the site's.

    Raises LunarError where there is no such layer, or its MLP is not gated as Llama's is, or no root-mean-square norm
    without a bias stands before it.
    """
    try:
        behind = site_at(loaded.model, site.layer + 1)
    except LunarError as error:
        raise LunarError(
            f"A gated edit was expected to have a layer behind the one it is made at, but layer {site.layer} is the "
            "last: choose a lower one."
        ) from error
    block_name = behind.module_name.rpartition(".")[0]
    block = loaded.model.get_submodule(block_name)
    shape = (behind.inner_width, behind.width)
    names = [
        name for name, part in block.named_children() if isinstance(part, nn.Linear) and part.weight.shape == shape
    ]
    unbiased = all(getattr(part, "bias", None) is None for part in block.children())
    activation = getattr(block, "act_fn", None) or getattr(block, "activation_fn", None)
    if len(names) == 2 and unbiased and activation is not None:
        for gate, up in (names, names[::-1]):
            bare = torch.ones(behind.width)
            found = Reader(behind, f"{block_name}.{gate}", f"{block_name}.{up}", bare, activation)
            scale = _scale_before(loaded, found, block_name)
            if scale is not None:
                return replace(found, scale=scale)
    raise LunarError(
        f"A gated MLP behind a root-mean-square norm was expected, as Llama's, but {block_name} is none: choose "
        "another target than gated."
    )


def _scale_before(loaded: LoadedModel, reader: Reader, block_name: str) -> Float[Tensor, " d"] | None:
    """The norm's scale, if the MLP computes what a `Reader` says; tried out on three tokens."""
    with _watched(loaded.model, reader, block_name) as seen, torch.no_grad(), evaluation_mode(loaded.model):
        body: Any = loaded.model.base_model
        body(input_ids=torch.tensor([[0, 1, 2]], device=input_device(loaded.model)), use_cache=False)
    hidden = reader.hidden(loaded, seen.block_input.reshape(-1, reader.site.width))
    if not _close(hidden, seen.hidden.reshape(hidden.shape)):
        return None
    for norm, rows, output in seen.norms:
        # Of a constant row, such a norm makes its scale.
        with torch.no_grad():
            scale = norm(torch.ones_like(rows[:1, :1])).reshape(-1)
        normalised = rows / rows.square().mean(-1, keepdim=True).sqrt()
        if output is seen.block_input and _close(normalised * scale, output):
            return scale.double().cpu()
    return None


@dataclass
class _Seen:
    block_input: Tensor
    hidden: Tensor
    norms: list[tuple[nn.Module, Tensor, Tensor]]


@contextmanager
def _watched(model: PreTrainedModel, reader: Reader, block_name: str) -> Iterator[_Seen]:
    """What passes the layer's norms and its MLP while the block lasts."""
    seen = _Seen(torch.empty(0), torch.empty(0), [])

    def look_block(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.block_input = inputs[0]

    def look_down(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.hidden = inputs[0]

    def look_norm(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
            seen.norms.append((module, inputs[0], output))

    layer = reader.site.layer_module(model)
    norms = [part for part in layer.children() if [tuple(p.shape) for p in part.parameters()] == [(reader.site.width,)]]
    handles = [
        model.get_submodule(block_name).register_forward_pre_hook(look_block),
        reader.site.module(model).register_forward_pre_hook(look_down),
        *(part.register_forward_hook(look_norm) for part in norms),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _close(one: Tensor, other: Tensor) -> bool:
    difference = (one.float() - other.float()).norm()
    return bool(difference <= TOLERANCE * other.float().norm())
