"""Is a ledger what it says it is? Hashes of its files, the chain of its record, and its edit solved again.

What is looked at is what the folder itself holds: whoever can write there can make all of it anew, key included. To be
safe from that, keep the record's last hash somewhere else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from lunar.checkpoints import find_checkpoint
from lunar.errors import LunarError
from lunar.requests.changes import edit_of_all, reached
from lunar.requests.ledger import Ledger
from lunar.requests.provenance import checkpoint_hashes
from lunar.requests.record import git_commit
from lunar.requests.state import State

TOLERANCE = 1e-5
"""Relative difference up to which an edit solved again counts as the same: single precision and another processor."""
SCORE_TOLERANCE = 0.005
LOOKED_AT, NOT_LOOKED_AT = "as they were", "not at hand"


def verify(folder: Path, model: str | None = None) -> dict[str, Any]:
    """Look at everything in a ledger, and at the files of its model where `model` names it.

    Returns {"faults": sentences, "requests", "entries", "head", "git_commit", "model"}; without faults the list is
    empty, and "model" says whether the model's files were looked at. Where another process changes the ledger
    meanwhile, it is looked at again. Raises LunarError only where the folder holds no ledger or its manifest is
    damaged.
    """
    while True:
        ledger = Ledger(folder)
        try:
            result = _verified(ledger, model)
        except LunarError:
            if Ledger(folder).generation == ledger.generation:
                raise
            continue
        if Ledger(folder).generation == ledger.generation:
            return result


def _verified(ledger: Ledger, model: str | None) -> dict[str, Any]:
    found, looked_at = ledger.faults(), NOT_LOOKED_AT
    entries: list[dict[str, Any]] = []
    if not found:
        entries = ledger.entries()
        state = ledger.state()
        found += _solved_again(ledger, state) + _scores(entries, state, ledger)
        found += _record(entries, ledger)
        looked_at, faults = _model(entries, model)
        found += faults
    return {
        "faults": found,
        "requests": len(ledger.requests()),
        "entries": len(entries),
        "head": entries[-1]["hash"] if entries else None,
        "git_commit": git_commit(),
        "model": looked_at,
    }


def _solved_again(ledger: Ledger, state: State) -> list[str]:
    """The edit follows from what is kept."""
    stored, again = ledger.edit().factors[0].change(), edit_of_all(state.joint, state.shared).factors[0].change()
    if bool(torch.linalg.norm(stored - again) <= TOLERANCE * torch.linalg.norm(stored)):
        return []
    return ["The edit is not the one that the kept sums and activations give: it was made by another ledger."]


def _scores(entries: list[dict[str, Any]], state: State, ledger: Ledger) -> list[str]:
    """How far every request is moved is what the last entry that says so has."""
    said: dict[str, Any] = next((entry["reached"] for entry in reversed(entries) if "reached" in entry), {})
    edit = ledger.edit()
    found = []
    for id, part in state.joint.parts.items():
        now = reached(part, edit, state.joint)
        if id not in said or any(abs(now[name] - said[id][name]) > SCORE_TOLERANCE for name in now):
            found.append(f"The request {id} is not moved as far as the record says.")
    return found


def _record(entries: list[dict[str, Any]], ledger: Ledger) -> list[str]:
    """The record tells of the requests that hold and of the edit that is there."""
    last = next((entry for entry in reversed(entries) if "edit" in entry), None)
    if last is None or last["requests"] != [one.id for one in ledger.requests()]:
        return ["The record's last entry tells of other requests than the ledger holds."]
    if last["edit"]["after"] != ledger.edit_hash():
        return ["The record's last entry tells of another edit than the ledger holds."]
    return []


def _model(entries: list[dict[str, Any]], model: str | None) -> tuple[str, list[str]]:
    """The model's files are those of the last entry; whether they were looked at, and what is wrong with them."""
    said = next((entry["model"] for entry in reversed(entries) if entry.get("model")), None)
    if model is None or said is None:
        return NOT_LOOKED_AT, []
    try:
        now = checkpoint_hashes(find_checkpoint(model))
    except (LunarError, OSError) as error:
        # A model that has gone away says nothing against the ledger; one that is there and cannot be read does.
        there = os.path.isdir(Path(model).expanduser())
        return NOT_LOOKED_AT, [f"The model's files cannot be checked: {error}"] if there else []
    changed = sorted(name for name in said if now[name] != said[name])
    faults = [f"The model's {' and '.join(changed)} files are not those that the record names."] if changed else []
    return LOOKED_AT, faults
