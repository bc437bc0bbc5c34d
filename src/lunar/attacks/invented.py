"""The same question about somebody who does not exist: what a model says there it cannot know.

Knows records and names; knows nothing of models. Names are made as the library makes neighbours: of the halves of two
known names where questions of the same form bring some, so that a stranger is not told by looks alone, or invented.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lunar import names
from lunar.metrics import question_form
from lunar.neighbours import prompt_names
from lunar.records import Record


class Strangers:
    """Invented names for the names of a record, the same for the same record and seed."""

    def __init__(self, pool: Sequence[Record], seed: int) -> None:
        self.seed = seed
        self.known: dict[str, list[str]] = {}
        for record in pool:
            self.known.setdefault(question_form(record.prompt), []).extend(prompt_names(record.prompt))
        self.taken = {name for several in self.known.values() for name in several}

    def instead(self, record: Record, number: int) -> dict[str, str]:
        """By name in the record's prompt, another one that nobody bears; another for each number."""
        rng = random.Random(f"{self.seed} {number} {record.prompt}")
        like = [name for name in self.known.get(question_form(record.prompt), []) if " " in name]
        return {name: self._name(name, like, rng) for name in dict.fromkeys(prompt_names(record.prompt))}

    def _name(self, name: str, like: Sequence[str], rng: random.Random) -> str:
        if " " in name and len(like) > 1:
            halves = {f"{one.split()[0]} {other.split()[-1]}" for one in like for other in like}
            free = sorted(halves - self.taken - {name})
            if free:
                return rng.choice(free)
        made = names.scramble(name, rng)
        # One of a single letter, or of digits that are kept, may come out as it was.
        return made if made != name else names.name(rng)


def renamed(text: str, instead: Mapping[str, str]) -> str:
    """A text with other names, whole ones and, of names of several words, each word that stands alone."""
    changes = dict(instead)
    for old, new in instead.items():
        parts, others = old.split(), new.split()
        if len(parts) > 1 and len(parts) == len(others):
            changes.update({part: other for part, other in zip(parts, others, strict=True) if part not in changes})
    if not changes:
        return text
    longest_first = sorted(changes, key=len, reverse=True)
    return re.sub(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", lambda found: changes[found[0]], text)


def about_strangers(record: Record, instead: Mapping[str, str]) -> Record:
    """The record's question with other names, without its answer."""
    return replace(record, messages=(*record.messages[:-1], ("user", renamed(record.prompt, instead))), answer=None)
