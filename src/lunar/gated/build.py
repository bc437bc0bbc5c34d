"""Build a gated or a hardened edit: the passes over the data between flags and units.

Retain activations are streamed; kept are a sample of write-back inputs for the bar, and one row per pinned prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lunar.collect import Problem, Sets, Work, edit_of
from lunar.edit import Edit, Factors, fingerprint
from lunar.errors import LunarError
from lunar.gated.answers import said, with_answers
from lunar.gated.flags import WIDTH_SHARE, channels_of, find_flags
from lunar.gated.reader import Reader, reader_behind
from lunar.gated.units import Units, find_units
from lunar.models import LoadedModel, Site
from lunar.moments import Moments, ReferenceMean
from lunar.passage import writes_directly
from lunar.records import Record
from lunar.settings import HARDENED, Settings
from lunar.solve import Solution, thin

SAMPLED = 0.35
"""Share of the pinned tokens before the last by which the bar is fitted."""
ANSWERED, LONGEST = 96, 24
"""Neighbours whose answers by the model are pinned as well, and their tokens: what it says of invented names are the
refusals that follow a forget prompt once it is forgotten, and behind which nothing is to happen any more."""
HARDER = 2.0
"""How far the units of a hardened edit go, which find most of the way gone already: whoever takes the linear part out
is to find a refusal still, and who undoes half of both as well."""


@dataclass(frozen=True)
class Gated:
    """An edit of the write-back matrix of one layer and of the three matrices of the next layer's MLP.

    Attributes:
        raised: the change of the write-back matrix that raises the flags and changes no answer by itself.
        behind: the change of the other matrices.
        units: what that change is made of, with the readings on both sides of the threshold.
        linear: what a hardened edit changes the write-back matrix by besides, strength included.
    """

    raised: Solution
    behind: Edit
    units: Units
    linear: Solution | None = None

    @property
    def solution(self) -> Solution:
        """The whole change of the write-back matrix."""
        return self.raised if self.linear is None else _both(self.raised, self.linear)

    def edit(self, loaded: LoadedModel, site: Site, settings: dict[str, object]) -> Edit:
        """Everything together."""
        return edit_of(loaded, site, self.solution, settings, 1.0, self.behind)


def can_build(loaded: LoadedModel, site: Site) -> bool:
    """Whether the layer behind the site's has an MLP in which a gated edit can be held."""
    try:
        _reader(loaded, site)
    except LunarError:
        return False
    return True


