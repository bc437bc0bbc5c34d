"""From a name to what a model knows about it: questions it answers, and questions nearby that it must go on answering.

    found = discover(loaded, "Mira Tolvane")
    found.forget     # records for `lunar.unlearn`, to be looked through first
    found.retain

Templates are asked, and what the model itself comes up with: names and years in its answers, questions it lists when it
is asked for some, and questions it goes on with where they were only begun. Knows no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lunar.discovery.asking import Finding, findings
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
ENOUGH = 0.3
"""Share of the plain questions of a kind whose answers make a name one of that kind."""


@dataclass(frozen=True)
class Discovered:
    """What a model knows about a name.

    Attributes:
        kind: what the name was taken for: person, company, contract or thing.
        findings: what is known, questions with the same answer side by side.
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
    kind = _kind(loaded, name, seed, progress)
    whole = called(name, kind)
    found: dict[str, Finding] = {}
    further = [*questions(name, kind), *gone_on_with(loaded, whole, seed)]
    texts = said_by_chance(loaded, whole, seed)
    further += [*listed(name, texts), *linked(whole, texts)]
    for _ in range(ROUNDS):
        new = [text for text in dict.fromkeys(further) if text not in found and mentions(text, name)]
        found |= {one.question: one for one in findings(loaded, name, new, seed, progress=progress)}
        further = linked(whole, [found[text].answer for text in new if found[text].known])
    known = [one for one in found.values() if one.known]
    if not known:
        raise LunarError(
            f"The model was expected to know something about the name, but of {len(found)} questions it answers none "
            "as it would not answer about an invented name: check the spelling, or write the questions yourself."
        )
    known = _spread(known)
    beside = nearby(loaded, name, known, neighbours, seed, progress=progress)
    return Discovered(kind, tuple(known), tuple(beside), len(found))


def _spread(known: Sequence[Finding]) -> list[Finding]:
    """Of the questions with one answer those that get it most surely, side by side; in the order that came up."""
    groups: dict[str, list[Finding]] = {}
    for one in known:
        groups.setdefault(one.answer, []).append(one)
    return [one for group in groups.values() for one in sorted(group, key=lambda one: -one.likelihood)[:MOST_PHRASINGS]]


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
