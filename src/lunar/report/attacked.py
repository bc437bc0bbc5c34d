"""What `lunar attack` says to people: what an attacker needs and what they get, and what was not tried. Prints only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lunar.report.sentences import MEASURED, fewer_questions

_NOTE = (
    "gets: ROUGE-1 recall of the forgotten answers under the attack, or the share that is named there. over control: "
    "that beyond what a model that never knew says under the same attack, or beyond what wrong answers to like "
    "questions score (choices: beyond those about invented names), with a 95% interval; of some questions only, where "
    "the others have no control. recovered: share of what "
    "unlearning took away. retain: the same recall on what was to be left alone; where less "
    "than half of it is left, the attack breaks the model and proves nothing."
)


def attacked(content: Mapping[str, Any], folder: Path) -> RenderableType:
    """Everything `lunar attack` says about its result."""
    run = [one for one in content["findings"] if one["not_run"] is None]
    table: list[RenderableType] = [_table(run), *map(Text, _without(run)), Text(_NOTE)] if run else []
    return Group(
        *table,
        *(Text(line) for line in (*_counts(content), *_not_run(content))),
        Text(f"Files: {folder} (report.html, attacks.json, report.json, record.jsonl)"),
        Text(content["verdict"], style="bold"),
    )


def _table(run: list[Mapping[str, Any]]) -> Table:
    """One row per attack that was carried out, the worst first."""
    table = Table(title="attacks", title_justify="left")
    table.add_column("what an attacker needs", ratio=1)
    for title in ("gets", "over control", "recovered", "retain"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in run:
        excess, recovery = one["excess"], one["recovery"]
        table.add_row(
            f"{one['attack']}{'' if one['counts'] else f' ({MEASURED})'}: {one['needs']}",
            _number(one["forget"]["value"]) + ("" if one["unit"] == "recall" else f"\n{one['unit']}"),
            "\n".join(filter(None, (_with_interval(excess), fewer_questions(one)))),
            "–" if recovery is None else f"{recovery:.0%}",
            _number(one["retain"]) + ("" if one["survives"] else "\nbroken"),
        )
    return table


def _without(run: list[Mapping[str, Any]]) -> Iterator[str]:
    """What is said without an attack, as the first finding that is scored by answers has it."""
    for finding in [one for one in run if one["unlearned"] is not None][:1]:
        yield (
            f"Without an attack: forget {_number(finding['unlearned'])} (original model "
            f"{_number(finding['original'])}), retain {_number(finding['retain_unattacked'])}."
        )


def _counts(content: Mapping[str, Any]) -> Iterator[str]:
    """What was asked, and what gives cause for doubt."""
    counts, questions = content["counts"], content["questions"]
    own = counts["forget_own_answers"]
    declined = counts["forget_declined_by_the_original"]
    yield (
        f"Asked: {questions['forget']} of {counts['forget_prompts']} forget prompts and {questions['retain']} retain "
        f"prompts from {content['retain_source']}; budget {content['budget']}, {content['seconds']:.0f} seconds."
    )
    if own:
        yield f"{own} forget prompts have no answer, so the original model's own are what was looked for."
    if declined:
        yield f"{declined} of these the original itself declines, and they were left out."
    if counts["forget_prompts_of_the_ledger"] < counts["forget_prompts"]:
        known = counts["forget_prompts_of_the_ledger"]
        yield f"Only {known} of the forget prompts are known to stand in a request of the ledger word for word."


def _not_run(content: Mapping[str, Any]) -> Iterator[str]:
    for one in content["findings"]:
        if one["not_run"] is not None:
            yield f"Not run: {one['attack']}. {one['not_run']}"
    if content["left_out"]:
        yield f"Not run, {content['left_out_because']}: {', '.join(content['left_out'])}."


def _with_interval(score: Mapping[str, Any] | None) -> str:
    """A value over its interval."""
    if score is None or score["value"] is None:
        return "–"
    return f"{score['value']:.2f}\n{score['low']:.2f} to {score['high']:.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
