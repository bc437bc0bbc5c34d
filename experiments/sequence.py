"""Erasure requests one after another on PISTOL: what is left after each, in a ledger and with LUNAR as published.

    python experiments/sequence.py --data FILE --facts FILE --output DIR [--model FOLDER] [--groups A_B,A_m,…]
        [--layer 0] [--no-reference]

The requests' groups are never in the retain data; half of the facts are, the other half is not ("facts unseen"). After
each request everything is asked again: the groups forgotten so far, the retained groups and both halves of the facts.
The published method is trained on the model that its last request left, each request with the same retain data.
`sequence.json` holds all figures and the seconds of each request, `sequence.svg` shows them; it also checks that the
order of the requests does not count, and that three and all of them can be undone, with exit code 1 where not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pistol

from lunar.baselines.lunar_reference import ReferenceSettings, lunar_reference
from lunar.baselines.task import Task
from lunar.errors import LunarError
from lunar.evaluation import Comparison, answer_records
from lunar.metrics import deviation_score
from lunar.models import LoadedModel, load_model
from lunar.prompts import reference_records
from lunar.records import Record, read_records, split_by_group
from lunar.requests.ledger import Ledger
from lunar.settings import Settings

GROUPS = "A_B,A_m,E1_F1,B_p2,A_C3,E2_q2,B_D,A_n3,E3_F3,A_C"
UNDONE = 3
SAME = 1e-6
"""Relative difference of two changes that are to be the same; of rank 0 when all requests were taken back."""


def measured(loaded: LoadedModel, splits: dict[str, list[Record]]) -> dict[str, Any]:
    """ROUGE-1 and refusals of every split, and the Deviation Score."""
    found: dict[str, Any] = {}
    for name, records in splits.items():
        answers = answer_records(loaded, records)
        scores = Comparison(records, answers, answers).scores()
        found[name] = {"rouge1": scores["rouge1"]["after"], "refusals": scores["refusal_rate"]["after"]}
    found["deviation_score"] = deviation_score(found["forget"]["rouge1"], found["retain"]["rouge1"])
    return found


def splits_of(
    forget: Sequence[Record], groups: Sequence[str], fixed: dict[str, list[Record]]
) -> dict[str, list[Record]]:
    """What is asked once these groups are forgotten."""
    return {"forget": [record for record in forget if record.group in groups], **fixed}


def asked(forget: Sequence[Record], group: str) -> list[Record]:
    """A request: the questions of a group, without their answers."""
    return [Record(record.messages) for record in forget if record.group == group]


def named(forget: Sequence[Record], group: str) -> str:
    """What a request is called: a group's own name may stand in its questions, which a request's must not."""
    return f"group-{sorted({record.group or '' for record in forget}).index(group)}"


def distance(one: Ledger, other: Ledger) -> float:
    """Relative difference of two ledgers' changes (Frobenius norm)."""
    first, second = (ledger.edit().factors[0].change() for ledger in (one, other))
    return float((first - second).norm() / second.norm().clamp_min(1e-300))


def filled(
    folder: Path, loaded: LoadedModel, forget: Sequence[Record], groups: Sequence[str], retain: Sequence[Record],
    settings: Settings,
) -> Ledger:  # fmt: skip
    """A ledger with these requests in this order."""
    first, *others = groups
    ledger = Ledger.start(
        folder, loaded, asked(forget, first), retain=retain, settings=settings, name=named(forget, first)
    )
    for group in others:
        ledger.add(loaded, asked(forget, group), retain=retain, name=named(forget, group))
    return ledger


def run_ledger(
    output: Path, loaded: LoadedModel, forget: list[Record], groups: list[str], fixed: dict[str, list[Record]],
    retain: list[Record], settings: Settings,
) -> tuple[Ledger, list[dict[str, Any]]]:  # fmt: skip
    """All requests in one ledger; what is left after each."""
    steps: list[dict[str, Any]] = []
    ledger: Ledger | None = None
    for number, group in enumerate(groups, 1):
        started = time.perf_counter()
        if ledger is None:
            ledger = filled(output / "ledger", loaded, forget, [group], retain, settings)
        else:
            ledger.add(loaded, asked(forget, group), retain=retain, name=named(forget, group))
        seconds = time.perf_counter() - started
        with ledger.edit().applied(loaded.model):
            scores = measured(loaded, splits_of(forget, groups[:number], fixed))
        steps.append({"group": group, "seconds": seconds, "rank": ledger.edit().rank, **scores})
        show("ledger", steps[-1])
    if ledger is None:
        raise LunarError("At least one group to forget was expected, but none came: give --groups.")
    return ledger, steps


