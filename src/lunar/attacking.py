"""What `lunar attack` does: attack the edit of a ledger and note in the ledger what came back; cheapest checks first.

As `lunar.ledgers`, it refuses what it can before torch is imported, and knows neither the command line nor the
terminal. What it writes holds no prompt, no answer and no generation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lunar import preflight
from lunar.errors import LunarError
from lunar.ledgers import list_requests, model_of, retained_records
from lunar.progress import Progress
from lunar.prompts import default_retain_records, reference_records
from lunar.recipe import Recipe, reference_source
from lunar.records import Record, deduplicate, sample
from lunar.report import ATTACKS_FILE, REPORT_FILE, finite, short_name, to_json, versions
from lunar.reporting import page_after
from lunar.requests.store import Store
from lunar.workflow import load, read_data

if TYPE_CHECKING:
    from lunar.attacks import Ladder
    from lunar.models import LoadedModel
    from lunar.requests.ledger import Ledger, Texts
    from lunar.requests.state import State

RETAIN = 400
"""Retain records used at most: attacks learn from them and are asked some of them, and no more help."""
GIVEN, LEDGERS, BUILT_IN = "file", "the file that the ledger was started with", "built-in prompts"
FOUND = (
    "attack",
    "access",
    "settings",
    "forget",
    "unit",
    "counts",
    "unlearned",
    "original",
    "recovery",
    "retain",
    "retain_unattacked",
    "survives",
    "control",
    "control_kind",
    "excess",
)
"""What the record and report.json say of an attack that was carried out; attacks.json has all of it."""


@dataclass(frozen=True)
class _Sets:
    """The records of a run, and where those to be retained came from."""

    forget: Sequence[Record]
    retain: Sequence[Record]
    reference: Sequence[Record]
    retain_source: str


def attack_ledger(
    ledger: Path,
    forget: str,
    *,
    retain: str | None = None,
    groups: Sequence[str] = (),
    only: str | None = None,
    control: str | None = None,
    budget: str = "quick",
    seed: int = 0,
    device: str | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Attack a ledger's edit, and write what came back into it; the content of its attacks.json.

    Args:
        ledger: the folder.
        forget: what was forgotten; where a prompt has no answer, the original model's own is what is looked for.
        retain: what was to be left alone. By default the file that the ledger was started with, where that is still
            there, else the built-in prompts; without answers, the original's own.
        groups: groups of `forget` that were forgotten; the others are retained where `retain` is not given.
        only: names of attacks, separated by commas; None for all, where the budget is quick without the costly ones.
        control: a model that never knew; without one, wrong answers to like questions show what chance brings.
        budget: "quick" or "full".
        seed: for halves, samples and the order of batches.
        device: where the models run.
        progress: called with each stage.
    """
    _check_folder(ledger)
    names = _names(only)
    model = model_of(ledger)
    sets = _read(ledger, model, forget, retain, groups)
    layer = int(Store.open(ledger).content["shared"]["site"]["layer"])
    preflight.check_model(
        model, layer, {"forget": sets.forget, "retain": sets.retain, "reference": sets.reference}, device=device
    )
    if control is not None:
        preflight.check_model(control, None, {"forget": sets.forget}, device=device)
    from lunar.attacks import attack, run_attacks
    from lunar.attacks.attack import budget_of
    from lunar.requests.ledger import Ledger

    chosen = None if names is None else [attack(name).name for name in names]
    budget_of(budget)
    opened, started = Ledger(ledger), time.perf_counter()
    with opened.locked():
        state, edit = opened.state(), opened.edit()
        loaded = load(model, device, progress)
        asked, counts = _asked(loaded, sets, state, seed, progress)
        ladder = run_attacks(
            loaded,
            edit,
            asked.forget,
            asked.retain,
            chosen,
            control=None if control is None else load(control, device, progress),
            reference=asked.reference,
            seed=seed,
            budget=budget,
            progress=progress,
        )
        sources = {"model": model, "forget": forget, "retain": retain, "control": control}
        about = {
            "edit": opened.edit_hash(),
            "requests": [one.id for one in opened.requests()],
            "counts": counts,
            "retain_source": sets.retain_source,
            "sources": {name: short_name(source) for name, source in sources.items() if source is not None},
            "seconds": round(time.perf_counter() - started, 1),
        }
        content = _content(ladder, about)
        opened.note("attack", _entry(content, state), _files(ledger, opened, content))
    return content


# Before torch


def _check_folder(ledger: Path) -> None:
    """Raise LunarError where there is nothing to attack, or attacks.json is somebody else's."""
    if not list_requests(ledger):
        raise LunarError(
            f"The ledger {ledger} holds no request, so there is nothing to attack: the model is as it was."
        )
    if (ledger / ATTACKS_FILE).exists() and ATTACKS_FILE not in Store.open(ledger).files:
        raise LunarError(f"{ledger / ATTACKS_FILE} would be overwritten, but is not the ledger's: move it away.")


def _names(only: str | None) -> list[str] | None:
    if only is None:
        return None
    names = [name.strip() for name in only.split(",")]
    if not all(names):
        raise LunarError("Names of attacks separated by commas were expected, but one of them is empty: correct it.")
    return names


