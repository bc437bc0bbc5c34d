"""What `lunar compare` does: several methods on one request, measured alike; the cheapest checks first.

As `lunar.workflow`, it refuses what it can before torch is imported, and knows neither the command line nor the
terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lunar import preflight
from lunar.errors import LunarError
from lunar.progress import Progress
from lunar.recipe import Recipe
from lunar.records import Record, check_disjoint, read_records
from lunar.report import COMPARISON_FILE, check_output, finite, to_json, versions
from lunar.reporting import write_comparison
from lunar.settings import HOLDOUT, RETAIN_ONLY, method_names
from lunar.workflow import Data, load, read_data, sources_of

CELLS, SEARCH = "cells", "search"
ASKED = 200
"""Retain questions at most: a share is then known to 0.07 at worst, in an interval of 95%."""


def compare_files(
    model: str,
    forget: str,
    retain: str | None,
    output: Path,
    *,
    reference: str = Recipe.reference,
    forget_groups: Sequence[str] = (),
    methods: str = "all",
    search: bool = True,
    retain_only: str | None = None,
    holdout: str | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Run several methods on one request and write their scores; a run that was cut off goes on where it was.

    With `search` the settings of every baseline are the best of its few candidates at forgetting a part of the retain
    set, otherwise those of its paper; ours finds layer and strength itself, from the same data as it edits by.
    `holdout` names records like the forgotten ones that the model was never trained on, for membership inference.
    `output` gets a file per method under `cells` and all of them together in `comparison.json`, whose content is
    returned, and in the page. Where no answer is known, the model's own stands in.
    """
    names = method_names(methods)
    if retain_only is not None:
        names = [*names, RETAIN_ONLY]
    recipe = Recipe(model, forget, retain, reference, tuple(forget_groups))
    if not ((output / CELLS).is_dir() or (output / SEARCH).is_dir()):
        check_output(output)
    data = read_data(recipe)
    splits = _splits(data, holdout)
    preflight.check_model(model, None, {**splits, "reference": data.reference}, device=device)
    from lunar.baselines.retain_only import RetainOnlySettings
    from lunar.comparison import OURS, Request, compare_methods, search_all, validation_request, with_forget_quality
    from lunar.evaluation import own_answers

    loaded = load(model, device, progress)
    own = {name: sum(not record.answer for record in records) for name, records in splits.items()}
    splits = {name: own_answers(loaded, records, name=name, progress=progress) for name, records in splits.items()}
    request = Request(splits["forget"], splits["retain"], data.reference, splits, seed, ASKED)
    validation = validation_request(request) if search else None
    settings: dict[str, Any] = {}
    if validation is not None:
        settings = search_all(
            loaded, validation, [name for name in names if name not in OURS], output / SEARCH, progress
        )
    if retain_only is not None:
        settings[RETAIN_ONLY] = RetainOnlySettings(retain_only)
    cells = with_forget_quality(
        list(compare_methods(loaded, request, names, output / CELLS, settings=settings, progress=progress))
    )
    result = {
        "cells": cells,
        "settings_searched": validation is not None,
        "own_answers": own,
        "sources": sources_of(recipe),
        "seed": seed,
        "versions": versions(),
    }
    (output / COMPARISON_FILE).write_text(to_json(finite(result)), encoding="utf-8")
    write_comparison(output)
    return result


def _splits(data: Data, holdout: str | None) -> dict[str, Sequence[Record]]:
    """What a comparison asks about."""
    if data.retain is None:
        raise LunarError("A comparison was expected to get retain records, but none came: give --retain or groups.")
    splits = {"forget": data.forget, "retain": data.retain}
    if holdout is not None:
        splits[HOLDOUT] = read_records(holdout, HOLDOUT)
        check_disjoint(data.forget, splits[HOLDOUT])
        if not all(record.answer for record in splits[HOLDOUT]):
            raise LunarError("The holdout records were expected to have answers, but some have none: add them.")
    return splits
