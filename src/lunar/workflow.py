"""What the commands do: read, check, load, unlearn, measure, write; the cheapest checks first.

Everything that can be refused without torch is refused before torch is imported. Knows neither the command line nor the
terminal; `progress` is called with a stage, how much of it is done and how much there is (0 if unknown).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lunar import preflight
from lunar.errors import LunarError
from lunar.progress import Progress
from lunar.prompts import default_retain_records, reference_records
from lunar.recipe import RECIPE_FILE, Recipe, digest, recipe_text
from lunar.records import Record, all_groups, check_disjoint, read_records, split_by_group
from lunar.report import (
    REPORT_FILE,
    build_report,
    check_output,
    finite,
    new_folder,
    short_name,
    to_json,
    versions,
)
from lunar.reporting import page_files, recognised
from lunar.requests.naming import check_name
from lunar.requests.store import is_ledger, settle
from lunar.settings import Settings

if TYPE_CHECKING:
    from lunar.edit import Edit
    from lunar.evaluation import Comparison
    from lunar.models import LoadedModel

LOADING = "loading the model"


@dataclass(frozen=True)
class Data:
    """The records of a run; `retain` is None where the built-in prompts are to be used."""

    forget: Sequence[Record]
    retain: Sequence[Record] | None
    reference: Sequence[Record]


@dataclass(frozen=True)
class Outcome:
    """What a run of `unlearn` left: the folder, the content of report.json, and all answers before and after."""

    folder: Path
    report: dict[str, Any]
    comparisons: dict[str, Comparison]


def read_data(recipe: Recipe) -> Data:
    """Read and check the record sets that a recipe names."""
    forget = read_records(recipe.forget, "forget")
    retain = read_records(recipe.retain, "retain") if recipe.retain is not None else None
    if recipe.forget_groups:
        forget, others = split_by_group(forget, recipe.forget_groups, "forget")
        retain = retain if retain is not None else others or None
    reference = reference_records(recipe.reference)
    check_disjoint(forget, retain or [])
    return Data(forget, retain, reference)


def unlearn_files(
    recipe: Recipe,
    output: Path,
    *,
    name: str | None = None,
    forget_moments: bool = False,
    show_forget: bool = False,
    device: str | None = None,
    progress: Progress,
) -> Outcome | None:
    """Carry out a recipe and write the output folder, a ledger with one request; see `lunar.requests`.

    With `show_forget`, example answers in examples.json and report.html are those of the forget set too. Of several
    processes (`lunar.processes`) the first writes, and the others return None.
    """
    check_output(output)
    data = read_data(recipe)
    hashes = _hashes(recipe, data)
    if recipe.sha256 is not None and dict(recipe.sha256) != hashes:
        changed = sorted(name for name in hashes if recipe.sha256.get(name) != hashes[name])
        raise LunarError(f"The {' and '.join(changed)} data differ from those of the recipe: restore them.")
    retain = data.retain if data.retain is not None else default_retain_records(data.forget)
    splits = {"forget": data.forget, "retain": retain}
    recipe = replace(recipe, sha256=hashes)
    with _together():
        try:
            return carry_out(
                recipe,
                data,
                splits,
                output,
                name=name,
                forget_moments=forget_moments,
                show_forget=show_forget,
                device=device,
                progress=progress,
            )
        except _Done:
            return None


def _together() -> AbstractContextManager[None]:
    """`lunar.processes.joined`, which needs torch, where there are several; `torchrun` says how many."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return nullcontext()
    from lunar.processes import joined

    return joined()


class _Done(Exception):  # noqa: N818 (not an error: the first of several processes does the rest)
    """This process has done its share."""


