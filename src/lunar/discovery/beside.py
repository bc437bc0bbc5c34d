"""Questions near a name that must stay answered: the same about others whom the model knows, and about what its answers
name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lunar.discovery.asking import Finding, declined, replies
from lunar.discovery.following import named
from lunar.discovery.others import others_like
from lunar.discovery.questions import COMPANY, PERSON, THING, kinds_of, plain_questions
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.records import Record, sample

MOST_QUESTIONS = 12
"""About one of the others."""


def nearby(
    loaded: LoadedModel,
    name: str,
    known: Sequence[Finding],
    given: Sequence[str],
    seed: int,
    *,
    progress: Progress | None = None,
) -> list[Record]:
    """Questions with the model's own answers, grouped by whom or what they are about."""
    about = [one for one in known if name in one.question]
    telling = max(about, key=lambda one: one.likelihood).question if about else None
    found = others_like(loaded, name, telling, seed, progress) if telling else []
    asked: list[tuple[str, str]] = []
    for other in dict.fromkeys([*given, *found]):
        chosen = sample(about, MOST_QUESTIONS, f"{seed} {other}")
        asked += [(other, one.question.replace(name, other)) for one in chosen]
    for thing in named(name, [one.answer for one in known]):
        kinds = (COMPANY, THING) if PERSON in kinds_of(thing) else kinds_of(thing)
        asked += [(thing, text) for kind in kinds for text in plain_questions(thing, kind)]
    answers = replies(loaded, [text for _, text in asked], "questions nearby", progress)
    return [
        Record.of(text, answer, other)
        for (other, text), answer in zip(asked, answers, strict=True)
        if not declined(answer) and not mentions(text, name)
    ]


def mentions(text: str, name: str) -> bool:
    """Whether a text names the whole name."""
    return re.search(rf"\b{re.escape(name)}\b", text) is not None
