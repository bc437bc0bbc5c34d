"""The page that people look at, made from the files of a ledger or of a comparison; and the gate values that it shows.

Knows where the files are and what they are called; what the page says is `lunar.report`'s. Writing a page again needs
neither torch nor the model.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lunar.errors import LunarError
from lunar.progress import Progress
from lunar.recipe import RECIPE_FILE
from lunar.records import Record, sample
from lunar.report import ATTACKS_FILE, COMPARISON_FILE, EXAMPLES_FILE, PAGE_FILE, REPORT_FILE, to_json
from lunar.report.contents import Contents
from lunar.requests.record import RECORD_FILE, read_record
from lunar.requests.store import Store, is_ledger, settle, text_writer, unwritable, write_file

if TYPE_CHECKING:
    from lunar.evaluation import Comparison
    from lunar.method import Unlearned
    from lunar.models import LoadedModel
    from lunar.requests.ledger import Texts
    from lunar.requests.state import Request

UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)
"""What drawing a page raises where its contents are not of the form that it knows."""
READ = 200
"""Prompts per set whose gate values are read at most: enough for a distribution, and few passes."""


def recognised(
    loaded: LoadedModel, found: Unlearned, sets: Mapping[str, Sequence[Record]], progress: Progress | None = None
) -> dict[str, list[float]]:
    """Gate values at the last tokens of the prompts of some sets, and of the forget prompts with each left out.

    The value is g·h of `lunar.solve.Gate`; one pass up to the edited layer reads all of them.
    """
    from lunar.collect import Work
    from lunar.report.sections.recognised import LEFT_OUT

    chosen = {name: sample(list(records), READ, name) for name, records in sets.items()}
    everything = [record for records in chosen.values() for record in records]
    values = [0.0] * len(everything)
    if everything:
        captured = Work(loaded, progress).capture(
            "gate values", [found.site], everything, with_answer=False, last_only=True
        )
        for batch in captured:
            rows = batch[found.site.layer]
            read = rows.inner.to(found.gate.vector) @ found.gate.vector
            for place, value in zip(rows.sequence.tolist(), read.tolist(), strict=True):
                values[place] = value
    each = iter(values)
    result = {name: [next(each) for _ in records] for name, records in chosen.items()}
    return {LEFT_OUT: found.gate.leave_one_out.tolist(), **result}


def page_files(
    report: Mapping[str, Any],
    requests: Sequence[Request],
    recipe: str | None,
    comparisons: Mapping[str, Comparison],
    *,
    show_forget: bool = False,
) -> Texts:
    """examples.json and report.html for a change of a ledger; see `lunar.requests.ledger.Ledger.commit`."""
    from lunar.report.examples import pick

    examples = pick(comparisons, show_forget=show_forget)
    contents = Contents(
        report=report,
        recipe=_toml(recipe),
        requests=[asdict(request) for request in requests],
        examples=examples,
    )
    return {
        EXAMPLES_FILE: to_json({"examples": examples}),
        PAGE_FILE: lambda record: _page(contents, record, show_forget),
    }


def page_after(ledger: Path, requests: Sequence[Request], **changed: Any) -> Texts:
    """report.html for a change of a ledger that asked no questions; `changed` are parts of `Contents` that are new.

    Of a recipe that is its text.
    """
    if "recipe" in changed:
        changed["recipe"] = _toml(changed["recipe"])
    contents = _of_ledger(Store.open(ledger))
    parts = {name: getattr(contents, name) for name in ("report", "recipe", "attacks", "examples")} | changed
    made = Contents(**parts, requests=[asdict(request) for request in requests])
    return {PAGE_FILE: lambda record: _page(made, record, False)}


def write_page(folder: Path, *, show_forget: bool = False) -> Path:
    """Write the page of a ledger or of a folder of `lunar compare` again, from its files; the page's path.

    Raises LunarError for any other folder, and where text of the forget set is asked for and was not kept.
    """
    if is_ledger(folder):
        settle(folder)
        with Store.locked(folder) as store:
            text = _checked_page(_of_ledger(store), folder, show_forget)
            store.commit(store.content, {PAGE_FILE: text_writer(text)})
    elif (folder / COMPARISON_FILE).is_file():
        write_comparison(folder, show_forget=show_forget)
    else:
        raise LunarError(
            f"{folder} was expected to be a folder that `lunar unlearn` or `lunar compare` wrote, but it holds neither "
            f"a ledger nor {COMPARISON_FILE}: give one of these."
        )
    return folder / PAGE_FILE


def write_comparison(folder: Path, *, show_forget: bool = False) -> None:
    """Write the page beside a comparison.json."""
    try:
        comparison = json.loads((folder / COMPARISON_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LunarError(
            f"{folder / COMPARISON_FILE} cannot be read ({type(error).__name__}): run lunar compare again."
        ) from error
    text = _checked_page(Contents(comparison=comparison), folder, show_forget)
    try:
        write_file(folder / PAGE_FILE, text_writer(text))
    except OSError as error:
        raise unwritable(folder, error) from error


def _of_ledger(store: Store) -> Contents:
    """What the files of a ledger say; those that are not there say nothing."""

    def text(name: str) -> str | None:
        return store.checked(name).read_text(encoding="utf-8") if name in store.files else None

    return Contents(
        report=json.loads(text(REPORT_FILE) or "{}"),
        attacks=json.loads(text(ATTACKS_FILE) or "{}"),
        recipe=_toml(text(RECIPE_FILE)),
        requests=list(store.content["requests"]),
        record=read_record(text(RECORD_FILE) or ""),
        examples=json.loads(text(EXAMPLES_FILE) or '{"examples": []}')["examples"],
    )


def _checked_page(contents: Contents, folder: Path, show_forget: bool) -> str:
    """The page; one sentence where there is no text to show, or the files are not as this version writes them."""
    if show_forget and not any(row["forget"] and "question" in row for row in contents.examples):
        raise LunarError(
            f"Examples of the forget set were asked for, but {folder} keeps none: only `lunar unlearn --show-forget` "
            "keeps them, so leave --show-forget out."
        )
    from lunar.report.html import page

    try:
        return page(contents, show_forget=show_forget)
    except UNREADABLE as error:
        raise LunarError(
            f"The results in {folder} are not as this version of lunar writes them ({type(error).__name__}): make them "
            "again."
        ) from error


def _page(contents: Contents, record: str, show_forget: bool) -> str:
    """The page of a change that is being written; results are not lost for a page that cannot be drawn."""
    from lunar.report.html import page

    try:
        return page(replace(contents, record=read_record(record)), show_forget=show_forget)
    except UNREADABLE as error:
        return f"<!doctype html><title>lunar</title><p>This page could not be drawn ({type(error).__name__}).</p>"


def _toml(text: str | None) -> dict[str, Any]:
    return {} if text is None else tomllib.loads(text)
