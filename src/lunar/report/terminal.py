"""Results for people: tables of scores, example answers, and what to do next. Prints results, computes none."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lunar.report.elements import count
from lunar.report.narrow import fitting
from lunar.report.sentences import earlier, of_target
from lunar.select.choice import strength_shown

# Two metrics, so that the names of splits stay on one line of a terminal of 80 columns; report.json has all of them.
_METRICS = {"rouge1": "ROUGE-1", "refusal_rate": "coherent refusals"}


def scores_table(report: Mapping[str, Any]) -> Table:
    """One row per split: its questions and the two main metrics before and after; a dash where no answers are known.

    Where the answers to only some questions are known, it says to how many: ROUGE-1 is theirs.
    """
    table = Table(title="before → after", title_justify="left")
    table.add_column("split")
    table.add_column("questions", justify="right")
    for title in _METRICS.values():
        table.add_column(title, justify="right")
    for split, scores in report["scores"].items():
        values = [_change(scores[metric]) for metric in _METRICS]
        asked = report["questions"][split]
        known = report.get("known_answers", {}).get(split, asked)
        shown = f"{asked} ({known} with answer)" if 0 < known < asked else str(asked)
        table.add_row(split.replace("_", " "), shown, *values)
    return table


def deviation_line(report: Mapping[str, Any]) -> str:
    """The Deviation Score before and after, or why there is none."""
    score = report.get("deviation_score", {})
    if score.get("before") is None:
        return "Deviation Score: – (it needs answers to both the forget and the retain prompts)"
    return f"Deviation Score: {_change(score, 1)} (0 is best)"


def _change(values: Mapping[str, float | None], digits: int = 3) -> str:
    shown = ["–" if values[moment] is None else f"{values[moment]:.{digits}f}" for moment in values]
    return "–" if set(shown) == {"–"} else " → ".join(shown)


def unlearned(report: Mapping[str, Any], folder: Path, model: str) -> RenderableType:
    """Everything `lunar unlearn` says about its result."""
    counts, matrix, gate = report["counts"], report["matrix"], report["gate"]["leave_one_out"]
    built_in = report["retain_source"] != "file"
    retained = f"{counts['retain_prompts']} {'built-in general ' if built_in else ''}prompts"
    note = (
        "No retain data was given, so built-in prompts of general knowledge stood in for it; retain data near what is "
        "forgotten spares more."
    )
    lines = [
        f"Forgot {count(counts['forget_prompts'], 'prompt')}, retained {retained} and "
        f"{counts['neighbour_prompts']} like the forgotten ones about other names, towards the answers to "
        f"{count(counts['reference_prompts'], 'reference prompt')}.",
        *([note] if built_in else []),
        f"Edited layer {matrix['layer']}, {matrix['module_name']} {matrix['shape']}, rank {matrix['rank']}, target "
        f"{report['settings']['target']}: {matrix['stored_numbers']} numbers{_beside(matrix)}.",
        *_instead_of_mlp(matrix),
        *_resumed(report["resumed"]),
        *(chosen(report["choice"]) if report["choice"] else []),
        *of_target(report),
        *report.get("warnings", ()),
    ]
    seen = (
        f"Forget prompts left out once each would still be recognised by {_number(gate['median'])} (median) and "
        f"{_number(gate['minimum'])} (minimum); 1 is full, 0 not at all."
    )
    return Group(
        *(Text(line) for line in lines),
        scores_table(report),
        Text(deviation_line(report)),
        # Without the only prompt nothing is left to recognise it by.
        *([Text(seen)] if counts["forget_prompts"] > 1 else []),
        files(folder, model),
    )


def _beside(matrix: Mapping[str, Any]) -> str:
    """Which matrices a threshold has changed besides."""
    others = matrix.get("others") or []
    return f", with those of {', '.join(others)}" if others else ""


def _instead_of_mlp(matrix: Mapping[str, Any]) -> list[str]:
    """What is edited where the layer's MLP has no single matrix, in a sentence."""
    if matrix["part"] == "MLP":
        return []
    return [f"The layer is a mixture of experts; its {matrix['part']} is what was edited."]


def _resumed(resumed: Mapping[str, int]) -> list[str]:
    """What an interrupted run had done already, in a sentence."""
    done = ", ".join(f"{count} of the {name} stage" for name, count in resumed.items())
    return [f"Went on with a run that was interrupted: prompts added up before were {done}."] if done else []


def chosen(choice: Mapping[str, Any]) -> list[str]:
    """Why this layer and strength, and what gives cause for doubt, in sentences."""
    cost = f"The search cost {choice['passes']:.1f} full passes over the data."
    return [f"{choice['reason']} {cost}", *choice["warnings"]]