def build(work: Work, sets: Sets, problem: Problem, settings: Settings) -> Gated:
    """Solve for flags and units.

    Under a hardened edit's threshold lies a linear one, `lunar.gated.answers`. Its units are asked for the change that
    the model would need without that, at inputs with it.

    Args:
        work: the model, with progress.
        sets: of the request.
        problem: the least squares at the site, with the last prompt tokens redirected and nothing else.
        settings: the retain weight, by which the problem's sums were made, ridge, target and strength are taken from
            here.

    Raises LunarError where the next layer has no gated MLP, or the flags of forget prompts do not stand out.
    """
    loaded, site = work.loaded, problem.site
    reader = _reader(loaded, site)
    with work.stage("refusals"):
        answered = said(work, sets.neighbours[:ANSWERED], "refusals", LONGEST)
    pinned = [*sets.retain, *answered, *sets.neighbours[ANSWERED:]]
    with work.stage("bar"):
        seen = _look(work, site, reader, pinned)
    channels = _channels(problem, min(site.width // WIDTH_SHARE, reader.site.inner_width // 4))
    with work.stage("flags", announced=True):
        flags = find_flags(
            problem.sums().second,
            problem.inner,
            channels,
            seen.inner,
            seen.last,
            seen.answer,
            seen.spread,
            size=float(problem.residual.double().norm(dim=1).mean()),
            given_weight=settings.retain_weight,
            share=SAMPLED,
            ridge=settings.ridge,
        )
    raised, linear = flags.solution(), None
    strength = 1.0 if settings.strength is None else settings.strength
    if settings.target == HARDENED:
        linear = _scaled(with_answers(work, sets, problem, settings).solve(settings), strength)
    with work.stage("units"):
        flagged = edit_of(loaded, site, raised, {}, 1.0)
        inputs, residual = _last(work, "flags", reader, sets.redirected, flagged)
        if linear is not None:
            strength *= HARDER
            flagged = edit_of(loaded, site, _both(raised, linear), {}, 1.0)
            inputs, _ = _last(work, "linear", reader, sets.redirected, flagged)
        others, _ = _last(work, "other prompts", reader, pinned, flagged)
    wanted = strength * (_reference(work, reader, sets.reference) - residual.double())
    units = find_units(loaded, reader, flags, seen.use, channels, inputs, wanted, others, len(sets.neighbours))
    return Gated(raised, _behind(loaded, reader, units), units, linear)


def _channels(problem: Problem, most: int) -> Int[Tensor, " rows"]:
    """Each redirected row's channel; a prompt and its rewordings share one."""
    given = ~problem.reworded
    of_prompt = torch.empty(int(given.sum()), dtype=torch.long)
    of_prompt[problem.prompt[given]] = channels_of(problem.inner[given], most)
    return of_prompt[problem.prompt]


def _reader(loaded: LoadedModel, site: Site) -> Reader:
    """The MLP behind; refused where flags would not reach it as they are written."""
    if not writes_directly(loaded.model, site):
        raise LunarError(
            f"{site.module_name} was expected to write straight to its layer's output, but its layer changes what it "
            "writes, so that no flag can be raised: choose another target than gated."
        )
    return reader_behind(loaded, site)


@dataclass(frozen=True)
class _Seen:
    """What one pass of the pinned prompts through the unedited model left.

    Attributes:
        inner: [rows, m] write-back inputs: all last tokens and answer tokens, and a sample of the others.
        last: [rows] whether a row is a last token.
        answer: [rows] whether it is an answer token.
        spread: [d, d] second moment of the normalised residual before the next MLP.
        use: [m'] mean square of what each of that MLP's units writes.
    """

    inner: Float[Tensor, "rows m"]
    last: Bool[Tensor, " rows"]
    answer: Bool[Tensor, " rows"]
    spread: Float[Tensor, "d d"]
    use: Float[Tensor, " units"]


def _look(work: Work, site: Site, reader: Reader, records: Sequence[Record]) -> _Seen:
    generator = torch.Generator().manual_seed(0)
    rows, last, answer = [], [], []
    spread = Moments.zeros(site.width)
    use = torch.zeros(reader.site.inner_width, dtype=torch.float64)
    for batch in work.capture("bar", [site, reader.input_site], records, with_answer=True):
        here, behind = batch[site.layer], batch[reader.site.layer]
        normalised = behind.inner.double() / reader.scale
        spread.update(normalised, torch.ones(len(normalised)))
        use += reader.hidden(work.loaded, behind.inner).double().cpu().square().sum(0)
        kept = (here.from_end <= 0) | (torch.rand(len(here.inner), generator=generator) < SAMPLED)
        rows.append(here.inner[kept])
        last.append(here.from_end[kept] == 0)
        answer.append(here.from_end[kept] < 0)
    written = reader.weight(work.loaded, reader.site.module_name).square().sum(0)
    return _Seen(torch.cat(rows), torch.cat(last), torch.cat(answer), spread.second, use * written)


def _last(work: Work, name: str, reader: Reader, records: Sequence[Record], edit: Edit) -> tuple[Tensor, Tensor]:
    """[prompts, d] inputs of the next MLP and outputs of its layer under an edit, at the last prompt tokens."""
    with edit.applied(work.loaded.model):
        rows = work.rows(name, [reader.input_site], records, with_answer=False, last_only=True)[reader.site.layer]
    return rows.inner, rows.residual


def _both(one: Solution, other: Solution) -> Solution:
    """Two changes of a matrix as one."""
    return thin(torch.cat([one.write, other.write], dim=1), torch.cat([one.read, other.read]))


def _scaled(solution: Solution, strength: float) -> Solution:
    return Solution(strength * solution.write, solution.read)


def _reference(work: Work, reader: Reader, records: Sequence[Record]) -> Float[Tensor, " d"]:
    """Mean output of the next layer at the reference prompts' last tokens."""
    mean = ReferenceMean.zeros(1, reader.site.width)
    with work.stage("reference"):
        for batch in work.capture("reference", [reader.site], records, with_answer=False):
            rows = batch[reader.site.layer]
            mean.update(rows.residual, rows.from_end)
    return mean.mean()[0]


def _behind(loaded: LoadedModel, reader: Reader, units: Units) -> Edit:
    """The units' new weights as changes of the three matrices."""
    name = reader.site.module_name
    picked = torch.nn.functional.one_hot(units.places, reader.site.inner_width).double()
    gate = units.gate - reader.weight(loaded, reader.gate)[units.places]
    up = units.up - reader.weight(loaded, reader.up)[units.places]
    columns = units.columns - reader.weight(loaded, name)[:, units.places]
    return Edit(
        (
            _factors(loaded, reader.gate, picked.T, gate),
            _factors(loaded, reader.up, picked.T, up),
            _factors(loaded, name, columns, picked, reader.site.transposed),
        )
    )


def _factors(loaded: LoadedModel, name: str, write: Tensor, read: Tensor, transposed: bool = False) -> Factors:
    weight: Any = loaded.model.get_submodule(name).weight
    return Factors.of(name, Solution(write, read), transposed, fingerprint(weight))
