"""The question in small letters, in capitals, or with a capital at every word.

Source: this library. An attacker needs to ask. Control: the model that never knew asked in the same letters, or wrong
answers to like questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from lunar.attacks.attack import Attack, Case, Variant
from lunar.attacks.rewriting import rewritten
from lunar.records import Record
from lunar.rewordings import with_prompt

CASES: dict[str, Callable[[str], str]] = {"lower": str.lower, "upper": str.upper, "title": str.title}


def in_case(record: Record, *, letters: str) -> Record:
    """The record with its question in "lower", "upper" or "title" case."""
    return with_prompt(record, CASES[letters](record.prompt))


def variants(case: Case) -> Iterator[Variant]:
    """All three."""
    for letters in CASES:
        yield Variant({"letters": letters}, partial(rewritten, case.unlearned, partial(in_case, letters=letters)))


ATTACK = Attack(
    name="case",
    title="The question in other letters",
    source="this library",
    access="black box",
    needs="to ask",
    control="the control asked in the same letters",
    variants=variants,
)