def layers_table(choice: Mapping[str, Any]) -> Table:
    """One row per layer: how well it separates, and what its best trial reached; a dash where none was made."""
    table = Table(title="layers", title_justify="left")
    table.add_column("layer", justify="right")
    for title in ("separability", "strength", "refusal reached", "retain KL", "chosen"):
        table.add_column(title, justify="right")
    tried = {trial["layer"]: trial for trial in choice["trials"] if trial["retain_divergence"] is not None}
    for line in choice["profile"]:
        trial = tried.get(line["layer"])
        cells = ("–", "–", "–")
        if trial is not None:
            cells = (strength_shown(trial), f"{trial['redirected']:.2f}", f"{trial['retain_divergence']:.4f}")
        mark = "yes" if line["layer"] == choice["layer"] and not choice.get("obstacles") else ""
        table.add_row(str(line["layer"]), _number(line["ordered"]), *cells, mark)
    return table


def inspected(choice: Mapping[str, Any], plot: Path | None) -> RenderableType:
    """Everything `lunar inspect` says."""
    note = (
        "separability: share of pairs in which an unseen forget prompt is told from an unseen retain prompt, 0.5 is "
        "chance; refusal reached: share of the forget prompts; retain KL: nats per token on held-out retain prompts."
    )
    drawn = [Text(f"Plot: {plot}")] if plot is not None else []
    said = [f"lunar unlearn would refuse. {obstacle}" for obstacle in choice.get("obstacles", ())] or chosen(choice)
    return Group(layers_table(choice), Text(note), *(Text(line) for line in said), *drawn)


def added(report: Mapping[str, Any], folder: Path) -> RenderableType:
    """Everything `lunar unlearn` says about one more request in a ledger."""
    counts, matrix, request = report["counts"], report["matrix"], report["request"]
    undo = shlex.join(["lunar", "undo", str(folder), request["name"]])
    back = f"Take it back: {undo}" if request["kept"] else "It cannot be taken back: nothing else was kept of it."
    lines = [
        f"Forgot {count(counts['forget_prompts'], 'prompt')} more as {request['name']}, with "
        f"{counts['neighbour_prompts']} like them about other names left alone; "
        f"{count(len(report['requests']), 'request')} in {folder} now.",
        f"Edited {matrix['module_name']}, rank {matrix['rank']}: {matrix['stored_numbers']} numbers.",
        *_instead_of_mlp(matrix),
    ]
    if counts.get("released"):
        lines.append(
            f"Until it is taken back, {count(counts['released'], 'retain prompt')} that named the same "
            f"{_were(counts['released'])} let go."
        )
    if report["neighbour_names"] == "invented":
        lines.append(
            "The names in those are invented, as the retain file that the ledger was started with is not where it was, "
            "has changed, or holds no other names. If this was about somebody in it, they may still be answered in its "
            "words: --retain FILE gives it."
        )
    lines += [*report["warnings"], *stale_exports(report["stale_exports"], len(report["requests"]))]
    held = [Text(line) for lines in earlier(report) for line in lines]
    return Group(*(Text(line) for line in lines), scores_table(report), *held, Text(back))


def stale_exports(stale: Mapping[str, int], requests: int) -> list[str]:
    """What was exported while the edit was another, in one sentence; nothing where there is none."""
    if not stale:
        return []
    names = {"adapter": "adapter", "merged": "merged checkpoint"}
    made = " and ".join(count(number, names[kind]) for kind, number in stale.items())
    do = "export again what is in use" if requests else "use the original model instead, as no request holds"
    return [f"The ledger has another edit than when {made} {_were(sum(stale.values()))} exported: {do}."]


def verified(result: Mapping[str, Any], ledger: Path, merged: Path | None) -> Text:
    """What `lunar verify` says where nothing was changed."""
    lines = [
        f"{ledger} is as it was written: {count(result['requests'], 'request')}, "
        f"{count(result['entries'], 'entry', 'entries')} in the record, the last {str(result['head'])[:12]}. "
        f"The model's files: {result['model']}."
    ]
    if merged is not None:
        lines.append(f"{merged}: every byte is as expected, the model's with the edit of this ledger.")
    return Text("\n".join(lines))


def exported(name: str, folder: Path | None, said: Mapping[str, Any]) -> Text:
    """What came of an export, in two sentences."""
    moved = (
        f"Loaded again, it moves the logits by {said['effect']['moved']:.2g} of their spread along the edit's detector."
    )
    if name == "adapter":
        return Text(f"Adapter of rank {said['rank']} in {folder}. {moved}")
    least = min(said["realised"].values())
    return Text(f"Model in {folder}; {least:.0%} of the change is left after rounding. {moved}")


