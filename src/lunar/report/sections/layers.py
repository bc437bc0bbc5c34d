"""The layers: how well each tells forget prompts from others, what the trials reached, and why one was taken."""

from __future__ import annotations

from typing import Any

from lunar.report.contents import Contents, Plain
from lunar.report.elements import AMBER, BLUE, GREEN, RED, Plot, Section, Table, axis, number, share
from lunar.select.choice import strength_shown


def layers(contents: Contents) -> Section | None:
    """The profile or the paper's scores, with the reason for the choice."""
    matrix, choice = contents.report.get("matrix"), contents.report.get("choice")
    if not matrix:
        return None
    others = matrix.get("others") or []
    changed = "Changed is one matrix" if not others else f"Changed are {', '.join(others)} and, before them"
    edited = (
        f"{changed}, {matrix['module_name']} in layer {matrix['layer']}, by rank {matrix['rank']}: "
        f"{matrix['stored_numbers']:,} numbers."
    )
    if not choice:
        whose = "by the ledger's first request" if contents.report.get("request") else "by whoever ran it"
        return Section(
            "layers", "Which layer, and why", [edited, f"The layer was decided {whose} and not searched for."]
        )
    lead = [edited, choice["reason"]]
    if choice.get("likeness"):
        return Section("layers", "Which layer, and why", lead, [_paper_plot(choice)], folded=[_paper_table(choice)])
    cost = f"The search cost {choice['passes']:.1f} full passes over the data."
    return Section(
        "layers",
        "Which layer, and why",
        lead,
        [_plot(choice)] if choice.get("profile") else [],
        folded=[table for table in (_profile(choice), _trials(choice)) if table.rows],
        notes=[
            "Separability: share of pairs in which an unseen forget prompt is told from an unseen retain prompt; 0.5 "
            "is chance. Harm: divergence from the original model on retain prompts that a trial was not given, in nats "
            "per token.",
            cost,
        ],
    )


def _plot(choice: Plain) -> Plot:
    profile = choice["profile"]
    tried = [trial for trial in choice["trials"] if trial["retain_divergence"] is not None]
    at = [trial["layer"] for trial in tried]
    strengths = [strength_shown(trial) for trial in tried]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "separability",
            "x": [line["layer"] for line in profile],
            "y": [line["ordered"] for line in profile],
            "line": {"color": BLUE, "width": 2.5},
            "marker": {"size": 8},
            "hovertemplate": "layer %{x}: separability %{y:.3f}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "refusal reached in a trial",
            "x": at,
            "y": [trial["redirected"] for trial in tried],
            "customdata": strengths,
            "marker": {"color": GREEN, "symbol": "square", "size": 10},
            "hovertemplate": "layer %{x}, strength %{customdata}: %{y:.0%} of forget prompts<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "harm in a trial",
            "x": at,
            "y": [trial["retain_divergence"] for trial in tried],
            "yaxis": "y2",
            "customdata": strengths,
            "marker": {"color": RED, "symbol": "diamond", "size": 10},
            "hovertemplate": "layer %{x}, strength %{customdata}: %{y:.2g} nats per token<extra></extra>",
        },
    ]
    mark = {"x0": choice["layer"], "x1": choice["layer"], "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    layout = {
        "xaxis": axis("decoder layer", tickformat="d", dtick=max(1, len(profile) // 16), anchor="y2"),
        "yaxis": axis("share", domain=[0.45, 1], range=[0, 1.08]),
        "yaxis2": axis("nats per token", domain=[0, 0.34], rangemode="tozero", anchor="x", exponentformat="power"),
        "shapes": [{"type": "line", **mark, "line": {"color": AMBER, "width": 3}}],
        "hovermode": "closest",
    }
    best = max(profile, key=lambda line: line["ordered"])
    return Plot(
        "plot-layers",
        f"Amber: layer {choice['layer']}, which was taken. Above, higher is better; below, lower is better.",
        f"Separability over {len(profile)} layers, best {number(best['ordered'])} at layer {best['layer']}, and the "
        f"trials at layers {', '.join(str(layer) for layer in sorted(set(at)))}. Layer {choice['layer']} was taken.",
        traces,
        layout,
        height=420,
    )


def _profile(choice: Plain) -> Table:
    rows = [
        [str(line["layer"]), number(line["ordered"], 3), number(line["forget_median"]), number(line["retain_high"])]
        for line in choice.get("profile", ())
    ]
    columns = ["layer", "separability", "median gate value of forget prompts", "99% of retain prompts lie below"]
    return Table("Profile of the layers, every prompt read by a detector solved without it", columns, rows)


def _trials(choice: Plain) -> Table:
    place = choice["layer"], choice["strength"]
    # Where prompts have strengths of their own, several trials begin with the same: the last of them was taken.
    same = [trial for trial in choice.get("trials", ()) if (trial["layer"], trial["strength"]) == place]
    judged = [trial for trial in same if trial["retain_divergence"] is not None]
    taken = (judged or same or [None])[-1]
    rows = [
        [
            str(trial["layer"]),
            strength_shown(trial),
            share(trial["redirected"]),
            "–" if trial["retain_divergence"] is None else f"{trial['retain_divergence']:.4f}",
            "yes" if trial is taken else "",
        ]
        for trial in choice.get("trials", ())
    ]
    columns = ["layer", "strength", "refusal is likelier", "harm, nats per token", "taken"]
    return Table("Every trial", columns, rows)


def _paper_plot(choice: Plain) -> Plot:
    lines = choice["likeness"]
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": title,
            "x": [line["layer"] for line in lines],
            "y": [line[key] for line in lines],
            "line": {"color": colour, "width": 2.5},
            "hovertemplate": f"layer %{{x}}: {title} %{{y:.2f}}<extra></extra>",
        }
        for key, title, colour in (
            ("ignorance", "like ignorance", BLUE),
            ("unrelated", "like an unrelated refusal", RED),
        )
    ]
    layout = {"xaxis": axis("decoder layer", tickformat="d"), "yaxis": axis("likeness", range=[0, 1.05])}
    words = f"Likeness of the answers to ignorance and to an unrelated refusal over {len(lines)} layers."
    return Plot("plot-layers", f"Taken: layer {choice['layer']}, by the paper's selector.", words, traces, layout, 360)


def _paper_table(choice: Plain) -> Table:
    rows = [[str(one["layer"]), number(one["ignorance"]), number(one["unrelated"])] for one in choice["likeness"]]
    return Table("Scores of the paper's selector", ["layer", "ignorance", "unrelated"], rows)
