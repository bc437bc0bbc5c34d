"""How far the program's own choice is from the best that an exhaustive grid finds on the split that is reported.

    python experiments/grid.py --data FILE [--facts FILE] --output DIR [--share half] [--groups A_B,A_m,…]
        [--architecture llama] [--device cuda]

For every group: `unlearn` without a setting, then every layer × target × weight × strength, each scored by the
Deviation Score of what was not given (with `--share all`, of what was). A setting is not asked its retain questions
once what it leaves of the forgotten alone is worse than the best so far: its score could not be better. Choosing on the
reported split is what nobody may do, so the best of the grid is a bound and not a result. A finished cell is a file in
DIR/cells and is not run again. Afterwards DIR holds `table.md`.
"""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

import paper_table

from lunar import Edit, LoadedModel, LunarError, Record, Settings, answer_records, find_sites, unlearn
from lunar.comparison import Request
from lunar.metrics import deviation_score, mean
from lunar.metrics.rouge import rouge1

TARGETS = ("shift", "collapse")
WEIGHTS = (30.0, 150.0, 1000.0)
STRENGTHS = (0.8, 1.0, 1.5)
WITHIN = 1.0
"""How far above the best of the grid the choice may be, in points of the Deviation Score."""


def cell(loaded: LoadedModel, request: Request) -> dict[str, Any]:
    """The score of the choice, and the best of the grid with where it was found."""
    asked = [Record(record.messages) for record in request.forget]

    def edit(**settings: Any) -> tuple[Edit, dict[str, Any]]:
        made = Settings(seed=request.seed, **settings)
        found = unlearn(loaded, asked, retain=request.retain, reference=request.reference, settings=made)
        choice = found.choice
        return found.edit, {} if choice is None else {"layer": choice.layer, "strength": choice.strength}

    own, chosen = edit()
    chosen["score"] = score(loaded, own, request)
    best, tried, failed = dict(chosen), 0, 0
    for target, site, weight in product(TARGETS, find_sites(loaded.model), WEIGHTS):
        place = {"target": target, "layer": site.layer, "forget_weight": weight}
        try:
            found, _ = edit(strength=1.0, **place)
        except LunarError:
            failed += len(STRENGTHS)
            continue
        for strength in STRENGTHS:
            tried += 1
            reached = score(loaded, found.scaled(strength), request, best["score"])
            if reached < best["score"]:
                best = place | {"strength": strength, "score": reached}
    return {"chosen": chosen, "best": best, "tried": tried, "failed": failed}


def score(loaded: LoadedModel, edit: Edit, request: Request, below: float = float("inf")) -> float:
    """The Deviation Score of what was not given, else of what was; only a lower bound where it is not below that."""
    measured = request.splits.get("retain_unseen") or request.splits["retain"]
    with edit.applied(loaded.model):
        forget = mean(rouge1(answer_records(loaded, request.forget), request.forget)) or 0.0
        least = deviation_score(forget, 1.0) or 0.0
        if least >= below:
            return least
        retain = mean(rouge1(answer_records(loaded, measured), measured)) or 0.0
    return deviation_score(forget, retain) or 0.0


def table(cells: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per group."""
    lines = ["| group | chosen | score | best of the grid | score | apart |", "| --- | --- | --- | --- | --- | --- |"]
    for group, one in cells.items():
        apart = one["chosen"]["score"] - one["best"]["score"]
        named = [_named(one[which]) for which in ("chosen", "best")]
        lines.append(
            f"| {group} | {named[0]} | {one['chosen']['score']:.1f} | {named[1]} | {one['best']['score']:.1f} | "
            f"{apart:.1f} |"
        )
    within = sum(one["chosen"]["score"] - one["best"]["score"] <= WITHIN for one in cells.values())
    count = next(iter(cells.values()))["tried"]
    return "\n".join([*lines, "", f"{within} of {len(cells)} within {WITHIN:g}; {count} settings per group."])


def _named(settings: dict[str, Any]) -> str:
    """Settings in a cell of the table."""
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items() if key != "score")


def main() -> int:
    return paper_table.by_group(paper_table.one_share(__doc__), cell, table)


if __name__ == "__main__":
    sys.exit(main())