def carry_out(
    recipe: Recipe,
    data: Data,
    splits: Mapping[str, Sequence[Record]],
    output: Path,
    *,
    name: str | None = None,
    forget_moments: bool = False,
    show_forget: bool = False,
    device: str | None,
    progress: Progress,
    files: Mapping[str, str] | None = None,
) -> Outcome:
    """Unlearn, measure the splits, and write the output folder with `files` (name to text) beside the usual ones."""
    preflight.check_ledger(recipe.settings, forget_moments)
    if name is not None:
        check_name(name, (), data.forget)
    sets = {"forget": data.forget, "retain": data.retain or [], "reference": data.reference}
    layer = recipe.settings.layer if isinstance(recipe.settings.layer, int) else None
    preflight.check_model(recipe.model, layer, sets, device=device)
    from lunar.edit import fingerprint
    from lunar.evaluation import compare, scores_with_intervals, summary
    from lunar.interrupted import saved_sums
    from lunar.models import site_at
    from lunar.processes import place
    from lunar.report.sections.recognised import NEIGHBOURS
    from lunar.requests import changes
    from lunar.requests.ledger import write_first
    from lunar.weights import parameter_of

    seconds: dict[str, float] = {}
    with timed("load", seconds):
        loaded = load(recipe.model, device, progress)
    if recipe.fingerprint and layer is not None:
        weight = parameter_of(site_at(loaded.model, layer).module(loaded.model))
        if fingerprint(weight) != recipe.fingerprint:
            raise LunarError(f"The model {recipe.model} has other weights than the one that the recipe was made with.")
    saved = saved_sums(output)
    change = changes.start(
        loaded,
        data.forget,
        retain=data.retain,
        reference=data.reference,
        settings=recipe.settings,
        name=name,
        forget_moments=forget_moments,
        progress=progress,
        saved=saved,
    )
    found = change.unlearned()
    if place()[0] > 0:
        raise _Done
    with timed("answers", seconds):
        comparisons = compare(loaded, found.edit, splits, progress=progress)
        scores, intervals = summary(comparisons), scores_with_intervals(comparisons)
        read = recognised(loaded, found, {**splits, NEIGHBOURS: change.beside}, progress)
    resolved = Settings.of(found.edit.settings)
    report = build_report(
        found, scores, resolved, seconds=seconds, sources=sources_of(recipe), intervals=intervals, recognised=read
    )
    report["warnings"] = all_groups(data.forget, recipe.forget_groups)
    done = replace(recipe, settings=resolved, fingerprint=found.edit.factors[0].fingerprint)
    with new_folder(output) as folder:
        text = recipe_text(done, versions())
        shown = page_files(report, change.requests, text, comparisons, show_forget=show_forget)
        write_first(folder, change, {RECIPE_FILE: text, REPORT_FILE: to_json(report), **shown}, {"scores": intervals})
        for file, text in (files or {}).items():
            (folder / file).write_text(text, encoding="utf-8")
    saved.remove()
    return Outcome(output, report, comparisons)


def inspect_files(
    recipe: Recipe, *, most: int, plot: Path | None = None, device: str | None = None, progress: Progress
) -> dict[str, Any]:
    """The profile of all layers, trials at the `most` best of them, and what `unlearn_files` would choose and why.

    Why it would refuse, if it would, stands in "obstacles". `plot` is an .svg or .png file to draw them in. Nothing
    else is written.
    """
    from lunar.report.plot import check_plot, draw

    if plot is not None:
        check_plot(plot)
    data = read_data(recipe)
    retain = data.retain if data.retain is not None else default_retain_records(data.forget)
    preflight.check_model(
        recipe.model, None, {"forget": data.forget, "retain": retain, "reference": data.reference}, device=device
    )
    from lunar.collect import Work
    from lunar.select.search import choose

    seconds: dict[str, float] = {}
    with timed("load", seconds):
        loaded = load(recipe.model, device, progress)
    work, covered = Work(loaded, progress), data.retain is not None
    settings = replace(recipe.settings, neighbours=recipe.settings.neighbours_beside(covered))
    choice = choose(
        loaded, data.forget, retain, data.reference, settings, work=work, most=most, refuse=False, covered=covered
    ).as_dict()
    result: dict[str, Any] = finite(
        {
            "choice": choice,
            "sources": sources_of(recipe),
            "seconds": {name: round(value, 3) for name, value in {**work.seconds, **seconds}.items()},
            "versions": versions(),
        }
    )
    if plot is not None:
        draw(result["choice"], plot)
    return result


