"""Gate values: how surely the edit tells what is to be forgotten from everything else."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from lunar.report.contents import Contents
from lunar.report.elements import (
    AMBER,
    GREEN,
    RED,
    Plot,
    Section,
    Table,
    axis,
    inert,
    names_axis,
    number,
    readable,
)

NEIGHBOURS = "made neighbours"
"""The prompts like the forgotten ones about other names, which were pinned."""
LEFT_OUT = "forget, each left out"
KINDS = {"to be forgotten": RED, "alike, about others": AMBER, "everything else": GREEN}


def recognised(contents: Contents) -> Section | None:
    """The distribution of the gate values per set of prompts."""
    found = (contents.report.get("gate") or {}).get("distributions")
    if not found:
        return None
    return Section(
        "recognised",
        "What the edit recognises",
        [
            "The edit works in proportion to a gate value that it reads off every question: about 1 or more is "
            "redirected to “I don't know”, about 0 is left alone.",
        ],
        [_plot(found)],
        [_table(found)],
        notes=[
            f"“{LEFT_OUT}” are the forget prompts, each read by a detector solved without it, as an unseen question "
            "would be. The forget, retain and neighbour prompts that the edit was made from lie nearer to 1 and 0 than "
            "questions it never saw."
        ],
    )


def kind(name: str) -> str:
    """Which of `KINDS` a set is."""
    forgotten, alike, rest = KINDS
    return forgotten if name.startswith("forget") else alike if "neighbour" in name else rest


def _plot(found: Mapping[str, Mapping[str, Any]]) -> Plot:
    traces = []
    for name, one in found.items():
        values, colour = one["values"], KINDS[kind(name)]
        label = inert(readable(name))
        traces.append(
            {
                "type": "box",
                "orientation": "h",
                "name": label,
                "x": values,
                "y": [label] * len(values),
                "boxpoints": "all",
                "jitter": 0.6,
                "pointpos": 0,
                "marker": {"color": colour, "size": 4, "opacity": 0.55},
                "line": {"color": colour, "width": 1.5},
                "fillcolor": "rgba(0,0,0,0)",
                "hovertemplate": "%{x:.2f}<extra>%{y}</extra>",
                "hoveron": "points",
                "showlegend": False,
            }
        )
    line = {"color": "#9a9a9a", "width": 1, "dash": "dot"}
    mark = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "layer": "below", "line": line}
    words = "; ".join(f"{readable(name)} {number(statistics.median(one['values']))}" for name, one in found.items())
    layout = {
        "xaxis": axis("gate value: 1 is recognised as forgotten, 0 is left alone"),
        "yaxis": names_axis([readable(name) for name in found]),
        "shapes": [{**mark, "x0": place, "x1": place} for place in (0, 1)],
        "hovermode": "closest",
    }
    return Plot(
        "plot-recognised",
        "Each dot is a question, at most 100 per set, spread evenly over its values; boxes hold the middle half.",
        f"Box plots of gate values per set of prompts; medians: {words}.",
        traces,
        layout,
        height=100 + 46 * len(found),
    )


def _table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, one in found.items():
        values = one["values"]
        shown = [number(value) for value in (min(values), statistics.median(values), max(values))]
        rows.append([readable(name), kind(name), str(one["count"]), *shown, f"{one['above_half']:.0%}"])
    columns = ["set", "what it is", "questions", "lowest", "median", "highest", "above a half"]
    return Table("Gate values per set of prompts", columns, rows, frozenset({0, 1}))
