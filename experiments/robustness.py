"""What an edit spares and what it resists, target by target: the trade between the two.

    python experiments/robustness.py --data FILE [--facts FILE] --output DIR [--targets shift,collapse,split,gated]
        [--attacks steering,relearn,…] [--scenario half] [--groups A_B,A_m,…] [--layer auto] [--budget quick]
        [--architecture llama] [--device cuda]

Every group is forgotten on its own by every target, the model asked about all splits (as experiments/paper_table.py
divides them) and attacked (`lunar.attacks`). A finished cell is a file in DIR/cells and is not run again. Afterwards
DIR holds `table.md`, with what chance brings in brackets behind what each attack brings, and `frontier.svg`, where a
target at the lower right spares what nobody listed and resists.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import paper_table
import pistol

from lunar import evaluation
from lunar.attacks import run_attacks
from lunar.comparison import Request
from lunar.errors import LunarError
from lunar.method import unlearn
from lunar.metrics import deviation_score
from lunar.models import LoadedModel
from lunar.records import Record
from lunar.settings import TARGETS, Settings

ATTACKED = ("steering", "relearn")
"""Unless told otherwise: the two that tell the targets apart."""
SPLITS = {"retain": "retain", "retain_unseen": "retain unseen", "facts_unseen": "facts unseen"}

Cell = Mapping[str, Any]


def cell(loaded: LoadedModel, request: Request, target: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Forget, ask and attack once; what stands in the way of an edit is noted in its place."""
    settings = Settings(target=target, layer=arguments.layer, seed=arguments.seed)
    asked = [Record(record.messages) for record in request.forget]
    started = time.perf_counter()
    try:
        found = unlearn(loaded, asked, retain=request.retain, reference=request.reference, settings=settings)
    except LunarError as error:
        return {"failed": str(error)}
    seconds = time.perf_counter() - started
    scores = evaluation.summary(evaluation.compare(loaded, found.edit, request.splits))["scores"]
    ladder = run_attacks(
        loaded,
        found.edit,
        request.forget,
        request.splits["retain"],
        arguments.attacks,
        seed=arguments.seed,
        budget=arguments.budget,
    )
    return {
        "settings": asdict(settings) | {"layer": found.site.layer},
        "seconds": seconds,
        "scores": scores,
        "attacks": ladder.as_dict(),
    }


def run(arguments: argparse.Namespace) -> dict[tuple[str, str], Cell]:
    """All cells by target and group, those of earlier runs from their files."""
    data, facts, loaded = paper_table.trained(arguments)
    cells: dict[tuple[str, str], Cell] = {}
    for group in arguments.groups:
        request = paper_table.request(data, facts, paper_table.Case(arguments.scenario, (group,)), arguments.seed)
        for target in arguments.targets:
            name = f"{arguments.architecture}-{arguments.scenario}-{group}-{target}-{arguments.layer}.json"
            path = arguments.output / "cells" / name
            cells[target, group] = paper_table.finished(path, partial(cell, loaded, request, target, arguments))
            print(f"{group:8s} {target:9s} {_line(cells[target, group])}", flush=True)
    return cells


def figures(one: Cell) -> dict[str, float]:
    """What the table says of a cell, by column; nothing of one that failed."""
    if "failed" in one:
        return {}
    scores = one["scores"]
    found = {"forget": scores["forget"]["rouge1"]["after"], "refusals": scores["forget"]["refusal_rate"]["after"]}
    found |= {title: scores[split]["rouge1"]["after"] for split, title in SPLITS.items() if split in scores}
    for title, kept in (("DS", "retain"), ("DS, unseen", "retain unseen")):
        if kept in found:
            found[title] = deviation_score(found["forget"], found[kept])
    return found | {
        finding["attack"]: finding["forget"]["value"]
        for finding in one["attacks"]["findings"]
        if finding["forget"] is not None
    }


def chances(one: Cell) -> dict[str, float]:
    """What chance brings where an attack brings something, by attack."""
    findings = one.get("attacks", {}).get("findings", [])
    return {finding["attack"]: finding["control"] for finding in findings if finding["control"] is not None}


def _line(one: Cell) -> str:
    return "  ".join(f"{title} {value:.3f}" for title, value in figures(one).items()) or f"failed: {one['failed']}"


def table(cells: Mapping[tuple[str, str], Cell]) -> str:
    """Markdown: a line for each cell, and for each target its mean and standard deviation."""
    titles = list(dict.fromkeys(title for one in cells.values() for title in figures(one)))
    lines = ["| " + " | ".join(["target", "group", *titles]) + " |", "| --- " * (len(titles) + 2) + "|"]
    for target in dict.fromkeys(target for target, _ in cells):
        mine = {group: one for (name, group), one in cells.items() if name == target}
        for group, one in mine.items():
            lines.append(f"| {target} | {group} | " + " | ".join(_values(one, titles)) + " |")
        known = [figures(one) for one in mine.values()]
        means = [paper_table.spread([one.get(title) for one in known], _digits(title)) for title in titles]
        lines.append(f"| **{target}** | mean | " + " | ".join(means) + " |")
    return "\n".join(lines)


def _values(one: Cell, titles: Sequence[str]) -> Iterator[str]:
    found, by_chance = figures(one), chances(one)
    for title in titles:
        text = paper_table.number(found.get(title), _digits(title))
        yield f"{text} ({by_chance[title]:.3f})" if title in by_chance else text


def _digits(title: str) -> int:
    return 1 if title.startswith("DS") else 3


def plot(cells: Mapping[tuple[str, str], Cell], attacks: Sequence[str], path: Path) -> None:
    """What is spared against what an attack brings back: a panel per attack, a point per cell, a star per mean."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lunar"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(attacks), figsize=(4.5 * len(attacks), 4), squeeze=False, layout="constrained"
    )
    for axis, attack in zip(axes.flat, attacks, strict=True):
        for index, target in enumerate(dict.fromkeys(target for target, _ in cells)):
            mine = [figures(one) for (name, _), one in cells.items() if name == target]
            known = [(one.get("retain unseen", one["retain"]), one[attack]) for one in mine if attack in one]
            if known:
                across, up = zip(*known, strict=True)
                axis.scatter(across, up, s=18, color=f"C{index}", alpha=0.6)
                means = statistics.fmean(across), statistics.fmean(up)
                axis.scatter(*means, s=160, marker="*", color=f"C{index}", edgecolor="black", label=target)
        axis.set(title=attack, ylim=(-0.03, 1.03))
        axis.set(xlabel="ROUGE-1 on what was not given", ylabel="forget ROUGE-1 under attack")
    axes.flat[0].legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = paper_table.one_architecture(__doc__)
    parser.add_argument("--targets", default=list(TARGETS), type=paper_table.listed)
    parser.add_argument("--attacks", default=list(ATTACKED), type=paper_table.listed)
    parser.add_argument("--scenario", default="half", choices=paper_table.SCENARIOS)
    parser.add_argument("--groups", default=list(paper_table.GROUPS), type=paper_table.listed)
    parser.add_argument("--layer", type=pistol.layer, default="auto", help="auto (searched for), paper, or a number")
    parser.add_argument("--budget", default="quick", choices=("quick", "full"))
    return parser.parse_args(argv)


def main() -> int:
    arguments = parse()
    try:
        cells = run(arguments)
    except LunarError as error:
        print(error, file=sys.stderr)
        return 2
    text = table(cells)
    (arguments.output / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(cells, arguments.attacks, arguments.output / "frontier.svg")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
