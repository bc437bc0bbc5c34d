"""How a change of what a site's matrix writes arrives in the residual stream, found by trying it out.

Most layers add what their MLP writes as it is. Some multiply it by a number first (Granite), some normalise it (Gemma 2
and 3, OLMo 2); there the least squares holds for the residual stream, and its solution is translated into what the
matrix has to write. Knows models and sites, nothing of prompts, targets or edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.activations import capture_all, evaluation_mode, input_device
from lunar.errors import LunarError
from lunar.models import Site
from lunar.prompts import TokenSequence
from lunar.weights import parameter_of

DIRECT, SCALED, NORMALISED = "direct", "scaled", "normalised"
TOKENS = 16
"""On so many tokens it is tried out."""
TOLERANCE = 1e-2
"""Of the change that arrives, by which a passage may differ from what is said of it."""
FAINTEST = 1e-2
"""Of the mean gain: nothing is written to coordinates of the residual stream where less than that would arrive."""


@dataclass(frozen=True)
class Passage:
    """From what a matrix writes, y [d], to what is added to the residual stream.

    Attributes:
        kind: "direct": y; "scaled": gain·y; "normalised": gain·y/rms(y), as behind a root-mean-square norm.
        gain: [d] in float64, on the CPU.
        size: mean root mean square of what the matrix writes where tokens are redirected; 1 unless normalised.
    """

    kind: str
    gain: Float[Tensor, " d"]
    size: float = 1.0

    def factor(self) -> Float[Tensor, " d"]:
        """What has to be written for each unit that is to arrive, per coordinate: 1/gain, or size/gain if normalised.

        With y' = y + rms(y)·T/gain, the norm yields n' = (n + T)·rms(y)/rms(y'): what is wanted but for its length,
        which a norm decides itself. A strength above 1 makes up for it as far as can be.
        """
        faint = self.gain.abs() < FAINTEST * self.gain.square().mean().sqrt()
        return torch.where(faint, 0.0, self.size / self.gain)

    def carried(self, written: Float[Tensor, "rows d"], change: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
        """How the residual stream changes where the matrix writes `written` + `change` instead of `written`."""
        gain = self.gain.to(change)
        if self.kind != NORMALISED:
            return gain * change
        return gain * (_normalised(written.to(change) + change) - _normalised(written.to(change)))

    def sized(self, mean: RowSize) -> Passage:
        """The same with the size that rows were found to have."""
        return replace(self, size=mean.mean()) if self.kind == NORMALISED else self

    def with_factor(self, factor: Float[Tensor, " d"]) -> Passage:
        """The same with the size that a factor was made with."""
        known = factor != 0
        return replace(self, size=float((factor * self.gain)[known].median())) if bool(known.any()) else self


@dataclass
class RowSize:
    """The mean root mean square of what a matrix writes, over rows that are shown one batch after another."""

    total: float = 0.0
    count: int = 0

    def update(self, written: Float[Tensor, "rows d"]) -> RowSize:
        """Add rows; returns self."""
        self.total += float(_size(written).sum())
        self.count += len(written)
        return self

    def mean(self) -> float:
        """The mean; 1 where no row came, or all are zero."""
        return self.total / self.count if self.total > 0 else 1.0


def written(model: PreTrainedModel, site: Site, inner: Float[Tensor, "rows m"]) -> Float[Tensor, "rows d"]:
    """What a site's matrix, with its bias, makes of its inputs; in float64, where the inputs are."""
    module: Any = site.module(model)
    weight = parameter_of(module).detach().to(inner.device, torch.float64)
    rows = inner.double() @ (weight if site.transposed else weight.T)
    return rows if module.bias is None else rows + parameter_of(module, "bias").detach().to(rows)


def passage_of(model: PreTrainedModel, site: Site) -> Passage:
    """Write random numbers of two sizes in the matrix's place, and see what comes of them.

    Raises LunarError, with the reason, where that is none of the three kinds.
    """
    sequence = TokenSequence(tuple(index % _vocabulary(model) for index in range(TOKENS)), TOKENS)
    residual = capture_all(model, site, [sequence]).residual
    if site.before_mlp and not _goes_on(model, site, sequence):
        raise _refusal(site, "its layer rescales what the attention writes, or adds it elsewhere")
    # As large as the activations themselves, so that rounding in 16 bits stays below the tolerance.
    size = 2 * _size(residual).median().clamp_min(1.0)
    drawn = torch.randn(TOKENS, site.width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = [(scale * drawn).to(residual.dtype) for scale in (0.0, size.cpu(), 2 * size.cpu())]
    try:
        # All three in one batch: a pass over few tokens takes as long as reading the weights.
        arrived = _written_instead(model, site, torch.cat(values), [sequence] * len(values)).split(TOKENS)
    except _Apart:
        arrived = tuple(_written_instead(model, site, value, [sequence]) for value in values)
    wrote = torch.cat(values[1:]).double()
    came = torch.cat([arrived[1] - arrived[0], arrived[2] - arrived[0]])
    rounding = 4 * torch.finfo(residual.dtype).eps * float(_size(arrived[2]).median())
    if not float(_size(came).median()) > rounding:
        raise _refusal(site, "nothing of what it writes arrives there")
    allowed = TOLERANCE * float(_size(came).median()) + rounding
    for passage in _fits(wrote, came):
        missing = passage.carried(torch.zeros_like(wrote), wrote) - came
        if float(missing.square().mean().sqrt()) <= allowed:
            return passage
    raise _refusal(site, "its layer changes what it writes in a way that is neither a factor nor a norm")


def writes_directly(model: PreTrainedModel, site: Site) -> bool:
    """Whether what the site's matrix writes reaches its layer's output unchanged."""
    try:
        return not site.before_mlp and passage_of(model, site).kind == DIRECT
    except LunarError:
        return False


def _fits(wrote: Float[Tensor, "rows d"], came: Float[Tensor, "rows d"]) -> list[Passage]:
    """The passage of each kind that is closest, the simplest first."""
    shape = _normalised(wrote)
    ones = torch.ones(wrote.shape[1], dtype=torch.float64)
    return [
        Passage(DIRECT, ones),
        Passage(SCALED, ones * ((came * wrote).sum() / wrote.square().sum())),
        Passage(NORMALISED, (came * shape).sum(0) / shape.square().sum(0)),
    ]


class _Apart(Exception):  # noqa: N818 (not an error: memory is short, and the sequences were not run at once)
    """Some sequences came in several batches."""


def _written_instead(
    model: PreTrainedModel, site: Site, value: Float[Tensor, "tokens d"], sequences: Sequence[TokenSequence]
) -> Float[Tensor, "tokens d"]:
    """The residual where the site's matrix writes `value` to the tokens of some sequences of one length.

    Raises _Apart where they are not run in one batch.
    """

    def instead(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        if output.numel() != value.numel():
            raise _Apart
        # A copy: layers may add to it in place.
        return value.to(output, copy=True).reshape(output.shape)

    with _hooked(site.module(model).register_forward_hook(instead)):
        return capture_all(model, site, sequences, share_prefixes=False).residual.double().cpu()


def _goes_on(model: PreTrainedModel, site: Site, sequence: TokenSequence) -> bool:
    """Whether a later part of the layer reads the layer's input plus what the matrix wrote, and no other sum."""
    expected = capture_all(model, site, [sequence]).residual.double().cpu()
    found: list[bool] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].shape == (1, *expected.shape):
            missing = inputs[0][0].double().cpu() - expected
            found.append(float(_size(missing).max()) <= TOLERANCE * float(_size(expected).median()))

    body: Any = model.base_model
    handles = [module.register_forward_pre_hook(look) for module in site.layer_module(model).modules()]
    with _hooked(*handles), torch.no_grad(), evaluation_mode(model):
        body(input_ids=torch.tensor([sequence.tokens], device=input_device(model)), use_cache=False)
    return any(found)


@contextmanager
def _hooked(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _size(rows: Float[Tensor, "rows d"]) -> Float[Tensor, " rows"]:
    return rows.double().square().mean(-1).sqrt()


def _normalised(rows: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
    return rows / rows.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-30)


def _vocabulary(model: PreTrainedModel) -> int:
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def _refusal(site: Site, reason: str) -> LunarError:
    return LunarError(
        f"What {site.module_name} writes was expected to reach the residual stream as it is, times a factor or behind "
        f"a norm, but {reason}: this layer cannot be edited."
    )
