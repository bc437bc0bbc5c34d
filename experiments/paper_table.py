"""The paper's comparison: methods × architectures × forget sets, one resumable command.

    python experiments/paper_table.py --data FILE [--facts FILE] --output DIR [--architectures llama,gemma,qwen2]
        [--scenarios all,half,three,single] [--groups A_B,A_m,…] [--retain-only A_B] [--methods all] [--device cuda]

Trains a model of each architecture that knows the file (experiments/pistol.py; cached), chooses each method's settings
by a search of its declared candidates on a validation group that is not reported, and runs every method on every group.
A finished cell is a file in DIR/cells and is not run again. Afterwards DIR holds `table.json`, `table.md` and
`plot.svg` (forget against retain, one point per method). The scenarios:

    all      every other group is given as retain data, and measured
    half     half of the other groups are given, the others measured as `retain_unseen`
    three    three groups are forgotten at once, every other one is given
    single   a single group is given as retain data, the others measured as `retain_unseen`
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pistol

from lunar.baselines.retain_only import RetainOnlySettings
from lunar.comparison import OURS, UNTOUCHED, Request, compare_methods, search_all, with_forget_quality
from lunar.errors import LunarError
from lunar.prompts import reference_records
from lunar.records import Record, read_records, split_by_group
from lunar.settings import method_names

SCENARIOS = ("all", "half", "three", "single")
GROUPS = ("A_B", "A_m", "E1_F1", "B_p2", "A_C3")
COLUMNS = {
    "forget ROUGE-1": ("forget", "rouge1"),
    "retain ROUGE-1": ("retain", "rouge1"),
    "retain unseen": ("retain_unseen", "rouge1"),
    "facts unseen": ("facts_unseen", "rouge1"),
    "MRR": ("forget", "mean_reciprocal_rank"),
    "top hit": ("forget", "hit_rate"),
    "extraction strength": ("forget", "extraction_strength"),
    "refusals": ("forget", "refusal_rate"),
    "likeness": ("forget", "refusal_likeness"),
    "repetition": ("forget", "repetition"),
    "perplexity": ("forget", "original_perplexity"),
    "KL": ("retain", "kl_divergence"),
}
"""Column to split and metric. Likeness to what the original says about things it never knew, repetition, and perplexity
under the original model are what says whether an answer is coherent."""
COMBINED = {"utility": "model_utility", "forget quality": "forget_quality"}


@dataclass(frozen=True)
class Case:
    """One request of the table: the groups to forget, and which scenario it belongs to."""

    scenario: str
    groups: tuple[str, ...]

    @property
    def name(self) -> str:
        """For folders."""
        return f"{self.scenario}-{'+'.join(self.groups)}"


def cases(scenarios: Sequence[str], groups: Sequence[str]) -> Iterator[Case]:
    """Every request; three groups at once begin with each of the groups in turn."""
    for scenario in scenarios:
        for index, group in enumerate(groups):
            if scenario == "three":
                yield Case(scenario, tuple(groups[(index + offset) % len(groups)] for offset in range(3)))
            else:
                yield Case(scenario, (group,))


def request(data: Sequence[Record], facts: Sequence[Record], case: Case, seed: int) -> Request:
    """What the methods get and what is measured; half of the facts are never given."""
    forget, others = split_by_group(data, list(case.groups), "data")
    count = len({record.group for record in others})
    share = {"half": 0.5, "single": 1 / count}.get(case.scenario, 1.0)
    retain, unseen = pistol.divide(others, share, seed)
    given, left_out = pistol.halve(facts, seed)
    splits = {"forget": forget, "retain": retain, "retain_unseen": unseen, "facts_unseen": left_out}
    reference = reference_records("unverifiable")
    return Request(forget, [*retain, *given], reference, {k: v for k, v in splits.items() if v}, seed)


def run(arguments: argparse.Namespace) -> dict[str, list[Mapping[str, Any]]]:
    """All cells, by architecture and scenario; each is printed when it is there."""
    data = read_records(arguments.data, "data")
    facts = read_records(arguments.facts, "facts") if arguments.facts else []
    names = method_names(arguments.methods)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for architecture in arguments.architectures:
        loaded = pistol.trained_model(data, facts, arguments.device, architecture)
        validation = request(data, facts, Case("all", (arguments.validation_group,)), arguments.seed)
        chosen = search_all(loaded, validation, names, arguments.output / "search" / architecture)
        for case in cases(arguments.scenarios, arguments.groups):
            wanted = list(names)
            settings = dict(chosen)
            if case.scenario == "all" and case.groups[0] in arguments.retain_only:
                rest = [record for record in data if record.group not in case.groups]
                without = pistol.trained_model(rest, facts, arguments.device, architecture)
                settings["retain-only"] = RetainOnlySettings(without)
                wanted.append("retain-only")
            folder = arguments.output / "cells" / architecture / case.name
            asked = request(data, facts, case, arguments.seed)
            cells = []
            for cell in compare_methods(loaded, asked, wanted, folder, settings=settings):
                cells.append(cell)
                print(f"{architecture:7s} {case.name:16s} {line(cell)}", flush=True)
            found.setdefault(f"{architecture}, {case.scenario}", []).extend(with_forget_quality(cells))
    return found


def line(cell: Mapping[str, Any]) -> str:
    """One cell in one line."""
    if "failed" in cell:
        return f"{cell['method']:16s} failed: {cell['failed']}"
    parts = [f"{cell['method']:16s} DS {number(cell.get('deviation_score'), 1):>5s}"]
    parts += [f"{title} {number(value(cell, *place))}" for title, place in COLUMNS.items()]
    return "  ".join([*parts, f"{cell['seconds']:.1f} s"])


def value(cell: Mapping[str, Any], split: str, metric: str) -> float | None:
    """The mean of one metric on one split; None where it was not measured."""
    return cell.get("scores", {}).get(split, {}).get(metric, {}).get("value")


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Mean and standard deviation over the requests that have a value."""
    known = [one for one in values if one is not None]
    if not known:
        return "–"
    return f"{statistics.fmean(known):.{digits}f}" + (
        f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    )


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one row per method, means and standard deviations over its requests."""
    columns = {
        title: place for title, place in COLUMNS.items() if any(value(cell, *place) is not None for cell in cells)
    }
    combined = {title: name for title, name in COMBINED.items() if any(cell.get(name) is not None for cell in cells)}
    titles = ["method", "requests", "DS", "DS, unseen", *columns, *combined, "seconds", "peak MiB", "changed"]
    rows = ["| " + " | ".join(titles) + " |", "| --- " * len(titles) + "|"]
    for method in dict.fromkeys(cell["method"] for cell in cells):
        mine = [cell for cell in cells if cell["method"] == method]
        done = [cell for cell in mine if "failed" not in cell]
        values = [
            f"{len(done)} of {len(mine)}",
            spread([cell.get("deviation_score") for cell in done], 1),
            spread([cell.get("deviation_score_unseen") for cell in done], 1),
            *(spread([value(cell, *place) for cell in done]) for place in columns.values()),
            *(spread([cell.get(name) for cell in done]) for name in combined.values()),
            spread([cell["seconds"] for cell in done], 1),
            spread([cell["peak_memory_bytes"] / 2**20 for cell in done], 0),
            f"{round(statistics.fmean(cell['changed_parameters'] for cell in done)):,}" if done else "–",
        ]
        rows.append(f"| {'**' + method + '**' if method in OURS else method} | " + " | ".join(values) + " |")
    return "\n".join(rows)


def plot(found: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Forget against retain, one point per method and panel; the best corner is at the top left."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lunar"
    from matplotlib import pyplot

    wide = min(len(found), len(SCENARIOS))
    high = -(-len(found) // wide)
    figure, axes = pyplot.subplots(high, wide, figsize=(4 * wide + 2, 4 * high), squeeze=False, layout="constrained")
    methods = list(dict.fromkeys(cell["method"] for cells in found.values() for cell in cells))
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    shown: dict[str, Any] = {}
    for axis, (title, cells) in zip(axes.flat, found.items(), strict=False):
        split = "retain_unseen" if any("retain_unseen" in c.get("scores", {}) for c in cells) else "retain"
        for index, method in enumerate(methods):
            pairs = [
                (value(cell, "forget", "rouge1"), value(cell, split, "rouge1"))
                for cell in cells
                if cell["method"] == method
            ]
            known = [(x, y) for x, y in pairs if x is not None and y is not None]
            if known:
                x, y = (statistics.fmean(column) for column in zip(*known, strict=True))
                # Eleven colours and markers that repeat after seven: no two methods look alike.
                marker = "*" if method in OURS else "osDXv^P"[index % 7]
                colour = "black" if method == UNTOUCHED else f"C{index % 10}"
                shown[method] = axis.scatter(x, y, s=130 if method in OURS else 45, marker=marker, color=colour)
        axis.set(title=title, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axis.set(
            xlabel="forget ROUGE-1 (lower is better)", ylabel=f"{split.replace('_', ' ')} ROUGE-1 (higher is better)"
        )
    figure.legend(shown.values(), shown.keys(), fontsize="small", loc="outside right center")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--facts", type=Path)
    parser.add_argument("--architectures", default=["llama", "gemma", "qwen2"], type=_listed)
    parser.add_argument("--scenarios", default=list(SCENARIOS), type=_listed)
    parser.add_argument("--groups", default=list(GROUPS), type=_listed)
    parser.add_argument("--validation-group", default="A_C2", help="for choosing settings; not reported")
    parser.add_argument("--methods", default="all")
    parser.add_argument(
        "--retain-only", default=[], type=_listed, help="groups without which a control is trained as well"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.scenarios) - set(SCENARIOS):
        parser.error(f"--scenarios must be some of {', '.join(SCENARIOS)}, but {', '.join(sorted(unknown))} came")
    if arguments.validation_group in arguments.groups:
        parser.error("--validation-group must not be one of --groups: settings are chosen on it")
    return arguments


def main() -> int:
    arguments = parse()
    try:
        found = run(arguments)
    except LunarError as error:
        print(error, file=sys.stderr)
        return 2
    (arguments.output / "table.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = "\n\n".join(f"### {title}\n\n{table(cells)}" for title, cells in found.items())
    (arguments.output / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(found, arguments.output / "plot.svg")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
