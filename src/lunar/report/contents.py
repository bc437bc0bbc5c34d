"""Everything that the page is made from, as the files of a folder hold it; any of it may be missing.

Knows no HTML and runs no model: the page can be written again from the folder alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Plain = Mapping[str, Any]
TEXTS = ("question", "before", "after")
"""The fields of an example that hold text."""


@dataclass(frozen=True)
class Contents:
    """What came of a request, of attacks on it, or of a comparison of methods.

    Attributes:
        report: of report.json.
        attacks: of attacks.json.
        comparison: of comparison.json.
        recipe: of recipe.toml.
        requests: those that hold, as the ledger's manifest has them.
        record: the entries of record.jsonl, the oldest first.
        examples: of examples.json, as `lunar.report.examples.pick` makes them.
    """

    report: Plain = field(default_factory=dict)
    attacks: Plain = field(default_factory=dict)
    comparison: Plain = field(default_factory=dict)
    recipe: Plain = field(default_factory=dict)
    requests: Sequence[Plain] = ()
    record: Sequence[Plain] = ()
    examples: Sequence[Plain] = ()

    @property
    def sources(self) -> Plain:
        """What the model and the data are called."""
        return self.report.get("sources") or self.comparison.get("sources") or {}

    @property
    def versions(self) -> Plain:
        """What it was made with."""
        return self.report.get("versions") or self.comparison.get("versions") or (self.last.get("versions") or {})

    @property
    def last(self) -> Plain:
        """The last entry of the record."""
        return self.record[-1] if self.record else {}

    @property
    def findings(self) -> list[Plain]:
        """What attacks found, as attacks.json has it, or as much of it as report.json has."""
        shortened = self.report.get("attacks") or {}
        whole = self.attacks.get("findings")
        if whole is not None:
            return list(whole)
        refused = [{"attack": one["attack"], "not_run": one["reason"]} for one in shortened.get("not_run", ())]
        return [*shortened.get("run", ()), *refused]

    def cell(self, names: Sequence[str]) -> Plain:
        """The first of some methods of a comparison that did not fail."""
        cells = {one["method"]: one for one in self.comparison.get("cells", ()) if "failed" not in one}
        return next((cells[name] for name in names if name in cells), {})

    def scores(self) -> dict[str, dict[str, dict[str, Plain]]]:
        """Split, metric and moment ("before", "after") to {"value", "low", "high"}; of a comparison, of our method."""
        if self.report.get("scores"):
            intervals = self.report.get("intervals") or {}
            return {
                split: {
                    metric: {
                        moment: {"value": value, **_ends(intervals.get(split, {}).get(metric, {}).get(moment))}
                        for moment, value in moments.items()
                    }
                    for metric, moments in metrics.items()
                }
                for split, metrics in self.report["scores"].items()
            }
        before, after = self.cell(("original",)).get("scores", {}), self.ours().get("scores", {})
        return {
            split: {
                metric: {"before": before[split][metric], "after": score}
                for metric, score in after[split].items()
                if metric in before[split]
            }
            for split in after
            if split in before
        }

    def ours(self) -> Plain:
        """The cell of our method in a comparison: the best of its targets by the Deviation Score."""
        from lunar.settings import TARGETS

        cells = [cell for name in TARGETS if (cell := self.cell((name,)))]
        return min(cells, key=deviation, default={})


def deviation(cell: Plain) -> float:
    """The Deviation Score of a cell; beyond all others where there is none."""
    score = cell.get("deviation_score")
    return float("inf") if score is None else float(score)


def hidden(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows without any text of what is forgotten."""
    return [
        {name: value for name, value in row.items() if not (row["forget"] and name in TEXTS)}
        for row in rows
        if not row["tells"]
    ]


def _ends(interval: Sequence[float | None] | None) -> dict[str, float | None]:
    return dict(zip(("low", "high"), interval or (None, None), strict=True))