def _read(ledger: Path, model: str, forget: str, retain: str | None, groups: Sequence[str]) -> _Sets:
    """The records as they are given, or as the ledger's recipe names them where its files are still there."""
    data = read_data(Recipe(model, forget, retain, forget_groups=tuple(groups)))
    given, source = data.retain, GIVEN
    if given is None:
        asked = {record.messages for record in data.forget}
        started_with = [one for one in retained_records(ledger) or () if one.messages not in asked]
        given, source = (started_with, LEDGERS) if started_with else (default_retain_records(data.forget), BUILT_IN)
    return _Sets(deduplicate(data.forget), deduplicate(given), _reference(ledger), source)


def _reference(ledger: Path) -> Sequence[Record]:
    """The reference prompts that the ledger was started with, or the usual ones where these are gone."""
    try:
        return reference_records(reference_source(ledger))
    except LunarError:
        return reference_records(Recipe.reference)


# With the model


def _asked(
    loaded: LoadedModel, sets: _Sets, state: State, seed: int, progress: Progress
) -> tuple[_Sets, dict[str, int]]:
    """The records with answers, the original's own where none is given, and how many of each kind there are.

    Left out are prompts that the original itself declines, since nothing can come back for them, and retain prompts
    that a request of the ledger forgets. Raises LunarError where no forget prompt is left.
    """
    from lunar.evaluation import own_answers
    from lunar.metrics.refusal import is_refusal
    from lunar.requests.record import prompt_id

    forgotten = state.joint.forgotten()
    spared = [one for one in sets.retain if prompt_id(state.key, one) not in forgotten]
    chosen = sample(spared, RETAIN, f"{seed} attacked")
    forget = own_answers(loaded, sets.forget, name="forget", progress=progress)
    known = [
        one
        for one, given in zip(forget, sets.forget, strict=True)
        if given.answer or (one.answer and not is_refusal(one.answer))
    ]
    if not known:
        raise LunarError(
            "The forget records have no answers and the original model declines all of them, so there is nothing that "
            "could come back: add the answers that were forgotten."
        )
    retain = own_answers(loaded, chosen, name="retain", progress=progress)
    counts = {
        "forget_prompts": len(sets.forget),
        "forget_prompts_of_the_ledger": sum(prompt_id(state.key, one) in forgotten for one in sets.forget),
        "forget_own_answers": sum(not one.answer for one in sets.forget),
        "forget_declined_by_the_original": len(forget) - len(known),
        "retain_prompts": len(sets.retain),
        "retain_prompts_forgotten_by_a_request": len(sets.retain) - len(spared),
        "retain_prompts_used": len(chosen),
        "retain_own_answers": sum(not one.answer for one in chosen),
    }
    return replace(sets, forget=known, retain=retain), counts


# What is written


def _content(ladder: Ladder, about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of attacks.json."""
    from lunar.attacks.attack import BUDGETS
    from lunar.attacks.verdict import EXCESS, verdict

    found = ladder.as_dict()
    return finite(
        {
            "verdict": verdict(ladder),
            "excess_that_counts": EXCESS,
            **about,
            "budget": ladder.budget,
            "budget_allows": asdict(BUDGETS[ladder.budget]),
            "seed": ladder.seed,
            "questions": {"forget": ladder.forget_questions, "retain": ladder.retain_questions},
            "findings": found["findings"],
            "left_out": found["left_out"],
            "left_out_because": found["left_out_because"],
            "versions": versions(),
        }
    )


def run_and_not_run(content: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The attacks that were carried out, with their scores, and those that were not, with the reason."""
    findings: Iterable[Mapping[str, Any]] = content["findings"]
    because = content["left_out_because"]
    refused = [{"attack": one["attack"], "reason": one["not_run"]} for one in findings if one["not_run"]]
    return {
        "run": [{name: one[name] for name in FOUND} for one in findings if not one["not_run"]],
        "not_run": [*refused, *({"attack": name, "reason": because} for name in content["left_out"])],
    }


def _entry(content: Mapping[str, Any], state: State) -> dict[str, Any]:
    """What the record says."""
    kept = {name: content[name] for name in ("requests", "counts", "questions", "budget", "seed", "verdict")}
    return {
        **kept,
        "model": state.shared.hashes,
        "edit": {"before": content["edit"], "after": content["edit"]},
        "attacks": run_and_not_run(content),
    }


def _files(ledger: Path, opened: Ledger, content: Mapping[str, Any]) -> Texts:
    """attacks.json, report.json with a word of it where there is one, and the page."""
    files: dict[str, Any] = {ATTACKS_FILE: to_json(content)}
    text = opened.text(REPORT_FILE)
    report = {} if text is None else json.loads(text)
    if text is not None:
        said = {"file": ATTACKS_FILE, "verdict": content["verdict"], "budget": content["budget"]}
        report["attacks"] = {**said, **run_and_not_run(content)}
        files[REPORT_FILE] = to_json(report)
    return {**files, **page_after(ledger, opened.requests(), report=report, attacks=content)}
