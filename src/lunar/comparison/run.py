"""Several methods on one request, measured alike: each changes a copy of the model, all are asked the same.

Knows nothing of the command line or of where tables go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from lunar.comparison import kept
from lunar.comparison.measurement import against_retain_only, observe_all, scores
from lunar.comparison.methods import UNTOUCHED, method
from lunar.comparison.request import Request
from lunar.errors import LunarError
from lunar.evaluation import answer_records
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.settings import RETAIN_ONLY


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
    observed = observe_all(loaded, outcome, request, reference_answers, progress)
    return {
        "method": name,
        "settings": kept.plain(outcome.settings),
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
    common = kept.key_of_request(loaded, request)
    reference_answers: list[str] | None = None
    for number, name in enumerate(wanted):
        chosen = (settings or {}).get(name)
        path = folder / f"{name}.json"
        key = kept.key_of_cell(common, name, chosen)
        cell = kept.read(path, key)
        if cell is None:
            if reference_answers is None:
                reference_answers = answer_records(
                    loaded, request.reference, name="reference answers", progress=progress
                )
            if progress is not None:
                progress("methods", number, len(wanted))
            cell = {"key": key, **run_cell(loaded, request, name, chosen, reference_answers, progress)}
            kept.write(path, cell)
        yield cell
    if progress is not None:
        progress("methods", len(wanted), len(wanted))


def with_forget_quality(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells of one request; where a model that never knew the forget set is among them, compared with that."""
    control = next((cell for cell in cells if cell["method"] == RETAIN_ONLY and "failed" not in cell), None)
    if control is None:
        return list(cells)
    return [cell if "failed" in cell else against_retain_only(cell, control) for cell in cells]


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
