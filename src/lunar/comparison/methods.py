"""Everything that can be compared under one name: ours with each target, the baselines, the untouched model."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

from lunar.baselines import BASELINES, Baseline, Outcome, Task
from lunar.baselines.task import count_changed, unchanged
from lunar.errors import unknown
from lunar.method import unlearn
from lunar.models import LoadedModel
from lunar.records import Record
from lunar.settings import TARGETS, Settings

UNTOUCHED = "original"
"""The model as it is: every comparison begins with it."""


def _ours(target: str) -> Baseline:
    """Our own method in the form of the others, with as many candidates as they have."""

    def run(task: Task, settings: Settings) -> Outcome:
        started = time.perf_counter()
        wanted = replace(settings, seed=task.seed)
        found = unlearn(
            task.loaded,
            [Record(record.messages) for record in task.forget],
            retain=task.retain or None,
            reference=task.reference,
            settings=wanted,
            progress=task.progress,
        )
        changed = LoadedModel(copy.deepcopy(task.loaded.model), task.loaded.tokenizer, task.loaded.source)
        found.edit.apply(changed.model)
        used = dict(found.edit.settings) | {"stored_numbers": found.edit.stored_numbers}
        seconds = time.perf_counter() - started
        return Outcome(changed, unchanged, count_changed(task.loaded.model, changed.model), seconds, used)

    usual = Settings(target=target)
    return Baseline(
        name=target,
        title=f"LUNAR in closed form, {target}",
        source="this library, docs/method.md",
        settings=usual,
        search=(usual, replace(usual, layer=1), replace(usual, neighbours=0), replace(usual, strength=1.5)),
        function=run,
    )


_ORIGINAL = Baseline(
    name=UNTOUCHED,
    title="The model as it is",
    source="the caller's",
    settings=None,
    search=(None,),
    function=lambda task, settings: Outcome(task.loaded, unchanged, 0, 0.0),
)
OURS: dict[str, Baseline] = {target: _ours(target) for target in TARGETS}
METHODS: dict[str, Baseline] = {**OURS, **BASELINES}


def method(name: str) -> Baseline:
    """Ours, a baseline or the untouched model; raises LunarError with close matches for an unknown name."""
    if name == UNTOUCHED:
        return _ORIGINAL
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
