"""Before and after per split, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lunar.report.contents import Contents
from lunar.report.elements import (
    BLUE,
    GREY,
    Plot,
    Section,
    Table,
    axis,
    errors,
    inert,
    names_axis,
    number,
    readable,
    with_interval,
)

METRICS = {
    "rouge1": "ROUGE-1: share of the known answer's words that are given",
    "refusal_rate": "Coherent refusals: share of questions that the model declines in a whole sentence",
    "exact_match": "Exact match: share of answers that are the known one, word for word",
    "rouge_l": "ROUGE-L: the same as ROUGE-1 with the words in their order",
}
"""What may be shown, best known first, with its explanation; files hold more."""
MOMENTS = {"before": (GREY, "circle-open"), "after": (BLUE, "circle")}
Scores = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]


def scores(contents: Contents) -> Section | None:
    """One row per split, its mean before and after."""
    found = contents.scores()
    shown = [metric for metric in METRICS if any(known(found, split, metric) for split in found)]
    if not shown:
        return None
    questions = contents.report.get("questions") or contents.ours().get("questions") or {}
    lead = ["Each split is a set of questions; the splits that begin with “forget” ask about what is to be forgotten."]
    if contents.ours():
        lead.append(f"Shown is the target {contents.ours()['method']}, the best of ours in this comparison.")
    return Section(
        "scores",
        "Before and after",
        lead,
        [_plot(found, shown)],
        [_table(found, questions)],
        notes=[
            "Means over the questions with their 95% bootstrap intervals, which allow for chance in which questions "
            "were asked and for nothing else."
        ],
    )


def known(found: Scores, split: str, metric: str) -> bool:
    """Whether a metric was measured on a split after the change."""
    return found[split].get(metric, {}).get("after", {}).get("value") is not None


def _plot(found: Scores, metrics: list[str]) -> Plot:
    traces = []
    for metric in metrics:
        splits = [split for split in found if known(found, split, metric)]
        for moment, (colour, symbol) in MOMENTS.items():
            each = [found[split][metric].get(moment, {}) for split in splits]
            values = [one.get("value") for one in each]
            intervals = [(one.get("low"), one.get("high")) for one in each]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": moment,
                    "meta": metric,
                    "visible": metric == metrics[0],
                    "x": values,
                    "y": [inert(readable(split)) for split in splits],
                    "customdata": [with_interval(*pair) for pair in zip(values, intervals, strict=True)],
                    "error_x": errors(values, intervals) | {"color": colour},
                    "marker": {"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2, "color": colour}},
                    "hovertemplate": f"%{{y}}, {moment}: %{{customdata}}<extra></extra>",
                }
            )
        without = [inert(readable(split)) for split in found if split not in splits]
        traces.append(
            {
                "type": "scatter",
                "mode": "text",
                "name": "",
                "meta": metric,
                "visible": metric == metrics[0],
                "x": [0.5] * len(without),
                "y": without,
                "text": ["no known answers"] * len(without),
                "textfont": {"color": GREY},
                "showlegend": False,
                "hoverinfo": "skip",
            }
        )
    layout = {
        "xaxis": axis("", range=[-0.04, 1.04], dtick=0.25),
        "yaxis": names_axis([readable(split) for split in found]),
        "hovermode": "closest",
    }
    return Plot(
        "plot-scores",
        "Open circles: before. Filled: after. Forget questions should move to the left in ROUGE-1; all others should "
        "stay where they are. Bars are 95% intervals.",
        _in_words(found, metrics[0]),
        traces,
        layout,
        height=110 + 36 * len(found),
        choices={metric: METRICS[metric] for metric in metrics},
    )


def _in_words(found: Scores, metric: str) -> str:
    moves = [
        f"{readable(split)} from {number(found[split][metric]['before'].get('value'))} to "
        f"{number(found[split][metric]['after'].get('value'))}"
        for split in found
        if known(found, split, metric)
    ]
    return f"Dot plot of {METRICS[metric].split(':')[0]} per split, before and after: {'; '.join(moves)}."


def _table(found: Scores, questions: Mapping[str, int]) -> Table:
    metrics = [metric for metric in METRICS if any(known(found, split, metric) for split in found)][:3]
    columns = ["split", "questions"]
    columns += [f"{METRICS[metric].split(':')[0]}, {moment}" for metric in metrics for moment in MOMENTS]
    rows = []
    for split, measured in found.items():
        row = [readable(split), str(questions.get(split, "–"))]
        for metric in metrics:
            for moment in MOMENTS:
                one = measured.get(metric, {}).get(moment, {})
                row.append(with_interval(one.get("value"), (one.get("low"), one.get("high"))))
        rows.append(row)
    return Table("Scores per split before and after, with 95% intervals", columns, rows)
