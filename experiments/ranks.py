"""How few directions of a `collapse` edit keep every score, and how many numbers these are.

    python experiments/ranks.py --data FILE [--facts FILE] --output DIR [--share half] [--groups A_B,A_m,…]
        [--architecture llama] [--device cuda]

For every group, layer and strength are searched for, and the edit's change is cut to its k largest singular values. A
rank is enough if forget, retain, unseen groups and unseen facts are none of them worse than the whole edit's by more
than 0.005, and neither are they with any rank above it. A finished cell is a file in DIR/cells and is not run again.
Afterwards DIR holds `table.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import paper_table

from lunar import Edit, LoadedModel, Record, Settings, answer_records, unlearn
from lunar.comparison import Request
from lunar.metrics import mean
from lunar.metrics.rouge import rouge1

RANKS = (1, 2, 4, 8, 16)
AS_GOOD = 0.005
"""By which a score may be worse than the whole edit's."""
LARGE = (4096, 14336)
"""d and m of a model of 8 billion parameters."""


def cell(loaded: LoadedModel, request: Request) -> dict[str, Any]:
    """Scores by rank, that of the whole edit last."""
    asked = [Record(record.messages) for record in request.forget]
    settings = Settings(target="collapse", seed=request.seed)
    edit = unlearn(loaded, asked, retain=request.retain, reference=request.reference, settings=settings).edit
    ranks = [*(rank for rank in RANKS if rank < edit.rank), edit.rank]
    return {"scores": {str(rank): scores(loaded, cut(edit, rank), request) for rank in ranks}}


def cut(edit: Edit, rank: int) -> Edit:
    """The best approximation of a change in so many directions; factors come with their strongest columns first."""
    parts = tuple(
        replace(part, write=part.write[:, :rank].contiguous(), read=part.read[:rank].contiguous())
        for part in edit.factors
    )
    return replace(edit, factors=parts)


def scores(loaded: LoadedModel, edit: Edit, request: Request) -> dict[str, float]:
    """ROUGE-1 of every split."""
    with edit.applied(loaded.model):
        return {name: mean(rouge1(answer_records(loaded, some), some)) or 0.0 for name, some in request.splits.items()}


def enough(found: Mapping[str, Mapping[str, float]]) -> int:
    """The smallest rank from which on every score is as good as that of the whole edit, or better."""
    *_, whole = found.values()
    # What is forgotten is to score low, everything else high.
    sign = {name: 1.0 if name == "forget" else -1.0 for name in whole}
    least = len(found) - 1
    for place, one in reversed(list(enumerate(found.values()))):
        if any(sign[name] * (one[name] - whole[name]) > AS_GOOD for name in whole):
            break
        least = place
    return int(list(found)[least])


def table(cells: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per group and rank, and how many numbers the smallest rank that is enough stores."""
    splits = list(next(iter(next(iter(cells.values()))["scores"].values())))
    lines = ["| " + " | ".join(["group", "rank", *splits]) + " |", "| --- " * (2 + len(splits)) + "|"]
    for group, one in cells.items():
        for rank, row in one["scores"].items():
            lines.append(f"| {group} | {rank} | " + " | ".join(f"{row[name]:.3f}" for name in splits) + " |")
    lines.append("")
    for group, one in cells.items():
        rank = enough(one["scores"])
        numbers = rank * sum(LARGE)
        lines.append(f"{group}: rank {rank} is enough; at d = {LARGE[0]}, m = {LARGE[1]} that is {numbers} numbers.")
    return "\n".join(lines)


def main() -> int:
    return paper_table.by_group(paper_table.one_share(__doc__), cell, table)


if __name__ == "__main__":
    sys.exit(main())
