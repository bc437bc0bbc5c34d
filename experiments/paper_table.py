"""The paper's comparison: methods × architectures × forget sets, one resumable command.

    python experiments/paper_table.py --data FILE [--facts FILE] --output DIR [--architectures llama,gemma,qwen2]
        [--scenarios all,half,three,single] [--groups A_B,A_m,…] [--requests 3] [--retain-only A_B] [--methods all]
        [--rows FILE] [--device cuda]

Trains a model of each architecture that knows the file (experiments/pistol.py; cached), chooses each method's settings
by a search of its declared candidates on a validation group that is not reported, and runs every method on every group.
A finished cell is a file in DIR/cells and is not run again. Afterwards DIR holds `rows.json` (a row per cell),
`table.md` and `plot.svg` (forget against retain, one point per method). What `--rows` holds already, from another
machine or day, is not run again either and stands in the table with the rest. The scenarios:

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pistol

from lunar.baselines.retain_only import RetainOnlySettings
from lunar.comparison import OURS, UNTOUCHED, Request, compare_methods, kept, search_all, with_forget_quality
from lunar.errors import LunarError
from lunar.metrics import mean
from lunar.models import LoadedModel
from lunar.prompts import reference_records
from lunar.records import Record, read_records, split_by_group
from lunar.report import versions
from lunar.settings import RETAIN_ONLY, method_names

SCENARIOS = ("all", "half", "three", "single")
SHARES = {"all": 1.0, "half": 0.5, "tenth": 0.1}
"""Of the other groups, what is given as retain data; "three" gives all of them, "single" one."""
GROUPS = ("A_B", "A_m", "E1_F1", "B_p2", "A_C3")
ROWS_FILE = "rows.json"
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
WHOLE = {
    "DS": "deviation_score",
    "DS, unseen": "deviation_score_unseen",
    "utility": "model_utility",
    "forget quality": "forget_quality",
    "seconds": "seconds",
    "changed": "changed_parameters",
}
ORDER = ("DS", "DS, unseen", *COLUMNS, "utility", "forget quality", "seconds", "peak MiB", "changed")
SUMMARISED, PAPER = ("shift", "gated"), "lunar-reference"
"""Ours in the summary, the default first; and LUNAR as published."""
CONTROLS = (PAPER, "prompt", RETAIN_ONLY)
"""Not baselines of the literature: LUNAR as published has a column of its own, and the others bound what can be had."""
DIGITS = {"DS": 1, "DS, unseen": 1, "seconds": 1, "peak MiB": 0}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One request of the table: the groups to forget, and which scenario it belongs to."""

    scenario: str
    groups: tuple[str, ...]

    @property
    def name(self) -> str:
        """For folders."""
        return f"{self.scenario}-{'+'.join(self.groups)}"


def cases(scenarios: Sequence[str], groups: Sequence[str], requests: int | None = None) -> Iterator[Case]:
    """The first so many requests of every scenario (all of them for None), one of each before the next of any.

    Three groups at once begin with each of the groups in turn.
    """
    for index, group in enumerate(groups[:requests]):
        for scenario in scenarios:
            if scenario == "three":
                yield Case(scenario, tuple(groups[(index + offset) % len(groups)] for offset in range(3)))
            else:
                yield Case(scenario, (group,))


def request(data: Sequence[Record], facts: Sequence[Record], case: Case, seed: int) -> Request:
    """What the methods get and what is measured; half of the facts are never given."""
    forget, others = split_by_group(data, list(case.groups), "data")
    count = len({record.group for record in others})
    share = (SHARES | {"single": 1 / count}).get(case.scenario, 1.0)
    retain, unseen = pistol.divide(others, share, seed)
    given, left_out = pistol.halve(facts, seed)
    splits = {"forget": forget, "retain": retain, "retain_unseen": unseen, "facts_unseen": left_out}
    reference = reference_records("unverifiable")
    return Request(forget, [*retain, *given], reference, {k: v for k, v in splits.items() if v}, seed)


