"""Requests over time: what the ledger's record tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lunar.report.contents import Contents, Plain
from lunar.report.elements import (
    AMBER,
    BLUE,
    GREEN,
    PURPLE,
    RED,
    Plot,
    Section,
    Table,
    axis,
    holding,
    inert,
    number,
)

ACTIONS = {"start": "first request", "add": "request added", "undo": "request taken back", "attack": "attacks run"}
COLOURS = (BLUE, RED, GREEN, AMBER, PURPLE)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")


def over_time(contents: Contents) -> Section | None:
    """A row per entry of the record, and how far each request is moved after each change."""
    if not contents.record:
        return None
    names = {one["id"]: one["name"] for one in contents.requests}
    kept = all(one["kept"] for one in contents.requests)
    lead = [
        f"{holding(len(contents.requests)).capitalize()} now. All that hold are solved together, so that an earlier "
        "one stays forgotten." + (" Each can be taken back." if contents.requests and kept else ""),
    ]
    changes = [entry for entry in contents.record if entry.get("reached") is not None and entry["action"] != "attack"]
    return Section(
        "over-time",
        "Requests over time",
        lead,
        [_plot(changes, names)] if len(changes) > 1 else [],
        [_table(contents.record, names)],
        notes=["The record names requests that were taken back, and prompts, by keyed hashes only."],
    )


def called(entry_id: str | None, names: Mapping[str, str]) -> str:
    """A request by its name, or by its hash where it is gone."""
    return "" if entry_id is None else names.get(entry_id, entry_id[:8])


def _plot(changes: Sequence[Plain], names: Mapping[str, str]) -> Plot:
    ids = list(dict.fromkeys(one for entry in changes for one in entry["reached"]))
    traces: list[dict[str, Any]] = []
    for place, one in enumerate(ids):
        points = [(entry, entry["reached"][one]) for entry in changes if one in entry["reached"]]
        name, colour = inert(called(one, names)), COLOURS[place % len(COLOURS)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [_moment(entry) for entry, _ in points],
                "y": [reach["median"] for _, reach in points],
                "customdata": [[number(reach["median"]), number(reach["minimum"])] for _, reach in points],
                "line": {"color": colour, "width": 2},
                "marker": {"size": 9, "symbol": SYMBOLS[place % len(SYMBOLS)]},
                "hovertemplate": "%{fullData.name}: median %{customdata[0]}, lowest %{customdata[1]}<extra></extra>",
            }
        )
    layout = {
        "xaxis": axis("", type="category", categoryorder="array", categoryarray=[_moment(entry) for entry in changes]),
        "yaxis": axis("how far its prompts are moved", rangemode="tozero"),
        "hovermode": "closest",
    }
    ends = "; ".join(f"{called(one, names)} {number(changes[-1]['reached'][one]['median'])}" for one in ids
                     if one in changes[-1]["reached"])  # fmt: skip
    return Plot(
        "plot-over-time",
        "How far each request's prompts are moved after each change: 1 is all the way to “I don't know”. A line ends "
        "where the request was taken back.",
        f"Line chart over {len(changes)} changes of how far each request's prompts are moved. At the end: "
        f"{ends or 'no request holds'}.",
        traces,
        layout,
        height=380,
    )


def _moment(entry: Plain) -> str:
    return inert(f"{entry['number']}: {ACTIONS.get(entry['action'], entry['action'])}")


def _table(record: Sequence[Plain], names: Mapping[str, str]) -> Table:
    rows = []
    for entry in record:
        scores = (entry.get("scores") or {}).get("forget", {}).get("rouge1", {})
        moved = [number(scores.get(moment, {}).get("value")) for moment in ("before", "after")]
        rows.append(
            [
                str(entry["number"]),
                entry["time"][:16].replace("T", " "),
                ACTIONS.get(entry["action"], entry["action"]),
                called(entry.get("request"), names),
                str((entry.get("prompts") or {}).get("count", "")),
                "" if moved == ["–", "–"] else " → ".join(moved),
                str(len(entry.get("requests", ()))),
                entry["hash"][:12],
            ]
        )
    columns = ["entry", "time (UTC)", "what happened", "request", "prompts", "its ROUGE-1", "hold then", "hash"]
    return Table("The record of the ledger, oldest entry first", columns, rows, frozenset({0, 1, 2, 3, 7}))
