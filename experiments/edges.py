"""Every group of a file forgotten on its own, by the program's own choice, with more and with less retain data.

    python experiments/edges.py --data FILE [--facts FILE] --output DIR [--shares all,half,tenth,none]
        [--groups A_B,A_m,…] [--target shift] [--architecture llama] [--device cuda]

Without `--groups` every group of the file is forgotten. No setting is given: layer and strength are searched for. Each
forget prompt is also asked in other words (the eight forms of `lunar.attacks`, of which the edit saw none), where the
original model still answers; how much leaks then is set beside the prompt's leave-one-out gate value, as their rank
correlation. A finished cell is a file in DIR/cells and is not run again. Afterwards DIR holds `table.md`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import paper_table
from scipy.stats import spearmanr

from lunar.attacks.paraphrase import REWRITINGS
from lunar.comparison import Request
from lunar.errors import LunarError
from lunar.evaluation import answer_records
from lunar.method import Unlearned, unlearn
from lunar.metrics import deviation_score, mean
from lunar.metrics.rouge import rouge1
from lunar.models import LoadedModel
from lunar.records import Record
from lunar.settings import TARGETS, Settings

ANSWERED = 0.9
"""ROUGE-1 from which on the original model counts as still answering a question in other words."""
NONE = "none"
"""The share of which nothing is given: the library's built-in prompts stand in for retain data."""
LOWER = ("DS", "DS, unseen", "forget", "in other words", "passes")
"""Columns in which the highest value is the worst."""

Cell = Mapping[str, Any]


def cell(loaded: LoadedModel, request: Request, target: str) -> dict[str, Any]:
    """Forget and ask once; what stands in the way of an edit is noted in its place."""
    asked = [Record(record.messages) for record in request.forget]
    settings = Settings(target=target, seed=request.seed)
    original = phrasings(loaded, request.forget)
    try:
        found = unlearn(loaded, asked, retain=request.retain or None, reference=request.reference, settings=settings)
    except LunarError as error:
        return {"failed": str(error)}
    with found.edit.applied(loaded.model):
        scores = {name: mean(rouge1(answer_records(loaded, some), some)) for name, some in request.splits.items()}
        changed = phrasings(loaded, request.forget)
    leaks = [
        [after for before, after in zip(*both, strict=True) if before >= ANSWERED]
        for both in zip(original, changed, strict=True)
    ]
    return {"scores": scores, "leaks": leaks, **_how(found)}


def _how(found: Unlearned) -> dict[str, Any]:
    choice = found.choice
    chosen = {} if choice is None else {"layer": choice.layer, "strength": choice.strength, "passes": choice.passes}
    return {"left_out": found.gate.leave_one_out.tolist(), **chosen}


def phrasings(loaded: LoadedModel, forget: Sequence[Record]) -> list[list[float]]:
    """ROUGE-1 of the answers to every forget prompt in every form, by prompt."""
    asked = [rewrite(record) for record in forget for rewrite in REWRITINGS.values()]
    values = [value or 0.0 for value in rouge1(answer_records(loaded, asked), asked)]
    return [values[start : start + len(REWRITINGS)] for start in range(0, len(values), len(REWRITINGS))]


def figures(one: Cell) -> dict[str, float]:
    """What the table says of a cell, by column; nothing of one that failed."""
    if "failed" in one:
        return {}
    scores = one["scores"]
    found = {"forget": scores["forget"]}
    if "retain" in scores:
        found["DS"] = deviation_score(scores["forget"], scores["retain"])
    for split in ("retain_unseen", "facts_unseen"):
        if split in scores:
            found[split.replace("_", " ")] = scores[split]
    if "retain_unseen" in scores:
        found["DS, unseen"] = deviation_score(scores["forget"], scores["retain_unseen"])
    leaks = [value for values in one["leaks"] for value in values]
    return found | ({"in other words": statistics.fmean(leaks)} if leaks else {}) | {"passes": one["passes"]}


