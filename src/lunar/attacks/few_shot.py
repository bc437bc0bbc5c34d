"""Answered questions about other things before the question: the model is shown that it answers.

Source: in-context relearning as in "Eight Methods to Evaluate Robust Unlearning in LLMs" (arXiv 2402.16835). The
examples are retain records with answers, drawn by chance or those most like the question; never the record itself. An
attacker needs to ask, and to know some answers of the same kind. Control: the model that never knew shown the same
examples: it guesses in their form.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from lunar.attacks.attack import Attack, Case, Variant
from lunar.attacks.rewriting import rewritten
from lunar.errors import LunarError
from lunar.records import Record, sample

SHOTS = (3, 6)
CHOICE = 300
"""Records that examples are chosen from: looking for the most like ones takes time by their number."""


def with_examples(record: Record, *, known: Sequence[Record], count: int, like: bool, seed: int = 0) -> Record:
    """The record after `count` answered questions: those that share most words with it, or any."""
    others = [one for one in known if one.messages != record.messages]
    order = random.Random(f"{seed} {record.prompt}").sample(range(len(others)), len(others))
    if like:
        own = _words(record)
        order.sort(key=lambda place: -len(own & _words(others[place])) / len(own | _words(others[place])))
    # The most like one stands last, next to the question.
    turns = [turn for place in reversed(order[:count]) for turn in _turns(others[place])]
    system = [message for message in record.messages if message[0] == "system"]
    rest = [message for message in record.messages if message[0] != "system"]
    return replace(record, messages=(*system, *turns, *rest))


def _turns(record: Record) -> list[tuple[str, str]]:
    return [("user", record.prompt), ("assistant", record.answer or "")]


def _words(record: Record) -> set[str]:
    return set(re.findall(r"\w+", record.prompt.casefold())) | {""}


def variants(case: Case) -> Iterator[Variant]:
    """Few and more examples, any and the most like ones. Raises LunarError where no retain record has an answer."""
    known = sample([record for record in case.retain if record.answer], CHOICE, case.seed)
    if not known:
        raise LunarError("Examples are retain records with answers, but there are none: add answers.")
    for count in SHOTS:
        for like in (False, True):
            rewrite = partial(with_examples, known=known, count=count, like=like, seed=case.seed)
            yield Variant({"examples": count, "like": like}, partial(rewritten, case.unlearned, rewrite))


ATTACK = Attack(
    name="few-shot",
    title="Answered questions before the question",
    source="Lynch et al., arXiv 2402.16835",
    access="black box",
    needs="to ask, and some answers of the same kind",
    control="the control shown the same examples",
    variants=variants,
)
