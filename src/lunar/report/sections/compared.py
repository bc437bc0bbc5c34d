"""Forget against retain: our method, the methods of the literature and the controls on one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lunar.report.contents import Contents, Plain, deviation
from lunar.report.elements import (
    BLUE,
    GREY,
    RED,
    Plot,
    Section,
    Table,
    axis,
    count,
    errors,
    inert,
    number,
    share,
    with_interval,
)
from lunar.settings import RETAIN_ONLY, TARGETS

CONTROLS = ("original", RETAIN_ONLY)
METHODS = {
    "original": "the model as it was",
    "shift": "ours, the paper's target in closed form",
    "collapse": "ours, every activation onto the reference",
    "split": "ours, between shift and collapse",
    "gated": "ours, behind a threshold",
    "hardened": "ours, a shift and a threshold",
    "ascent": "gradient ascent",
    "difference": "gradient difference",
    "kl": "gradient ascent held by divergence",
    "dpo": "refusals preferred (DPO)",
    "idk": "trained to say that it does not know",
    "npo": "negative preference optimisation",
    "simnpo": "NPO without a reference model",
    "rmu": "representations misdirected",
    "lunar-reference": "LUNAR as published",
    "prompt": "told in its instructions to decline",
    RETAIN_ONLY: "a model that never knew it",
}
KINDS = {
    "ours": (BLUE, "star", 15),
    "methods of the literature": (RED, "circle", 10),
    "controls": (GREY, "diamond", 11),
}


def compared(contents: Contents) -> Section | None:
    """A point and a row per method."""
    cells = contents.comparison.get("cells", ())
    run = [cell for cell in cells if "failed" not in cell and {"forget", "retain"} <= set(cell["scores"])]
    if not run:
        return None
    searched = contents.comparison.get("settings_searched")
    source = "the best of its candidates on a part of the retain set" if searched else "those of its paper"
    failed = [f"{cell['method']} failed: {cell['failed']}" for cell in cells if "failed" in cell]
    return Section(
        "compared",
        "Forget against retain",
        [f"{count(len(run), 'model')} measured alike on one request. Each method's settings are {source}."],
        [_plot(run)],
        [_table(sorted(run, key=deviation))],
        notes=[
            "Deviation Score: distance from forgetting everything and keeping everything, 0 is best, 100 the untouched "
            "model. Numbers changed: how many of the model's own numbers differ afterwards.",
            *failed,
        ],
    )


def kind(method: str) -> str:
    """Which of `KINDS` a method is."""
    return "ours" if method in TARGETS else "controls" if method in CONTROLS else "methods of the literature"


def _plot(cells: Sequence[Plain]) -> Plot:
    traces = []
    # Labels by turns above and below, from left to right: many methods lie side by side.
    sides = ("top center", "bottom center")
    ordered = sorted(cells, key=lambda cell: cell["scores"]["forget"]["rouge1"]["value"] or 0)
    above = {cell["method"]: sides[place % 2] for place, cell in enumerate(ordered)}
    for name, (colour, symbol, size) in KINDS.items():
        ours = [cell for cell in cells if kind(cell["method"]) == name]
        if not ours:
            continue
        forget, retain = ([cell["scores"][split]["rouge1"] for cell in ours] for split in ("forget", "retain"))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": name,
                "x": [one["value"] for one in forget],
                "y": [one["value"] for one in retain],
                "error_x": _errors(forget) | {"color": colour},
                "error_y": _errors(retain) | {"color": colour},
                "text": [inert(cell["method"]) for cell in ours],
                "textposition": [above[cell["method"]] for cell in ours],
                "customdata": [
                    [inert(METHODS.get(cell["method"], "")), _shown(f), _shown(r), number(cell["deviation_score"], 1)]
                    for cell, f, r in zip(ours, forget, retain, strict=True)
                ],
                "marker": {"color": colour, "symbol": symbol, "size": size},
                "hovertemplate": "<b>%{text}</b>, %{customdata[0]}<br>forget %{customdata[1]}<br>"
                "retain %{customdata[2]}<br>Deviation Score %{customdata[3]}<extra></extra>",
            }
        )
    layout = {
        "xaxis": axis("forget ROUGE-1: share of the forgotten answers still given", range=[-0.08, 1.12]),
        "yaxis": axis("retain ROUGE-1: share of the others still given", range=[-0.08, 1.12]),
        "hovermode": "closest",
    }
    best = min(cells, key=deviation)
    words = "; ".join(
        f"{cell['method']} forget {_value(cell, 'forget')}, retain {_value(cell, 'retain')}" for cell in cells
    )
    return Plot(
        "plot-compared",
        "The upper left corner is best: nothing of the forgotten, all of the rest. Bars are 95% intervals.",
        f"Scatter plot of what is left of the forget and the retain answers per method: {words}. Nearest to forgetting "
        f"all and keeping all is {best['method']}.",
        traces,
        layout,
        height=520,
    )


def _table(cells: Sequence[Plain]) -> Table:
    rows = []
    for cell in cells:
        forget = cell["scores"]["forget"]
        row = [cell["method"], METHODS.get(cell["method"], ""), number(cell["deviation_score"], 1)]
        row += [_shown(cell["scores"][split]["rouge1"]) for split in ("forget", "retain")]
        row += [share(forget.get("refusal_rate", {}).get("value")), f"{cell['seconds']:.0f}"]
        rows.append([*row, f"{cell['changed_parameters']:,}"])
    columns = ["method", "what it is", "Deviation Score", "forget", "retain", "refusals", "seconds", "numbers changed"]
    return Table("Methods, the best Deviation Score first", columns, rows, frozenset({0, 1}))


def _value(cell: Plain, split: str) -> str:
    return number(cell["scores"][split]["rouge1"]["value"])


def _shown(score: Plain) -> str:
    return with_interval(score["value"], (score["low"], score["high"]))


def _errors(scores: Sequence[Plain]) -> dict[str, Any]:
    return errors([one["value"] for one in scores], [(one["low"], one["high"]) for one in scores])