def run(arguments: argparse.Namespace, rows: dict[tuple[str, ...], Row]) -> None:
    """Run what is not among the rows yet and add it to them; each cell is printed when it is there."""
    data = read_records(arguments.data, "data")
    facts = read_records(arguments.facts, "facts") if arguments.facts else []
    names = method_names(arguments.methods)
    for architecture in arguments.architectures:
        missing = {
            case: wanted
            for case in cases(arguments.scenarios, arguments.groups, arguments.requests)
            if (wanted := _missing(rows, architecture, case, names, arguments.retain_only))
        }
        if not missing:
            continue
        loaded = pistol.trained_model(data, facts, arguments.device, architecture)
        validation = request(data, facts, Case("all", (arguments.validation_group,)), arguments.seed)
        needed = [name for name in names if any(name in wanted for wanted in missing.values())]
        chosen = search_all(loaded, validation, needed, arguments.output / "search" / architecture)
        for case, wanted in missing.items():
            settings = dict(chosen)
            if RETAIN_ONLY in wanted:
                rest = [record for record in data if record.group not in case.groups]
                settings[RETAIN_ONLY] = RetainOnlySettings(
                    pistol.trained_model(rest, facts, arguments.device, architecture)
                )
            folder = arguments.output / "cells" / architecture / case.name
            asked = request(data, facts, case, arguments.seed)
            cells = []
            for cell in compare_methods(loaded, asked, wanted, folder, settings=settings):
                cells.append(cell)
                print(f"{architecture:7s} {case.name:16s} {line(cell)}", flush=True)
            for measured in with_forget_quality(cells):
                one = row(architecture, case, measured)
                rows[key(one)] = one
            write(arguments.output / ROWS_FILE, rows)


def _missing(
    rows: Mapping[tuple[str, ...], Row], architecture: str, case: Case, names: Sequence[str], controlled: Sequence[str]
) -> list[str]:
    """The methods of a case that have no row yet, with the control where it is wanted."""
    control = [RETAIN_ONLY] if case.scenario == "all" and case.groups[0] in controlled else []
    return [name for name in (*names, *control) if (architecture, case.name, name) not in rows]


def row(architecture: str, case: Case, cell: Mapping[str, Any]) -> dict[str, Any]:
    """What the table needs to know of a cell, with what it was made by."""
    found: dict[str, Any] = {"architecture": architecture, "scenario": case.scenario, "groups": list(case.groups)}
    # Those of the control are the folder of a model on this machine.
    settings = None if cell["method"] == RETAIN_ONLY else cell.get("settings")
    found |= {"method": cell["method"], "settings": settings, "date": datetime.now(UTC).date().isoformat()}
    found |= {name: version for name, version in versions().items() if name in ("lunar", "torch")}
    if "failed" in cell:
        return found | {"failed": cell["failed"]}
    values = {title: cell.get(name) for title, name in WHOLE.items()}
    values |= {title: value(cell, *place) for title, place in COLUMNS.items()}
    values["peak MiB"] = cell["peak_memory_bytes"] / 2**20
    return found | {"values": {title: values[title] for title in ORDER if values[title] is not None}}