def evaluate_files(
    model: str, edit: Path | None, forget: str, retain: str, *, device: str | None = None, progress: Progress
) -> dict[str, Any]:
    """Scores of a model on two sets, before and after an edit if there is one."""
    splits = {"forget": read_records(forget, "forget"), "retain": read_records(retain, "retain")}
    check_disjoint(splits["forget"], splits["retain"])
    if edit is not None:
        check_edit(edit)
    preflight.check_model(model, None, splits, device=device)
    from lunar.evaluation import Comparison, answer_records, compare, summary

    change = load_edit(edit) if edit is not None else None
    loaded = load(model, device, progress)
    if change is not None:
        result = summary(compare(loaded, change, splits, progress=progress))
    else:
        answers = {
            name: answer_records(loaded, records, name=name, progress=progress) for name, records in splits.items()
        }
        plain = {name: Comparison(records, answers[name], answers[name]) for name, records in splits.items()}
        result = _before_only(summary(plain))
    return {**result, "versions": versions()}


def ask(
    model: str, edit: Path | None, question: str, *, device: str | None = None, progress: Progress
) -> tuple[str, str | None]:
    """The greedy answers to one question, without and with an edit (None without one)."""
    if not question.strip():
        raise LunarError("A question was expected, but the text is empty.")
    record = Record.of(question)
    if edit is not None:
        check_edit(edit)
    preflight.check_model(model, None, {"question": [record]}, device=device)
    from lunar.evaluation import answer_records

    change = load_edit(edit) if edit is not None else None
    loaded = load(model, device, progress)
    before = answer_records(loaded, [record], name="question", progress=progress)[0]
    if change is None:
        return before, None
    with change.applied(loaded.model):
        return before, answer_records(loaded, [record], name="question again", progress=progress)[0]


def check_edit(folder: Path) -> None:
    """Raise LunarError where a folder holds no edit; in a ledger, what a killed process left is finished first."""
    settle(folder)
    preflight.check_edit(folder)


def load_edit(folder: Path) -> Edit:
    """The edit in a folder; a ledger's is that which its manifest names."""
    from lunar.edit import Edit
    from lunar.requests.ledger import Ledger

    return Ledger(folder).edit() if is_ledger(folder) else Edit.load(folder)


def sources_of(recipe: Recipe) -> dict[str, str]:
    """What the model and the data are called, of paths only the last part."""
    sources = {"model": recipe.model, "reference": recipe.reference} | dict(recipe.sources())
    return {name: short_name(source) for name, source in sources.items()}


def _hashes(recipe: Recipe, data: Data) -> dict[str, str]:
    records: dict[str, Sequence[Record]] = {
        # What one Hub data set holds is all of its groups, so both parts are hashed where it was split.
        "forget": [*data.forget, *(data.retain or [])] if recipe.retain is None else data.forget,
        "retain": data.retain or [],
        "reference": data.reference,
    }
    return {name: digest(source, records[name]) for name, source in recipe.sources()}


def _before_only(result: Any) -> Any:
    """The same scores without the entries for a state after an edit."""
    if isinstance(result, Mapping):
        return {key: _before_only(value) for key, value in result.items() if key != "after"}
    return result


def load(model: str, device: str | None, progress: Progress) -> LoadedModel:
    """`lunar.models.load_model`, shown as a stage."""
    progress(LOADING, 0, 0)
    from lunar.models import load_model
    from lunar.processes import own_device

    loaded = load_model(model, device=device or own_device())
    progress(LOADING, 1, 1)
    return loaded


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Note how long the block takes."""
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
