"""What brings the forgotten answers back: attacks sorted by how much they recover, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lunar.report.contents import Contents, Plain
from lunar.report.elements import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    RED,
    Plot,
    Section,
    Table,
    axis,
    count,
    errors,
    inert,
    names_axis,
    number,
    share,
    with_interval,
)
from lunar.report.sentences import MEASURED, fewer_questions

COUNTS_FROM = 0.15
"""What is beyond its control by this much has come back, where attacks.json does not say so itself."""
KINDS = {
    "brings answers back": RED,
    "hardly more than its control": BLUE,
    MEASURED: GREEN,
    "breaks the model, proves nothing": GREY,
}
BRINGS, HARDLY, _, BREAKS = KINDS


def back(contents: Contents) -> Section | None:
    """A bar and a row per attack, those that recover most first."""
    findings = contents.findings
    run = sorted((one for one in findings if not one.get("not_run")), key=_worth)
    if not run:
        return None
    bar = float(contents.attacks.get("excess_that_counts", COUNTS_FROM))
    kinds = [kind(one, bar) for one in run]
    attacks = len(run) - kinds.count(MEASURED)
    verdict = contents.attacks.get("verdict") or (contents.report.get("attacks") or {}).get("verdict") or ""
    lead = [
        verdict,
        f"{count(attacks, 'attack')} tried, {kinds.count(BRINGS)} of them with success. What they bring back was "
        "suppressed and had been there all along.",
    ]
    skipped = [f"Not run: {one['attack']}. {one['not_run']}" for one in findings if one.get("not_run")]
    if contents.attacks.get("left_out"):
        because = contents.attacks.get("left_out_because", "not asked for")
        skipped.append(f"Not run, {because}: {', '.join(contents.attacks['left_out'])}.")
    return Section(
        "back",
        "Trying to bring it back",
        [line for line in lead if line],
        [_plot(run, bar)],
        [_table(run, bar)],
        notes=[
            f"An attack counts as bringing answers back where it gives more than {bar} beyond its control: what a "
            "model that never knew says under the same attack, or how wrong answers to like questions score. One that "
            "costs more than half of the retained answers breaks the model and proves nothing.",
            *skipped,
        ],
    )


def kind(finding: Plain, bar: float) -> str:
    """Which of `KINDS` an attack is."""
    if not finding.get("counts", True):
        return MEASURED
    if not finding.get("survives"):
        return BREAKS
    excess = (finding.get("excess") or {}).get("value")
    if excess is None:
        excess = (finding["forget"].get("value") or 0.0) - (finding.get("unlearned") or 0.0)
    return BRINGS if excess > bar else HARDLY


def _worth(finding: Plain) -> tuple[bool, float]:
    """What proves something first, and of that what recovers most."""
    recovery = finding.get("recovery")
    value = finding["forget"].get("value") if recovery is None else recovery
    return not finding.get("survives"), -(value or 0.0)


def name(finding: Plain) -> str:
    """What an attack does, in words, where they are known."""
    return finding.get("title") or finding["attack"]


def _plot(run: Sequence[Plain], bar: float) -> Plot:
    traces: list[dict[str, Any]] = []
    for label, colour in KINDS.items():
        ones = [one for one in run if kind(one, bar) == label]
        if not ones:
            continue
        scores = [one["forget"] for one in ones]
        values = [one.get("value") for one in scores]
        intervals = [(one.get("low"), one.get("high")) for one in scores]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label,
                "y": [inert(name(one)) for one in ones],
                "x": values,
                "error_x": errors(values, intervals) | {"color": "#7f7f7f"},
                "customdata": [
                    [with_interval(value, ends), number(one.get("control")), share(one.get("recovery"))]
                    for one, value, ends in zip(ones, values, intervals, strict=True)
                ],
                "marker": {"color": colour, "opacity": 0.5 if label == BREAKS else 0.9},
                "hovertemplate": "%{y}<br>gives %{customdata[0]}, control %{customdata[1]}<br>recovers "
                "%{customdata[2]}<extra></extra>",
            }
        )
    controls = [one for one in run if one.get("control") is not None]
    if controls:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "control",
                "y": [inert(name(one)) for one in controls],
                "x": [one["control"] for one in controls],
                "marker": {"symbol": "line-ns", "size": 15, "line": {"width": 3, "color": AMBER}},
                "hovertemplate": "control of %{y}: %{x:.2f}<extra></extra>",
            }
        )
    layout = {
        "xaxis": axis("share of the forgotten answers' words given (ROUGE-1)", range=[0, 1.04]),
        "yaxis": names_axis([name(one) for one in run]),
        "barmode": "overlay",
        "bargap": 0.35,
    }
    words = "; ".join(f"{name(one)} {number(one['forget'].get('value'))}" for one in run)
    original = number(run[0].get("original"))
    return Plot(
        "plot-back",
        f"How much of the forgotten answers each attack gets. The original model gives {original}, the unlearned one "
        f"without an attack {number(run[0].get('unlearned'))}. Amber marks: the control.",
        f"Bar chart of the share of the forgotten answers that each attack gets: {words}.",
        traces,
        layout,
        height=120 + 30 * len(run),
    )


def _table(run: Sequence[Plain], bar: float) -> Table:
    rows = []
    for one in run:
        forget, excess = one["forget"], one.get("excess") or {}
        beyond = with_interval(excess.get("value"), (excess.get("low"), excess.get("high")))
        rows.append(
            [
                f"{name(one)} ({one['attack']})" if one.get("title") else one["attack"],
                one.get("needs") or one.get("access", ""),
                kind(one, bar),
                share(one.get("recovery")),
                with_interval(forget.get("value"), (forget.get("low"), forget.get("high"))),
                f"{beyond}, {fewer}" if (fewer := fewer_questions(one)) else beyond,
                number(one.get("retain")),
            ]
        )
    columns = ["attack", "what it takes", "what comes of it", "recovers", "gives", "beyond control", "retain left"]
    caption = "Attacks, those that recover most first; recovers is the share of what unlearning took away"
    return Table(caption, columns, rows, frozenset({0, 1, 2}))
