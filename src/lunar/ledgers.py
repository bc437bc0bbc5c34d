"""What the commands for requests over time do: add, list, take back, verify; the cheapest checks first.

As `lunar.workflow`, it refuses what it can before torch is imported, and knows neither the command line nor the
terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lunar import preflight
from lunar.checkpoints import check_folder, find_checkpoint
from lunar.errors import LunarError
from lunar.progress import Progress
from lunar.recipe import RECIPE_FILE, found_model, retained_source
from lunar.records import Record, all_groups, read_records, split_by_group
from lunar.report import REPORT_FILE, build_report, check_exports, check_output, finite, short_name, to_json
from lunar.reporting import page_after, page_files, recognised
from lunar.requests.naming import check_name
from lunar.requests.record import KEY_FILE, RECORD_FILE, read_key, read_record, unknown_request
from lunar.requests.store import Store
from lunar.workflow import load, timed

if TYPE_CHECKING:
    from lunar.models import LoadedModel
    from lunar.requests.ledger import Ledger
    from lunar.requests.state import Change


def add_files(
    ledger: Path,
    forget: str,
    *,
    groups: Sequence[str] = (),
    name: str | None = None,
    retain: str | None = None,
    forget_moments: bool = False,
    show_forget: bool = False,
    device: str | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Add a request to a ledger; the content of its new report.json, and `stale_exports`.

    `retain` names records whose names are put into neighbours of the request; the model does not see them. By default
    it is the file that the ledger was started with, where that is still there. With `show_forget`, the page and
    examples.json hold answers of the forget set.
    """
    store = Store.open(ledger)
    records = read_records(forget, "forget")
    pool = read_records(retain, "retain") if retain is not None else retained_records(ledger)
    if groups:
        records, _ = split_by_group(records, groups, "forget")
    if name is not None:
        check_name(name, [one["name"] for one in store.content["requests"]], records)
    shared = store.content["shared"]
    model = found_model(str(shared["source"]), ledger / RECIPE_FILE)
    preflight.check_model(model, int(shared["site"]["layer"]), {"forget": records}, device=device)
    from lunar.requests.ledger import Ledger

    seconds: dict[str, float] = {}
    opened = Ledger(ledger)
    with opened.locked():
        with timed("load", seconds):
            loaded = load(model, device, progress)
        return add_records(
            opened,
            loaded,
            records,
            warnings=all_groups(records, groups),
            sources={"model": short_name(model), "forget": short_name(forget)},
            pool=pool,
            name=name,
            forget_moments=forget_moments,
            show_forget=show_forget,
            seconds=seconds,
            progress=progress,
        )