def requests_table(requests: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The requests of a ledger, oldest first."""
    if not requests:
        return Text("The ledger holds no request: the model is as it was.")
    table = Table(title="requests", title_justify="left")
    for title in ("name", "prompts", "asked (UTC)", "can be undone"):
        table.add_column(title, justify="right" if title == "prompts" else "left")
    for one in requests:
        table.add_row(
            one["name"], str(one["prompts"]), one["time"][:16].replace("T", " "), "yes" if one["kept"] else "no"
        )
    return table


def files(folder: Path, model: str) -> Text:
    """Where the output is and how to try it."""
    command = shlex.join(["lunar", "ask", model, "--edit", str(folder)])
    return Text(
        f"Files: {folder} (report.html, report.json, edit.safetensors, edit.json, recipe.toml; as sensitive as the "
        "data: ledger.json, kept, record.*)\n"
        f'Try it: {command} "a question"'
    )


def prompts_written(result: Mapping[str, Any], model: str) -> RenderableType:
    """Everything `lunar prompts` says."""
    output, retain, kept = result["output"], result["retain_output"], result["kept"]
    named = [] if result["retain_is_named"] else ["--retain", retain]
    command = shlex.join(["lunar", "unlearn", model, "--forget", output, *named, "--output", "forgotten"])
    return Text(
        f"Asked {count(result['asked'], 'question')} about the {result['kind']}; {kept} "
        f"{'is' if kept == 1 else 'are'} answered surely, the same in other words and not as about an invented name, "
        f"with {count(result['answers'], 'different answer')}: {output}\n"
        f"{count(result['neighbours'], 'question')} about {count(result['neighbour_names'], 'other name')} and "
        f"{result['general']} general ones must stay answered: {retain}\n"
        f"Look through both: take out what is wrong, add what is missing. Then: {command}"
    )


def comparison_table(cells: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One row per method: what is left of the forget and the retain set, and what it cost; failures in words."""
    table = Table(title="methods compared", title_justify="left")
    table.add_column("method", no_wrap=True)
    for title in ("forget", "retain", "DS", "refusals", "extracted", "seconds", "changed"):
        table.add_column(title, justify="right")
    failed = []
    for cell in cells:
        if "failed" in cell:
            failed.append(Text(f"{cell['method']} failed: {cell['failed']}"))
            continue
        forget, retain = cell["scores"]["forget"], cell["scores"]["retain"]
        score = cell["deviation_score"]
        table.add_row(
            cell["method"],
            _metric(forget, "rouge1"),
            _metric(retain, "rouge1"),
            "–" if score is None else f"{score:.1f}",
            _metric(forget, "refusal_rate"),
            _metric(forget, "extraction_strength"),
            f"{cell['seconds']:.1f}",
            f"{cell['changed_parameters']:,}",
        )
    stored = {cell["method"]: cell["settings"].get("stored_numbers") for cell in cells if "failed" not in cell}
    sizes = ", ".join(f"{name} as {number:,}" for name, number in stored.items() if number)
    note = Text(
        "forget and retain: ROUGE-1 recall; DS: Deviation Score, 0 is best; refusals: coherent, on the forget set; "
        "extracted: share of a forget answer that comes back once its beginning is given; changed: numbers in the "
        "model that differ" + (f", of which these edits can be stored as fewer: {sizes}." if sizes else ".")
    )
    return Group(table, *failed, note)


def _metric(scores: Mapping[str, Any], name: str) -> str:
    value = scores.get(name, {}).get("value")
    return "–" if value is None else f"{value:.3f}"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def side_by_side(question: str, before: str, after: str | None) -> RenderableType:
    """The answers to one question."""
    # Not as the table's title, which would be wrapped to the width of the answers.
    table = Table()
    table.add_column("answer" if after is None else "before", ratio=1)
    cells = [Text(before)]
    if after is not None:
        table.add_column("after", ratio=1)
        cells.append(Text(after))
    table.add_row(*cells)
    return Group(Text(question), table)


def examples_table(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    """Split, question, answers before and after of a few questions."""
    table = Table(title="examples", title_justify="left", show_lines=False)
    for title in ("split", "question", "before", "after"):
        table.add_column(title, ratio=1 if title == "split" else 2)
    previous = None
    for split, *cells in rows:
        if previous not in (None, split):
            table.add_section()
        table.add_row(split.replace("_", " ") if split != previous else "", *(Text(cell) for cell in cells))
        previous = split
    return table


def show(*renderables: RenderableType) -> None:
    """Print to standard output."""
    console = Console(highlight=False)
    for renderable in renderables:
        console.print(fitting(renderable))