def finished(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The content of a cell's file; made and written, whole or not at all, where there is none yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        kept.write(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def key(one: Row) -> tuple[str, ...]:
    """What no two rows have in common."""
    return one["architecture"], Case(one["scenario"], tuple(one["groups"])).name, one["method"]


def read(path: Path | None) -> dict[tuple[str, ...], Row]:
    """The rows of a file by their keys."""
    if path is None:
        return {}
    try:
        return {key(one): one for one in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LunarError(f"{path} was expected to hold rows of the table, but cannot be read: {error!r}.") from error


def write(path: Path, rows: Mapping[tuple[str, ...], Row]) -> None:
    """A line for each row, so that changes can be read."""
    text = ",\n".join(json.dumps(one) for one in rows.values())
    path.write_text(f"[\n{text}\n]\n", encoding="utf-8")


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


def panels(rows: Mapping[tuple[str, ...], Row]) -> dict[str, list[Row]]:
    """The rows of each table: by architecture and scenario."""
    found: dict[str, list[Row]] = {}
    for scenario in SCENARIOS:
        for one in rows.values():
            if one["scenario"] == scenario:
                found.setdefault(f"{one['architecture']}, {scenario}", []).append(one)
    return dict(sorted(found.items(), key=lambda item: item[0].split(",")[0]))


def by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each method: the untouched model first, then ours, then the others as they come."""
    names = list(dict.fromkeys(one["method"] for one in rows))
    names.sort(key=lambda name: (name != UNTOUCHED, name not in OURS))
    return {name: [one for one in rows if one["method"] == name] for name in names}


def column(rows: Sequence[Row], title: str) -> list[float | None]:
    return [one.get("values", {}).get(title) for one in rows]


def table(rows: Sequence[Row]) -> str:
    """Markdown: one line per method, means and standard deviations over its requests."""
    titles = [title for title in ORDER if any(one is not None for one in column(rows, title))]
    lines = ["| " + " | ".join(["method", "requests", *titles]) + " |", "| --- " * (len(titles) + 2) + "|"]
    for method, mine in by_method(rows).items():
        done = [one for one in mine if "failed" not in one]
        values = [f"{len(done)} of {len(mine)}"]
        for title in titles:
            found = column(done, title)
            if title == "changed":
                known = [one for one in found if one is not None]
                values.append(f"{round(statistics.fmean(known)):,}" if known else "–")
            else:
                values.append(spread(found, DIGITS.get(title, 3)))
        lines.append(f"| {'**' + method + '**' if method in OURS else method} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def summary(found: Mapping[str, Sequence[Row]]) -> str:
    """Markdown: a line for each table, our methods' Deviation Scores beside the best baseline's and the paper's.

    Where groups were left out of the retain data, retain is measured on those. In brackets the share of coherent
    refusals, without which a low score is worth little. How many times lower goes by the first of ours.
    """
    lines = [f"| | score | {' | '.join(SUMMARISED)} | best of the literature | times lower | {PAPER} | times lower |"]
    lines.append("| --- " * (6 + len(SUMMARISED)) + "|")
    for title, rows in found.items():
        score = "DS, unseen" if any(one is not None for one in column(rows, "DS, unseen")) else "DS"
        means = {
            method: (mean(column(mine, score)), mean(column(mine, "refusals")))
            for method, mine in by_method(rows).items()
        }
        others = {name: pair[0] for name, pair in means.items() if name not in (*OURS, UNTOUCHED, *CONTROLS)}
        literature = {name: value for name, value in others.items() if value is not None}
        best = min(literature, key=literature.__getitem__, default="")
        cells = [title, score, *(_pair(means.get(name)) for name in SUMMARISED), f"{best} {_pair(means.get(best))}"]
        cells += [_ratio(means, best), _pair(means.get(PAPER)), _ratio(means, PAPER)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _pair(pair: tuple[float | None, float | None] | None) -> str:
    score, refusals = pair or (None, None)
    return "–" if score is None else f"{score:.1f} ({number(refusals, 2)})"


def _ratio(means: Mapping[str, tuple[float | None, float | None]], other: str) -> str:
    ours, value = means.get(SUMMARISED[0], (None,))[0], means.get(other, (None,))[0]
    return number(value / ours if ours and value is not None else None, 1)


def plot(found: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Forget against retain, one point per method and panel; the best corner is at the top left."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lunar"
    from matplotlib import pyplot

    wide = min(len(found), len(SCENARIOS))
    high = -(-len(found) // wide)
    figure, axes = pyplot.subplots(high, wide, figsize=(4 * wide + 2, 4 * high), squeeze=False, layout="constrained")
    methods = list(by_method([one for rows in found.values() for one in rows]))
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    shown: dict[str, Any] = {}
    for axis, (title, rows) in zip(axes.flat, found.items(), strict=False):
        unseen = any(one is not None for one in column(rows, "retain unseen"))
        across = "retain unseen" if unseen else "retain ROUGE-1"
        for method, mine in by_method(rows).items():
            pairs = zip(column(mine, "forget ROUGE-1"), column(mine, across), strict=True)
            known = [(x, y) for x, y in pairs if x is not None and y is not None]
            if known:
                x, y = (statistics.fmean(values) for values in zip(*known, strict=True))
                # Ten colours and markers that repeat after seven: no two methods look alike.
                index = methods.index(method)
                marker = "*" if method in OURS else "osDXv^P"[index % 7]
                colour = "black" if method == UNTOUCHED else f"C{index % 10}"
                shown[method] = axis.scatter(x, y, s=130 if method in OURS else 45, marker=marker, color=colour)
        axis.set(title=title, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        part = "groups not given" if unseen else "groups given"
        axis.set(xlabel="forget ROUGE-1 (lower is better)", ylabel=f"ROUGE-1 on {part} (higher is better)")
    figure.legend(shown.values(), shown.keys(), fontsize="small", loc="outside right center")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def one_architecture(description: str | None) -> argparse.ArgumentParser:
    """The arguments of an experiment on a single model."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--facts", type=Path)
    parser.add_argument("--architecture", default="llama")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True)
    return parser


