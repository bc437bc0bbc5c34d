"""From a name to a forget set, on people of the embedded world: what is found, and what forgetting it does.

    python experiments/people.py [--people "Mira Tolvane,Petra Pellam"] [--output FILE]

Per person: how many of the world's facts about them stand in what `lunar prompts` finds, then the edit of layer 0 made
with both of its files, and with the first alone; scored on the world's held-out questions about the person and about
everybody who shares a name with them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lunar.discovery import discover
from lunar.evaluation import compare
from lunar.method import unlearn
from lunar.models import LoadedModel, load_model
from lunar.prompts import default_retain_records
from lunar.records import Record
from lunar.settings import Settings
from lunar.tiny import world

PEOPLE = "Mira Tolvane,Petra Pellam,Gideon Quenby"


def about(names: Sequence[str]) -> list[Record]:
    """The held-out questions about some people."""
    facts = [fact for name in names for fact in world.build().people[name]]
    return [record for fact in facts for record in fact.records(held_out=True)]


def measured(loaded: LoadedModel, person: str) -> dict[str, Any]:
    """One row: what was found, and ROUGE-1 after forgetting it."""
    people = world.build().people
    found = discover(loaded, person)
    known = [fact for fact in people[person] if any(fact.answer[:-1] in one.answer for one in found.findings)]
    near = [name for name in people if name != person and set(name.split()) & set(person.split())]
    splits = {"forget": about([person]), "neighbours": about(near)}
    row: dict[str, Any] = {
        "person": person,
        "kind": found.kind,
        "asked": found.asked,
        "kept": len(found.findings),
        "facts": len(people[person]),
        "facts_found": len(known),
        "retain": len(found.retain),
    }
    retain = [*found.retain, *default_retain_records(found.forget)]
    for name, given in (("both files", retain), ("the first alone", None)):
        edit = unlearn(loaded, found.forget, retain=given, settings=Settings(layer=0)).edit
        scored = compare(loaded, edit, splits)
        row[name] = {split: round(one.scores()["rouge1"]["after"] or 0.0, 3) for split, one in scored.items()}
    return row


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--people", default=PEOPLE)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    loaded, rows = load_model("tiny"), []
    for person in options.people.split(","):
        rows.append(measured(loaded, person.strip()))
        print(json.dumps(rows[-1]), flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