def add_records(
    opened: Ledger,
    loaded: LoadedModel,
    records: Sequence[Record],
    *,
    sources: dict[str, str],
    pool: Sequence[Record] | None,
    name: str | None = None,
    forget_moments: bool = False,
    show_forget: bool = False,
    warnings: Sequence[str] = (),
    seconds: dict[str, float] | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """`add_files` for a model and records at hand, within a block of `opened.locked()`.

    `sources` are the names of the model and of the forget set for the report, `pool` are records whose names are put
    into neighbours (None: what the ledger has), `warnings` go before its own, `seconds` is where times are added.
    """
    from lunar.evaluation import compare_edits, scores_with_intervals, summary
    from lunar.report.sections.recognised import NEIGHBOURS
    from lunar.requests import changes

    seconds = {} if seconds is None else seconds
    pool = opened.names(records) if pool is None else pool
    state = opened.state()
    change = changes.add(
        state, loaded, records, retain=pool, name=name, forget_moments=forget_moments, progress=progress
    )
    with timed("answers", seconds):
        comparisons = compare_edits(loaded, opened.edit(), change.edit, {"forget": records}, progress=progress)
        intervals = finite(scores_with_intervals(comparisons))
        read = recognised(loaded, change.unlearned(), {"forget": records, NEIGHBOURS: change.beside}, progress)
    report = build_report(
        change.unlearned(),
        summary(comparisons),
        state.shared.settings,
        seconds=seconds,
        sources=sources,
        intervals=intervals,
        recognised=read,
    )
    report |= {"retain_source": "the ledger's sums", "request": asdict(change.request)}
    report["warnings"] = [*warnings, *change.warnings]
    report["earlier"] = _earlier(change, opened.entries())
    report["neighbour_names"] = change.entry["neighbours"]["names"]
    report["requests"] = [asdict(one) for one in change.requests]
    shown = page_files(
        report, change.requests, opened.recipe_after(change.requests), comparisons, show_forget=show_forget
    )
    opened.commit(change, {REPORT_FILE: to_json(report), **shown}, {"scores": intervals})
    return {**report, "stale_exports": opened.stale_exports()}


def _earlier(change: Change, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How far a change moves the prompts of the requests that held already, and how far they were moved before.

    It is what their kept activations give (`lunar.requests.parts.reach`): their questions are not kept, to be asked
    again. None for a request of which nothing was kept.
    """
    before: Mapping[str, Any] = next((entry["reached"] for entry in reversed(entries) if "reached" in entry), {})
    now = change.entry["reached"]
    return [
        {"name": one.name, "before": before.get(one.id), "after": now.get(one.id)}
        for one in change.requests
        if one != change.request
    ]


def list_requests(ledger: Path) -> list[dict[str, Any]]:
    """The requests that hold, oldest first, as the manifest has them."""
    return list(Store.open(ledger).content["requests"])


def undo_request(ledger: Path, name: str) -> dict[str, Any]:
    """Take a request back; it, what is left, `stale_exports`, and whether the recipe was `recipe_shortened`.

    Raises LunarError for one that does not hold, or does not any more.
    """
    known = [one["name"] for one in list_requests(ledger)]
    if name not in known:
        store = Store.open(ledger)
        entries = read_record(store.checked(RECORD_FILE).read_text(encoding="utf-8"))
        raise unknown_request(name, known, entries, read_key(store.checked(KEY_FILE)))
    from lunar.requests import changes
    from lunar.requests.ledger import Ledger

    opened = Ledger(ledger)
    with opened.locked():
        change = changes.undo(opened.state(), opened.request(name).name)
        report = _undone(change.request.name, change.requests)
        recipe = opened.recipe_after(change.requests)
        shortened = recipe != opened.text(RECIPE_FILE)
        shown = page_after(ledger, change.requests, report=report, recipe=recipe, attacks={}, examples=())
        opened.commit(change, {REPORT_FILE: to_json(report), **shown})
    return {**report, "stale_exports": opened.stale_exports(), "recipe_shortened": shortened}


def verify_ledger(ledger: Path, merged: Path | None = None) -> dict[str, Any]:
    """What `lunar.requests.checks.verify` finds; the model's files are looked at where they are at hand.

    With `merged`, also whether that folder holds the model's checkpoint with this edit and no other difference:
    "merged" is "as expected" then.
    """
    model = model_of(ledger)
    if merged is not None:
        check_folder(merged, str(merged), False)
    from lunar.export.ledger import exported_before
    from lunar.export.merged import merged_faults
    from lunar.requests.checks import verify
    from lunar.requests.ledger import Ledger

    result = verify(ledger, model)
    if merged is not None and not result["faults"]:
        opened = Ledger(ledger)
        result["faults"] = merged_faults(find_checkpoint(model), merged, opened.edit())
        if not result["faults"]:
            result["merged"] = "as expected"
        elif (time := exported_before(opened, merged)) is not None:
            do = "export it again" if opened.requests() else "use the original model instead, as no request holds"
            result["faults"] = [
                f"The merged checkpoint is as it was exported on {time[:10]} (UTC), but the ledger has changed "
                f"since: {do}."
            ]
    return result


def export_ledger(
    ledger: Path, *, adapter: Path | None, merged: Path | None, device: str | None = None, progress: Progress
) -> dict[str, Any]:
    """Write the edit as a PEFT adapter, as a checkpoint, or both; loaded again and shown to do what the edit does."""
    outputs = [folder for folder in (adapter, merged) if folder is not None]
    if not outputs:
        raise LunarError("Something to export was expected, but neither came: give --adapter DIR or --merged DIR.")
    check_exports(outputs, ledger)
    for folder in outputs:
        check_output(folder)
    if adapter is not None:
        preflight.check_peft()
    if not list_requests(ledger):
        raise LunarError(
            f"The ledger {ledger} holds no request, so there is nothing to export: the model is as it was."
        )
    model = model_of(ledger)
    preflight.check_model(model, None, {}, device=device)
    from lunar.export.ledger import export_adapter, export_merged
    from lunar.requests.ledger import Ledger

    opened, result = Ledger(ledger), dict[str, Any]()
    with opened.locked():
        loaded = load(model, device, progress)
        if adapter is not None:
            result["adapter"] = export_adapter(opened, loaded, adapter)
        if merged is not None:
            result["merged"] = export_merged(opened, loaded, find_checkpoint(model), merged)
    return finite(result)


def model_of(ledger: Path) -> str:
    """The model that a ledger was started with, as it can be opened now."""
    return found_model(str(Store.open(ledger).content["shared"]["source"]), ledger / RECIPE_FILE)


def _undone(name: str, requests: Sequence[Any]) -> dict[str, Any]:
    return {"undone": name, "requests": [asdict(one) for one in requests]}


def retained_records(ledger: Path) -> list[Record] | None:
    """The records of the file that the ledger was started with, for their names; None where it is not there as it was.

    Where groups of one file were forgotten it is this file. Whatever requests forget of it is left out by
    `lunar.requests.changes.add`.
    """
    try:
        source = retained_source(ledger)
        if source is None or not Path(source).expanduser().is_file():
            return None
        return read_records(source, "retain")
    except LunarError:
        return None
