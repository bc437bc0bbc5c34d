"""The method: capture, target, solve. One function that reads like the algorithm.

`unlearn` finds the edit and leaves the model as it was; `Edit.apply` changes it. Nothing here knows files, the command
line or scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch

from lunar import processes
from lunar.collect import Sets, Work, collect, edit_of, tail_of
from lunar.edit import Edit
from lunar.errors import LunarError
from lunar.gated import build
from lunar.interrupted import SavedSums
from lunar.logits import prompt_logits
from lunar.models import LoadedModel, Site, site_at
from lunar.progress import Progress
from lunar.prompts import default_retain_records, reference_records
from lunar.records import Record, check_disjoint
from lunar.select.choice import Choice
from lunar.select.search import choose
from lunar.settings import GATED, Settings
from lunar.solve import Gate

CHECKED = 4
"""Forget prompts by which it is seen whether an edit changes anything."""


@dataclass(frozen=True)
class Unlearned:
    """What `unlearn` found.

    Attributes:
        edit: the change, not yet applied.
        gate: how well the last tokens of the forget prompts are recognised, with leave-one-out values.
        site: the matrix that the edit changes.
        counts: numbers of prompts and rows that went in.
        seconds: time per stage.
        builtin_retain: no retain records were given, and the built-in prompts were used.
        choice: how the layer and the strength were found; None where the settings named the layer.
        resumed: per stage, how many prompts an interrupted run had added up already.
    """

    edit: Edit
    gate: Gate
    site: Site
    counts: dict[str, int]
    seconds: dict[str, float]
    builtin_retain: bool = field(default=False)
    choice: Choice | None = None
    resumed: Mapping[str, int] = field(default_factory=dict)


def unlearn(
    loaded: LoadedModel,
    forget: Sequence[Record],
    *,
    retain: Sequence[Record] | None = None,
    reference: Sequence[Record] | str = "unverifiable",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Unlearned:
    """Find the edit that redirects the forget prompts to where the model says it does not know.

    Args:
        loaded: model and tokenizer; the model is left as it was.
        forget: prompts to forget; answers are needed only for `redirect_answers`.
        retain: prompts to leave alone, with answers if known. None uses built-in prompts of general knowledge and of
            things that do not exist.
        settings: how to edit; where they leave the layer open, it is searched for (`lunar.select`).
        reference: prompts that the model declines, or the name of a built-in set ("unverifiable" or "refusal").

    Raises LunarError if a set is empty, forget and retain share a prompt, a prompt exceeds the model's context, the
    layer is out of range, what its matrix writes cannot be followed, or the edit changes nothing; for a gated edit as
    `lunar.gated.build` does; where the layer is searched for, also as `lunar.select.search.choose` does.
    """
    task = prepare(loaded, forget, retain, reference, settings or Settings(), progress)
    settings, site, work = task.settings, task.site, task.work
    sets = Sets.of(forget, task.retain, task.reference, settings)
    problem = collect(work, [site], sets, settings)[site.layer]
    if settings.strengths:
        problem = problem.raised(settings.least())
    card = settings.as_dict() | {"layer": site.layer, "tail": tail_of(settings)}
    with work.stage("solve", announced=True):
        detector = problem.gate(settings)
        if settings.target not in GATED:
            solution = problem.solve(settings)
            edit = edit_of(loaded, site, solution, card, settings.strength or 0.0, passage=problem.passage)
    if settings.target in GATED:
        edit = build(work, sets, problem, settings).edit(loaded, site, card)
    check_changed(work, edit, forget)
    counts = {
        "forget_prompts": len(forget),
        "rewordings": len(sets.rewordings),
        "retain_prompts": len(sets.retain),
        "neighbour_prompts": len(sets.neighbours),
        "reference_prompts": len(sets.reference),
        "redirected_rows": len(problem.inner),
        "pinned_rows": problem.moments.rows,
    }
    return Unlearned(edit, detector, site, counts, work.seconds, retain is None, task.choice)


@dataclass(frozen=True)
class Task:
    """A request that was checked, with its layer and strength found: what is left is to capture and to solve."""

    work: Work
    site: Site
    settings: Settings
    retain: Sequence[Record]
    reference: Sequence[Record]
    choice: Choice | None


def prepare(
    loaded: LoadedModel,
    forget: Sequence[Record],
    retain: Sequence[Record] | None,
    reference: Sequence[Record] | str,
    settings: Settings,
    progress: Progress | None,
    saved: SavedSums | None = None,
) -> Task:
    """Check the sets, fill in the built-in ones, and settle the layer and the strength; as `unlearn` otherwise."""
    _check_records("forget", forget)
    retained = default_retain_records(forget) if retain is None else list(retain)
    referred = reference_records(reference) if isinstance(reference, str) else list(reference)
    _check_records("retain", retained)
    _check_records("reference", referred)
    check_disjoint(forget, retained)

    work = Work(loaded, progress, saved=saved)
    covered, choice = retain is not None, None
    settings = replace(
        settings, neighbours=settings.neighbours_beside(covered), rewordings=settings.rewordings_of(len(forget))
    )
    if isinstance(settings.layer, str):
        choice = processes.of_first(choose(loaded, forget, retained, referred, settings, work=work, covered=covered))
        settings = replace(settings, layer=choice.layer, strength=choice.strength, strengths=choice.strengths)
    elif settings.strength is None:
        settings = replace(settings, strength=1.0)
    if settings.strengths and len(settings.strengths) != len(forget):
        raise LunarError(
            f"One strength per forget prompt was expected, but {len(settings.strengths)} for {len(forget)} came: take "
            "the forget data that they were found for, or leave them out."
        )
    site = site_at(loaded.model, int(settings.layer))
    return Task(work, site, settings, retained, referred, choice)


def check_changed(work: Work, edit: Edit, forget: Sequence[Record]) -> None:
    """Raise LunarError where an edit changes nothing of what the model makes of the forget prompts.

    A change may be lost in rounding to the weight's precision, or written where nothing reads it.
    """
    loaded = work.loaded
    shown = work.encode("forget", forget[:CHECKED], with_answer=False)
    # One nearly always says that something changed. Its own batch: other company changes the rounding.
    parts = [part for part in (shown[:1], shown[1:]) if part]
    first = prompt_logits(loaded.model, parts[0])
    with edit.applied(loaded.model):
        after = [prompt_logits(loaded.model, part) for part in parts]
    if not all(bool(torch.isfinite(part).all()) for part in after):
        raise LunarError(
            "The edit was expected to leave a model that computes finite numbers, but it does not: take a smaller "
            "strength, a larger ridge or another layer."
        )
    before = chain([first], (prompt_logits(loaded.model, part) for part in parts[1:]))
    if all(torch.equal(*pair) for pair in zip(before, after, strict=True)):
        raise LunarError(
            "The edit was expected to change what the model says to the forget prompts, but it changes nothing: it is "
            "zero, or lost in the precision of the weights, so take a larger strength or load the model in float32."
        )


def _check_records(name: str, records: Sequence[Record]) -> None:
    if not records:
        raise LunarError(f"The {name} set must hold at least one prompt, but it is empty: add one.")
    if not all(isinstance(record, Record) for record in records):
        raise LunarError(f"The {name} set must hold records, but something else came: use Record.of(prompt).")
