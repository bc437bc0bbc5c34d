"""Several methods on one request, measured alike: ours, the baselines and the controls.

Every method gets the same `Task` and gives back a changed copy of the model; every copy is asked the same questions. A
finished cell is a file, and is not run again. Knows methods and metrics; knows nothing of the command line or of where
tables go.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from lunar.baselines import BASELINES, Baseline, Outcome, Task
from lunar.baselines.task import unchanged
from lunar.edit import fingerprint
from lunar.errors import LunarError, unknown
from lunar.evaluation import answer_records
from lunar.measurement import FORGET, against_retain_only, observe_all, sample, scores
from lunar.method import Progress, unlearn
from lunar.metrics import Observed, deviation_score, metric, score
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
        size = found.site.width * found.site.inner_width
        used = dict(found.edit.settings) | {"stored_numbers": found.edit.stored_numbers}
        return Outcome(changed, unchanged, size, time.perf_counter() - started, used)

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


@dataclass(frozen=True)
class Request:
    """What all methods are asked to do, and what they are asked about afterwards.

    Attributes:
        forget, retain, reference: what a method is given; see `Task`.
        splits: what is measured: "forget", "retain" and any others, with answers where they are known.
        seed: for whatever a method draws.
    """

    forget: Sequence[Record]
    retain: Sequence[Record]
    reference: Sequence[Record]
    splits: Mapping[str, Sequence[Record]]
    seed: int = 0

    def task(self, loaded: LoadedModel, progress: Progress | None) -> Task:
        """The part that a method sees."""
        return Task(loaded, self.forget, self.retain, self.reference, self.seed, progress)


def run_cell(
    loaded: LoadedModel,
    request: Request,
    name: str,
    settings: Any,
    reference_answers: Sequence[str],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run one method, measure what it made, and say so in the terms of JSON.

    `reference_answers` are what the original model says to the reference prompts. A method that fails on this request
    (its loss is not finite, it lacks answers) gives a cell with the reason in "failed" and no scores: a comparison does
    not end because one method does not work.
    """
    with _peak_memory(loaded) as memory:
        try:
            outcome = method(name).run(request.task(loaded, progress), settings)
        except LunarError as error:
            return {"method": name, "failed": str(error)}
        peak = memory()
    observed = observe_all(loaded, outcome, request.splits, reference_answers, request.seed, progress)
    return {
        "method": name,
        "settings": _plain(outcome.settings),
        "seconds": outcome.seconds,
        "peak_memory_bytes": peak,
        "changed_parameters": outcome.changed_parameters,
        **scores(observed, request.seed),
    }


def compare_methods(
    loaded: LoadedModel,
    request: Request,
    names: Sequence[str],
    folder: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """The cells of the methods in order, the untouched model first; each is written to `folder`, or read from there.

    Args:
        settings: by method, where they are not the usual ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [UNTOUCHED, *(name for name in names if name != UNTOUCHED)]
    common = _key_of_all(loaded, request)
    reference_answers: list[str] | None = None
    for number, name in enumerate(wanted):
        chosen = (settings or {}).get(name)
        path = folder / f"{name}.json"
        key = _cell_key(common, name, chosen)
        cell = _finished(path, key)
        if cell is None:
            if reference_answers is None:
                reference_answers = answer_records(
                    loaded, request.reference, name="reference answers", progress=progress
                )
            if progress is not None:
                progress("methods", number, len(wanted))
            cell = {"key": key, **run_cell(loaded, request, name, chosen, reference_answers, progress)}
            _write(path, cell)
        yield cell
    if progress is not None:
        progress("methods", len(wanted), len(wanted))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.rename(path)


def with_forget_quality(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells of one request; where a model that never knew the forget set is among them, compared with that."""
    control = next((cell for cell in cells if cell["method"] == "retain-only" and "failed" not in cell), None)
    if control is None:
        return list(cells)
    return [cell if "failed" in cell else against_retain_only(cell, control) for cell in cells]


def _key_of_all(loaded: LoadedModel, request: Request) -> str:
    """What decides all cells of a comparison: the model's weights and the request."""
    sets = [request.forget, request.retain, request.reference, *request.splits.values()]
    content = [[asdict(record) for record in records] for records in sets]
    weights = [fingerprint(parameter.detach()) for parameter in loaded.model.parameters()]
    return _hash([weights, content, list(request.splits), request.seed])


def _cell_key(common: str, name: str, settings: Any) -> str:
    """What decides one cell: that, the method and its settings."""
    return _hash([common, name, _plain(method(name).settings if settings is None else settings)])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


VALIDATION = 20
"""Records forgotten at most where settings are tried out on a user's own retain set."""


def validation_request(request: Request) -> Request | None:
    """A request to forget a part of what is to be retained, for choosing settings without a look at the real one.

    The part is the retained group nearest in size to the forget set, or a random sample where there are fewer than
    three groups; the rest is retained. None where the retain set has too few known answers to be divided.
    """
    known = [record for record in request.retain if record.answer]
    size = min(len(request.forget), VALIDATION, len(known) // 4)
    if size < 2:
        return None
    rng = random.Random(request.seed)
    groups: dict[str, list[Record]] = {}
    for record in known:
        if record.group is not None:
            groups.setdefault(record.group, []).append(record)
    if len(groups) < 3:
        part = rng.sample(known, size)
    else:
        names = rng.sample(sorted(groups), len(groups))
        part = groups[min(names, key=lambda name: abs(len(groups[name]) - size))]
    left_out = {record.messages for record in part}
    rest = [record for record in known if record.messages not in left_out]
    part = part[:VALIDATION]
    return replace(request, forget=part, retain=rest, splits={FORGET: part, "retain": rest})


def search_all(
    loaded: LoadedModel, validation: Request, names: Sequence[str], folder: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """The best candidate by name of every method that has any to try; each search is kept as a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    common = _key_of_all(loaded, validation)
    chosen = {}
    wanted = [name for name in names if len(method(name).search) > 1]
    for number, name in enumerate(wanted):
        if progress is not None:
            progress("settings", number, len(wanted))
        candidates = method(name).search
        path, key = folder / f"{name}.json", _hash([common, name, _plain(candidates)])
        found = _finished(path, key)
        if found is None:
            settings, deviations = search(loaded, validation, name, progress)
            place = candidates.index(settings) if settings in candidates else None
            found = {"key": key, "chosen": place, "deviation_scores": deviations}
            _write(path, found)
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
    asked = {split: sample(split, validation.splits[split], validation.seed) for split in (FORGET, "retain")}
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


def _finished(path: Path, key: str) -> dict[str, Any] | None:
    """The cell in a file, if it is the one that is wanted."""
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cell if isinstance(cell, dict) and cell.get("key") == key else None


def _plain(value: Any) -> Any:
    """The same content for JSON: data classes as their fields, a model by its name."""
    if isinstance(value, LoadedModel):
        return value.source
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


@contextmanager
def _peak_memory(loaded: LoadedModel) -> Iterator[Callable[[], int]]:
    """A function that says how many bytes were in use at most, above those at the start.

    On CUDA what torch allocated; on the CPU the memory of the process, looked at every hundredth of a second.
    """
    if loaded.model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield lambda: torch.cuda.max_memory_allocated() - before
        return
    process = psutil.Process()
    before = highest = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.01):
            highest = max(highest, process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: highest - before
    finally:
        done.set()
        thread.join()
