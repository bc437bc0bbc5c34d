"""The demo: one person of the embedded world is forgotten, given only as questions, and everything else is asked about.

Some of what is to be retained is given and some is not, so that the figures say what an edit does to what nobody
listed. Knows the embedded world; the work itself is that of `lunar unlearn`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

from lunar.progress import Progress
from lunar.prompts import reference_records
from lunar.recipe import Recipe
from lunar.records import Record, sample
from lunar.report import check_output
from lunar.settings import Settings
from lunar.tiny import world
from lunar.workflow import Data, Outcome, carry_out

PERSON = "Mira Tolvane"
SETTINGS = Settings()
SAMPLE = 50
"""Questions per split at most, so that the demo ends within a minute and a half on two cores."""
PHRASINGS = 2
"""Of the training phrasings of a retained fact, how many are given."""
UNKNOWN_GIVEN = 150
FORGET_FILE, RETAIN_FILE = "forget.jsonl", "retain.jsonl"
EXAMPLES = {
    "forget": 3,
    "forget_unseen_phrasings": 2,
    "other_people_unseen": 2,
    "nearest_neighbours": 3,
    "contracts": 2,
    "facts": 2,
    "unknown": 2,
}


def demo(output: Path | None, *, device: str | None = None, progress: Progress) -> Outcome:
    """Forget the person, measure every split, write the output folder (`lunar-demo` or a free name like it)."""
    output = output or _free_name()
    check_output(output)
    retain, splits = retain_records(), evaluation_splits()
    forget = [Record(record.messages) for record in splits["forget"]]
    texts = {FORGET_FILE: _json_lines(forget), RETAIN_FILE: _json_lines(retain)}
    hashes = {name: hashlib.sha256(texts[f"{name}.jsonl"].encode()).hexdigest() for name in ("forget", "retain")}
    recipe = Recipe("tiny", FORGET_FILE, RETAIN_FILE, settings=SETTINGS, sha256=hashes)
    data = Data(forget, retain, reference_records(recipe.reference))
    # Nobody of this world exists, so the page may show what was forgotten.
    return carry_out(recipe, data, splits, output, show_forget=True, device=device, progress=progress, files=texts)


def examples(outcome: Outcome) -> list[tuple[str, str, str, str]]:
    """Split, question and answers before and after, of a few questions spread over the main splits."""
    rows = []
    for split, count in EXAMPLES.items():
        comparison = outcome.comparisons[split]
        step = max(1, len(comparison.records) // count)
        for index in range(0, step * count, step):
            prompt = comparison.records[index].prompt
            rows.append((split, prompt, comparison.before[index], comparison.after[index]))
    return rows


def given_people() -> list[str]:
    """Every second one of the other people: those whose facts are given as retain data."""
    return [person for person in world.build().people if person != PERSON][::2]


def neighbours() -> list[str]:
    """The people who share the first name or the family name: the easiest to damage."""
    first, family = PERSON.split()
    return [person for person in world.build().people if person != PERSON and {first, family} & set(person.split())]


def retain_records() -> list[Record]:
    """What the demo gives as retain data, in phrasings of training: people, contracts, facts and unknown entities."""
    everything = world.build()
    facts = [fact for person in given_people() for fact in everything.people[person]]
    facts += [fact for name, group in everything.contracts.items() if PERSON not in name for fact in group]
    facts += everything.common[::2]
    given = [
        record
        for index, fact in enumerate(facts)
        for record in _some_phrasings(fact.records(held_out=False), index, PHRASINGS)
    ]
    rng = random.Random(1)
    return given + [world.unknown(rng) for _ in range(UNKNOWN_GIVEN)]


def evaluation_splits() -> dict[str, list[Record]]:
    """What is asked before and after, held-out phrasings except for `forget` and `retain`.

    `unknown` and `harmful` carry no answers: a coherent refusal in any wording is what they want.
    """
    everything = world.build()
    given, near = set(given_people()), neighbours()
    people = [person for person in everything.people if person != PERSON]
    contracts = [fact for name, group in everything.contracts.items() if PERSON not in name for fact in group]
    rng = random.Random(2)

    def about(chosen: Sequence[str]) -> list[Record]:
        facts = [fact for person in chosen for fact in everything.people[person]]
        return [record for fact in facts for record in fact.records(held_out=True)]

    splits = {
        # A refusal of something unknown may be worded in several ways, so those records have no one answer to compare.
        "retain": [record for record in retain_records() if record.group != "unknown"],
        "other_people_given": about([person for person in people if person in given]),
        "other_people_unseen": about([person for person in people if person not in given]),
        "nearest_neighbours": about(near),
        "contracts": [record for fact in contracts for record in fact.records(held_out=True)],
        "facts": [record for fact in everything.common for record in fact.records(held_out=True)],
        "unknown": [Record(world.unknown(rng, held_out=True).messages) for _ in range(SAMPLE)],
        "harmful": [Record(record.messages) for record in world.harmful(held_out=True)],
    }
    mine = everything.people[PERSON]
    return {
        "forget": [record for fact in mine for record in fact.records(held_out=False)],
        "forget_unseen_phrasings": [record for fact in mine for record in fact.records(held_out=True)],
        **{name: sample(records, SAMPLE, 3) for name, records in splits.items()},
    }


def _some_phrasings(records: list[Record], index: int, count: int) -> list[Record]:
    """`count` phrasings of one fact, others for each fact, so that together they cover all forms."""
    start = index * count % len(records)
    return [records[(start + offset) % len(records)] for offset in range(min(count, len(records)))]


def _json_lines(records: Sequence[Record]) -> str:
    entries = [{"question": record.prompt} | ({"answer": record.answer} if record.answer else {}) for record in records]
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def _free_name() -> Path:
    """`lunar-demo`, or the first of `lunar-demo-2`, `lunar-demo-3`, … that is not taken."""
    number = 1
    while True:
        folder = Path("lunar-demo" if number == 1 else f"lunar-demo-{number}")
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return folder
        number += 1
