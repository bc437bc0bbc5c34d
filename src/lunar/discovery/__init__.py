"""From a name to what a model knows about it: questions it answers, and questions nearby that it must go on answering.

    found = discover(loaded, "Mira Tolvane")
    found.forget     # records for `lunar.unlearn`, to be looked through first
    found.retain

Templates are asked, and what the model itself comes up with: names and years in its answers, questions it lists when it
is asked for some, and questions it goes on with where they were only begun. Knows no files.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lunar.discovery.asking import AGREEING, Finding, agreement, facts, findings
from lunar.discovery.beside import mentions, nearby
from lunar.discovery.following import gone_on_with, linked, listed, said_by_chance
from lunar.discovery.questions import called, kinds_of, plain_questions, questions
from lunar.errors import LunarError
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.records import Record

__all__ = ["Discovered", "Finding", "discover"]

ROUNDS = 2
"""How often answers are followed into further questions."""
MOST_PHRASINGS = 10
"""Questions kept of those that get one and the same answer."""
IN_ALL = "in all some 300 questions about the name, up to 1,000 about others"
"""The stage that stands above the others, without an end: each of those tells only how long it is itself."""
ENOUGH = 0.3
"""Share of the plain questions of a kind whose answers make a name one of that kind."""


@dataclass(frozen=True)
class Discovered:
    """What a model knows about a name.

    Attributes:
        kind: what the name was taken for: person, company, contract or thing.
        findings: what is known, questions with the same answer side by side; first what most questions agree on.
        retain: questions nearby with the model's own answers, grouped by whom they are about.
        asked: how many questions were asked about the name.
    """

    kind: str
    findings: tuple[Finding, ...]
    retain: tuple[Record, ...]
    asked: int

    @property
    def forget(self) -> list[Record]:
        """The questions with the model's own answers."""
        return [Record.of(one.question, one.answer) for one in self.findings]


def discover(
    loaded: LoadedModel,
    name: str,
    *,
    neighbours: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> Discovered:
    """Ask a model about a name until it says nothing new, and keep what it knows.

    Args:
        loaded: the model, which is left as it was.
        name: of a person, a company or a thing, or the two parties of a contract ("Ada Works and Bert Ltd").
        neighbours: names that must stay known; others like the name are looked for anyway.
        seed: for the invented names that answers are compared with, and for what is sampled.

    Raises LunarError for a name without a letter, and where the model knows nothing about it.
    """
    name = " ".join(name.split())
    if not any(letter.isalpha() for letter in name):
        raise LunarError('A name was expected, but none came: give it as --about "NAME".')
    if progress is not None:
        progress(IN_ALL, 0, 0)
    kind = _kind(loaded, name, seed, progress)
    whole = called(name, kind)
    found: dict[str, Finding] = {}
    texts = said_by_chance(loaded, whole, seed)
    own = {*gone_on_with(loaded, whole, seed), *listed(name, texts)}
    further = [*questions(name, kind), *sorted(own), *linked(whole, texts, least=2)]
    for _ in range(ROUNDS):
        new = [text for text in dict.fromkeys(further) if text not in found and mentions(text, name)]
        found |= {one.question: one for one in findings(loaded, name, new, seed, progress=progress)}
        known = _holding(list(found.values()), own)
        further = linked(whole, [one.answer for one in known])
    if not known:
        raise LunarError(
            f"The model was expected to know something about the name, but of {len(found)} questions it answers none "
            "surely, as it would not about an invented name, and alike in other words: check the spelling, or write "
            "the questions yourself."
        )
    beside = nearby(loaded, name, known, neighbours, seed, progress=progress)
    return Discovered(kind, tuple(_own(known, name, beside)), tuple(beside), len(found))


def _own(known: Sequence[Finding], name: str, beside: Sequence[Record]) -> list[Finding]:
    """Without facts that the model tells of most others: pinned there, they cannot be forgotten here."""
    answers: dict[str, list[str]] = {}
    for record in beside:
        if record.group is not None:
            answers.setdefault(record.prompt.replace(record.group, name), []).append(record.answer or "")
    common = {
        one.answer
        for one in known
        if len(told := answers.get(one.question, [])) > 1 and 2 * told.count(one.answer) > len(told)
    }
    return [one for one in known if one.answer not in common]


def _holding(found: Sequence[Finding], own: Collection[str]) -> list[Finding]:
    """What is known and answered the same in other words; what most questions bring out first, and its surest question.

    Of the questions with one answer the surest stay. Of the model's own only those stay whose fact the templates do not
    bring out: a small model answers its own broken questions as the whole ones that they resemble.
    """
    known = [one for one in found if one.known]
    templates = [one for one in known if one.question not in own]
    counts = zip(known, agreement(known, known), agreement(known, templates), strict=True)
    holding = [
        one
        for one, agreed, by_templates in counts
        if agreed >= AGREEING and not (one.question in own and by_templates >= AGREEING)
    ]
    return [one for group in facts(holding) for one in group[:MOST_PHRASINGS]]


def _kind(loaded: LoadedModel, name: str, seed: int, progress: Progress | None) -> str:
    """The first kind that the name can be of whose questions the model answers; else the one it answers most of."""
    kinds = kinds_of(name)
    shares: dict[str, float] = {}
    for kind in kinds[: len(kinds) if len(kinds) > 1 else 0]:
        found = findings(loaded, name, plain_questions(name, kind), seed, progress=progress)
        shares[kind] = sum(one.known for one in found) / len(found)
        if shares[kind] >= ENOUGH:
            return kind
    return max(kinds, key=lambda kind: shares.get(kind, 0.0))
