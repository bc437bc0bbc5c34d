"""Choose every method's settings among its candidates, by the same search on a request that is not reported."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lunar.comparison import kept
from lunar.comparison.measurement import FORGET, scored
from lunar.comparison.methods import method
from lunar.comparison.request import Request
from lunar.errors import LunarError
from lunar.evaluation import answer_records
from lunar.metrics import Observed, deviation_score, metric, score
from lunar.models import LoadedModel
from lunar.neighbours import prompt_names
from lunar.progress import Progress
from lunar.records import Record

VALIDATION, VALIDATION_RETAINED = 8, 150
"""Records forgotten (a batch of training) and retained at most where settings are tried out on a user's own data."""


def validation_request(request: Request) -> Request | None:
    """A request to forget a part of what is to be retained, for choosing settings without a look at the real one.

    The part, of 8 records at most, is the retained group nearest in size to the forget set. Where there are fewer than
    three groups, records that name the same are one; where fewer than three names stand in two records, it is a random
    sample. The rest, of 150 at most, is retained. None where the retain set has too few known answers to be divided.
    """
    known = [record for record in request.retain if record.answer]
    size = min(len(request.forget), VALIDATION, len(known) // 4)
    if size < 2:
        return None
    rng = random.Random(request.seed)
    groups = _groups(known)
    if groups:
        names = rng.sample(sorted(groups), len(groups))
        part = groups[min(names, key=lambda name: abs(len(groups[name]) - size))]
    else:
        part = rng.sample(known, size)
    left_out = {record.messages for record in part}
    rest = [record for record in known if record.messages not in left_out]
    part, rest = part[:VALIDATION], rng.sample(rest, min(len(rest), VALIDATION_RETAINED))
    return replace(request, forget=part, retain=rest, splits={FORGET: part, "retain": rest})


def _groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records by group or, where there are fewer than three, by the names in them; none where those are few too.

    Questions that say the same in other words are forgotten together: some of them forgotten and others retained is
    a request that nothing can do, and says nothing about settings.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.group is not None:
            groups.setdefault(record.group, []).append(record)
    if len(groups) >= 3:
        return groups
    named: dict[str, list[Record]] = {}
    for record in records:
        for name in dict.fromkeys(prompt_names(record.prompt)):
            named.setdefault(name, []).append(record)
    several = {name: found for name, found in named.items() if 1 < len(found) <= len(records) / 2}
    return several if len(several) >= 3 else {}


def search_all(
    loaded: LoadedModel, validation: Request, names: Sequence[str], folder: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """The best candidate by name of every method that has any to try; each search is kept as a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    common = kept.key_of_request(loaded, validation)
    chosen = {}
    wanted = [name for name in names if len(method(name).search) > 1]
    for number, name in enumerate(wanted):
        if progress is not None:
            progress("settings", number, len(wanted))
        candidates = method(name).search
        path, key = folder / f"{name}.json", kept.key_of([common, name, kept.plain(candidates)])
        found = kept.read(path, key)
        if found is None:
            settings, deviations = search(loaded, validation, name, progress)
            place = candidates.index(settings) if settings in candidates else None
            found = {"key": key, "chosen": place, "deviation_scores": deviations}
            kept.write(path, found)
        if found["chosen"] is not None:
            chosen[name] = candidates[found["chosen"]]
    if progress is not None:
        progress("settings", len(wanted), len(wanted))
    return chosen


def search(
    loaded: LoadedModel, validation: Request, name: str, progress: Progress | None = None
) -> tuple[Any, list[float | None]]:
    """The candidate of a method's declared search space with the lowest Deviation Score on a validation request.

    Only "forget" and a sample of "retain" among its splits are asked. Returns its settings and the score of every
    candidate, None where the method failed. Where all failed the settings are those of its paper.
    """
    one = method(name)
    asked = {split: scored(split, validation.splits[split], validation.seed) for split in (FORGET, "retain")}
    found: list[float | None] = []
    for candidate in one.search:
        try:
            outcome = one.run(validation.task(loaded, progress), candidate)
        except LunarError:
            found.append(None)
            continue
        parts = []
        for split, records in asked.items():
            rewritten = [outcome.rewrite(record) for record in records]
            answers = answer_records(outcome.loaded, rewritten, name=f"{split}: answers", progress=progress)
            parts.append(score(metric("rouge1"), Observed(records=records, answers=answers)).value)
        found.append(deviation_score(*parts))
    known = [value for value in found if value is not None]
    return (one.search[found.index(min(known))] if known else one.settings), found