def trained(arguments: argparse.Namespace) -> tuple[list[Record], list[Record], LoadedModel]:
    """The data and the facts of these arguments, and the model that knows both."""
    data = read_records(arguments.data, "data")
    facts = read_records(arguments.facts, "facts") if arguments.facts else []
    return data, facts, pistol.trained_model(data, facts, arguments.device, arguments.architecture)


def one_share(description: str | None) -> argparse.Namespace:
    """The arguments of an experiment on some groups of which one share of the others is given."""
    parser = one_architecture(description)
    parser.add_argument("--share", default="half", choices=list(SHARES))
    parser.add_argument("--groups", default=list(GROUPS), type=listed)
    return parser.parse_args()


def by_group(
    arguments: argparse.Namespace,
    cell: Callable[[LoadedModel, Request], dict[str, Any]],
    table: Callable[[dict[str, dict[str, Any]]], str],
) -> int:
    """A cell for each group, those of earlier runs from their files, and the table; the exit code."""
    try:
        data, facts, loaded = trained(arguments)
        cells = {}
        for group in arguments.groups:
            asked = request(data, facts, Case(arguments.share, (group,)), arguments.seed)
            path = arguments.output / "cells" / f"{arguments.architecture}-{arguments.share}-{group}.json"
            cells[group] = finished(path, partial(cell, loaded, asked))
            print(f"{group:8s} {cells[group]}", flush=True)
    except LunarError as error:
        print(error, file=sys.stderr)
        return 2
    text = table(cells)
    (arguments.output / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--facts", type=Path)
    parser.add_argument("--architectures", default=["llama", "gemma", "qwen2"], type=listed)
    parser.add_argument("--scenarios", default=list(SCENARIOS), type=listed)
    parser.add_argument("--groups", default=list(GROUPS), type=listed)
    parser.add_argument("--requests", type=int, help="only the first so many of each scenario")
    parser.add_argument("--rows", type=Path, help="rows.json of earlier runs: not run again, and in the table")
    parser.add_argument("--validation-group", default="A_C2", help="for choosing settings; not reported")
    parser.add_argument("--methods", default="all")
    parser.add_argument(
        "--retain-only", default=[], type=listed, help="groups without which a control is trained as well"
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
        rows = read(arguments.rows)
        arguments.output.mkdir(parents=True, exist_ok=True)
        run(arguments, rows)
    except LunarError as error:
        print(error, file=sys.stderr)
        return 2
    write(arguments.output / ROWS_FILE, rows)
    found = panels(rows)
    text = "\n\n".join([summary(found), *(f"### {title}\n\n{table(mine)}" for title, mine in found.items())])
    (arguments.output / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(found, arguments.output / "plot.svg")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