def run_reference(
    loaded: LoadedModel, forget: list[Record], groups: list[str], fixed: dict[str, list[Record]], retain: list[Record]
) -> list[dict[str, Any]]:
    """The published method, each request on the model that the last one left."""
    steps = []
    now = loaded
    for number, group in enumerate(groups, 1):
        task = Task(now, asked(forget, group), retain, reference_records("unverifiable"), seed=0)
        started = time.perf_counter()
        now = lunar_reference(task, ReferenceSettings()).loaded
        seconds = time.perf_counter() - started
        scores = measured(now, splits_of(forget, groups[:number], fixed))
        steps.append({"group": group, "seconds": seconds, **scores})
        show("reference", steps[-1])
    return steps


def check_ledger(
    output: Path, ledger: Ledger, loaded: LoadedModel, forget: list[Record], groups: list[str], retain: list[Record],
    settings: Settings,
) -> dict[str, float]:  # fmt: skip
    """The order does not count, and undo is never having asked: relative differences of the changes."""
    shuffled = random.Random(0).sample(groups, len(groups))
    other = filled(output / "shuffled", loaded, forget, shuffled, retain, settings)
    found = {"order": distance(ledger, other)}
    gone = groups[1 : 1 + UNDONE]
    for group in gone:
        other.undo(named(forget, group))
    never = filled(output / "never", loaded, forget, [one for one in groups if one not in gone], retain, settings)
    found["undo_some"] = distance(other, never)
    for request in other.requests():
        other.undo(request.name)
    found["rank_after_undoing_all"] = float(other.edit().rank)
    return found


def show(method: str, step: dict[str, Any]) -> None:
    """One line per request."""
    parts = [f"{name} {step[name]['rouge1']:.3f}" for name in ("forget", "retain", "facts", "facts_unseen")]
    parts.append(f"DS {step['deviation_score']:.1f}")
    print(
        f"{method:10s} {step['group']:6s} {'  '.join(parts)}  {step['seconds']:.1f} s",
        flush=True,
    )


def plot(results: dict[str, Any], path: Path) -> None:
    """Four curves over the requests, ours and the published method's beside each other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3), layout="constrained")
    for axis, name in zip(axes, ("forget", "retain", "facts_unseen", "deviation_score"), strict=True):
        for method in ("ledger", "reference"):
            steps = results.get(method, [])
            values = [step[name] if name == "deviation_score" else step[name]["rouge1"] for step in steps]
            axis.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=method)
        axis.set_title(name.replace("_", " ") + ("" if name == "deviation_score" else ", ROUGE-1"))
        axis.set_xlabel("requests")
    axes[0].legend()
    figure.savefig(path)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--groups", default=GROUPS, help="in the order in which they are asked for")
    parser.add_argument("--model", type=Path, help="a model that knows both (default: trained, or from the cache)")
    parser.add_argument("--layer", type=pistol.layer, default="auto", help="auto (searched for), paper, or a number")
    parser.add_argument("--no-reference", action="store_true", help="leave the published method out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = parse(argv)
    try:
        data, facts = read_records(arguments.data, "data"), read_records(arguments.facts, "facts")
        groups = arguments.groups.split(",")
        forget, others = split_by_group(data, groups, "data")
        given, unseen = pistol.halve(facts, arguments.seed)
        fixed = {"retain": others, "facts": given, "facts_unseen": unseen}
        if arguments.model:
            loaded = load_model(arguments.model, device=arguments.device)
        else:
            loaded = pistol.trained_model(data, facts, arguments.device)
        settings = Settings(layer=arguments.layer, seed=arguments.seed)
        arguments.output.mkdir(parents=True)
        ledger, steps = run_ledger(arguments.output, loaded, forget, groups, fixed, [*others, *given], settings)
        results: dict[str, Any] = {"ledger": steps}
        results["checks"] = check_ledger(
            arguments.output, ledger, loaded, forget, groups, [*others, *given], ledger.shared.settings
        )
        print(results["checks"], flush=True)
        if not arguments.no_reference:
            results["reference"] = run_reference(loaded, forget, groups, fixed, [*others, *given])
    except LunarError as error:
        print(error, file=sys.stderr)
        return 2
    (arguments.output / "sequence.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    plot(results, arguments.output / "sequence.svg")
    wrong = [name for name, value in results["checks"].items() if not value <= SAME]
    if wrong:
        print(f"What was expected to be the same differs by more than {SAME}: {', '.join(wrong)}.", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