def correlation(cells: Sequence[Cell]) -> float | None:
    """Spearman's, between the leave-one-out value of a forget prompt and what leaks of it in other words."""
    pairs = [
        (value, statistics.fmean(leaks))
        for one in cells
        for value, leaks in zip(one.get("left_out", ()), one.get("leaks", ()), strict=True)
        if leaks
    ]
    if len(pairs) < 3:
        return None
    values, leaks = zip(*pairs, strict=True)
    if len(set(values)) == 1 or len(set(leaks)) == 1:
        return None
    return float(spearmanr(values, leaks).statistic)


def table(cells: Mapping[tuple[str, str], Cell]) -> str:
    """Markdown: by share of the other groups given, median and worst of every column over the groups."""
    titles = list(dict.fromkeys(title for one in cells.values() for title in figures(one)))
    lines = ["| " + " | ".join(["given", "", "groups", *titles, "rank correlation"]) + " |"]
    lines.append("| --- " * (len(titles) + 4) + "|")
    for share in dict.fromkeys(share for share, _ in cells):
        mine = [one for (name, _), one in cells.items() if name == share]
        known = [found for one in mine if (found := figures(one))]
        rank = paper_table.number(correlation(mine), 2)
        for name, last in (("median", rank), ("worst", "")):
            values = [_over(name, title, [found[title] for found in known if title in found]) for title in titles]
            lines.append(f"| {share} | {name} | {len(known)} of {len(mine)} | {' | '.join(values)} | {last} |")
    return "\n".join(lines)


def _over(name: str, title: str, values: Sequence[float]) -> str:
    if not values:
        return "–"
    worst = max if title in LOWER else min
    value = statistics.median(values) if name == "median" else worst(values)
    return paper_table.number(value, 1 if title in ("DS", "DS, unseen", "passes") else 3)


def asked_for(data: Sequence[Record], facts: Sequence[Record], share: str, group: str, seed: int) -> Request:
    """A group's request; without retain data everything else is measured as unseen, and none of the facts is given."""
    if share != NONE:
        return paper_table.request(data, facts, paper_table.Case(share, (group,)), seed)
    whole = paper_table.request(data, (), paper_table.Case("all", (group,)), seed)
    splits = {"forget": whole.forget, "retain_unseen": whole.splits["retain"], "facts_unseen": facts}
    return replace(whole, retain=(), splits={name: some for name, some in splits.items() if some})


def run(arguments: argparse.Namespace) -> dict[tuple[str, str], Cell]:
    """All cells by share and group, those of earlier runs from their files."""
    data, facts, loaded = paper_table.trained(arguments)
    groups = arguments.groups or list(dict.fromkeys(record.group for record in data if record.group))
    cells: dict[tuple[str, str], Cell] = {}
    for group in groups:
        for share in arguments.shares:
            request = asked_for(data, facts, share, group, arguments.seed)
            path = arguments.output / "cells" / f"{arguments.architecture}-{arguments.target}-{share}-{group}.json"
            one = paper_table.finished(path, partial(cell, loaded, request, arguments.target))
            cells[share, group] = one
            found = "  ".join(f"{title} {value:.3f}" for title, value in figures(one).items())
            print(f"{group:8s} {share:5s} {found or one['failed']}", flush=True)
    return cells


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = paper_table.one_architecture(__doc__)
    parser.add_argument("--shares", default=["all", "half", "tenth"], type=paper_table.listed)
    parser.add_argument("--groups", default=[], type=paper_table.listed, help="all of the file's unless given")
    parser.add_argument("--target", default="shift", choices=TARGETS)
    arguments = parser.parse_args(argv)
    known = (*paper_table.SHARES, NONE)
    if unknown := set(arguments.shares) - set(known):
        parser.error(f"--shares must be some of {', '.join(known)}, but {', '.join(sorted(unknown))} came")
    return arguments


def main() -> int:
    arguments = parse()
    try:
        cells = run(arguments)
    except LunarError as error:
        print(error, file=sys.stderr)
        return 2
    text = table(cells)
    (arguments.output / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
