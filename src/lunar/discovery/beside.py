"""Questions near a name that must stay answered: the same about others whom the model knows, and about what its answers
name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lunar.discovery.asking import AGREEING, Finding, Said, agreement, ask, facts
from lunar.discovery.following import named
from lunar.discovery.others import others_like
from lunar.discovery.questions import COMPANY, PERSON, THING, kinds_of, plain_questions
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.records import Record, sample

MOST_FACTS, FORMS = 6, 2
"""Asked about one of the others, and questions for each."""
ENOUGH = 0.3
"""Share of the plain questions of a kind whose answers make a name one of that kind."""


def nearby(
    loaded: LoadedModel,
    name: str,
    known: Sequence[Finding],
    given: Sequence[str],
    seed: int,
    *,
    progress: Progress | None = None,
) -> list[Record]:
    """Questions with the model's own answers, grouped by whom or what they are about.

    Only what holds up: facts about others on which two questions agree, and things that plain questions tell something
    about.
    """
    about = [one for one in known if name in one.question]
    telling = max(about, key=lambda one: one.likelihood).question if about else None
    found = others_like(loaded, name, telling, seed, progress) if telling else []
    forms = _forms(about)
    asked: list[tuple[str, str, str]] = []
    for other in dict.fromkeys([*given, *found]):
        chosen = sample(list(forms), MOST_FACTS, f"{seed} {other}")
        asked += [(other, fact, text.replace(name, other)) for fact in chosen for text in forms[fact]]
    things = [(thing, kind) for thing in named(name, [one.answer for one in known]) for kind in _possible(thing)]
    asked += [(thing, kind, text) for thing, kind in things for text in plain_questions(thing, kind)]
    said = ask(loaded, [text for _, _, text in asked], "questions nearby", progress)
    groups: dict[tuple[str, str], list[Said]] = {}
    for (other, what, _), one in zip(asked, said, strict=True):
        groups.setdefault((other, what), []).append(one)
    kept = [
        Record.of(one.question, one.answer, other)
        for (other, what), several in groups.items()
        for one in (told_apart(several) if (other, what) in things else agreed_on(several))
        if not mentions(one.question, name)
    ]
    return list({record.prompt: record for record in kept}.values())


def agreed_on(several: Sequence[Said]) -> list[Said]:
    """Of several questions for one fact those whose answer another one gets, too."""
    return [one for one, count in zip(several, agreement(several, several), strict=True) if count >= AGREEING]


def told_apart(several: Sequence[Said]) -> list[Said]:
    """Of plain questions, each for something else, those whose answer no other gets; none where these are few.

    What is said to several of them is an answer to none.
    """
    right = [one for one, count in zip(several, agreement(several, several), strict=True) if count == 1]
    return right if len(right) >= ENOUGH * len(several) else []


def _forms(about: Sequence[Finding]) -> dict[str, list[str]]:
    """Per fact its surest question and the surest that is worded differently; by the first of them."""
    forms: dict[str, list[str]] = {}
    for group in facts(about):
        other = next((one for one in group if agreement(group[:1], [group[0], one]) == [FORMS]), None)
        if other is not None:
            forms[group[0].question] = [group[0].question, other.question]
    return forms


def _possible(thing: str) -> tuple[str, ...]:
    return (COMPANY, THING) if PERSON in kinds_of(thing) else kinds_of(thing)


def mentions(text: str, name: str) -> bool:
    """Whether a text names the whole name."""
    return re.search(rf"\b{re.escape(name)}\b", text) is not None
