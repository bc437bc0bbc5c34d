"""Neighbours of a question: the same words about somebody or something else, known or invented.

Pinning them needs no answers, and teaches the solve which part of a forget prompt makes it one: with one name of a full
name kept and the other replaced, only both together are recognised. Knows no models.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from lunar import names
from lunar.records import Record

_SEVERAL = r"[A-Z][\w.&-]*(?:\s[A-Z][\w.&-]*)+"
_ONE = r"(?<=[a-z,'\"\u2018\u201c]\s)[A-Z][\w&-]+|(?<=['\"\u2018\u201c])[A-Z][\w&-]+"
_NAME = re.compile(rf"{_SEVERAL}|{_ONE}")
_OPENING = re.compile(r"(?:^|[.:!?]\s)[A-Z]\w*\s(?=[A-Z])")


def name_spans(prompt: str) -> list[tuple[int, int]]:
    """Where the names stand in a prompt: runs of capitalised words, and single ones within a sentence.

    The first word of a sentence does not count as part of a name that follows it ("Name Ada Byron's work").
    """
    spans = []
    for match in _NAME.finditer(prompt):
        start, end = match.span()
        opening = _OPENING.match(prompt, start - 2 if start > 1 and prompt[start - 2] in ".:!?" else start)
        if opening and opening.end() < end and (start == 0 or prompt[start - 1] == " "):
            start = opening.end()
        spans.append((start, start + len(prompt[start:end].rstrip(".&-"))))
    return spans


def prompt_names(prompt: str) -> list[str]:
    """The names in a prompt, in order."""
    return [prompt[start:end] for start, end in name_spans(prompt)]


def replace_spans(prompt: str, spans: Sequence[tuple[int, int]], rng: random.Random) -> tuple[str, list[str]]:
    """The prompt with invented names in the given places, and these names in order."""
    return _replace(prompt, {span: names.scramble(prompt[slice(*span)], rng) for span in spans})


def _replace(prompt: str, replacements: Mapping[tuple[int, int], str]) -> tuple[str, list[str]]:
    """The prompt with other texts in the given places, and these texts in order."""
    for start, end in sorted(replacements, reverse=True):
        prompt = prompt[:start] + replacements[start, end] + prompt[end:]
    return prompt, [replacements[span] for span in sorted(replacements)]


class Names:
    """Where other names come from: mostly the given prompts, as often as they stand there, else invention."""

    def __init__(self, prompts: Iterable[str], rng: random.Random) -> None:
        self.rng = rng
        self.whole = [name for prompt in prompts for name in prompt_names(prompt)]
        self.first = [name.split()[0] for name in self.whole if " " in name]
        self.last = [name.split()[-1] for name in self.whole if " " in name]

    def like(self, name: str, known: Sequence[str]) -> str:
        """Another name in the place of `name`: one of the known ones or an invented one of its shape."""
        if known and self.rng.random() < 0.7:
            return self.rng.choice(known)
        return names.scramble(name, self.rng)


def neighbour(record: Record, pool: Names) -> Record | None:
    """One neighbour without an answer: all names replaced, one of them, or one word of one. None without names."""
    prompt, rng = record.prompt, pool.rng
    spans = name_spans(prompt)
    if not spans:
        return None
    kind = rng.random()
    if kind < 0.4:
        chosen = spans if kind < 0.2 else [rng.choice(spans)]
        changed, _ = _replace(prompt, {span: pool.like(prompt[slice(*span)], pool.whole) for span in chosen})
    else:
        start, end = rng.choice(spans)
        # With another "Ltd" or "NV" it would still be the same company to most readers.
        parts = [(start + m.start(), start + m.end()) for m in re.finditer(r"\S+", prompt[start:end])]
        words = [part for part in parts if prompt[slice(*part)] not in names.LEGAL_FORMS]
        word = rng.choice(words) if words else (start, end)
        known = pool.first if word[0] == start else pool.last
        changed, _ = _replace(prompt, {word: pool.like(prompt[slice(*word)], known)})
    return Record((*record.messages[:-1], ("user", changed)))


def with_others(record: Record, kept: Collection[str], pool: Names) -> Record:
    """The same question about the kept names and, in the place of all others, people or things not to be forgotten."""
    prompt = record.prompt
    strangers = [name for name in pool.whole if name not in kept]
    spans = [span for span in name_spans(prompt) if prompt[slice(*span)] not in kept]
    changed, _ = _replace(prompt, {span: pool.like(prompt[slice(*span)], strangers) for span in spans})
    return Record((*record.messages[:-1], ("user", changed)))


def neighbours(records: Sequence[Record], retain: Sequence[Record], count: int, seed: int) -> list[Record]:
    """At most `count` neighbours of the records in all, different from both sets and from each other.

    Names that stand in the retain prompts are mostly put in the place of the records' own: what is known about somebody
    with the same first name is the likeliest to suffer. Where records and retain prompts share a name (a party of
    several contracts, one of which is to be forgotten), every second neighbour is such a retain prompt with its other
    names replaced: what nobody listed about the shared name may be asked in forms that the records do not have.
    """
    pool = Names((record.prompt for record in retain), random.Random(seed))
    own = {record.messages for record in (*records, *retain)}
    ours = {record.prompt[slice(*span)] for record in records for span in name_spans(record.prompt)}
    shared = [record for record in retain if _shares(record, ours)]
    found: dict[tuple[tuple[str, str], ...], Record] = {}
    for index in range(3 * count):
        if shared and index % 2:
            made: Record | None = with_others(shared[index // 2 % len(shared)], ours, pool)
        else:
            made = neighbour(records[index % len(records)], pool)
        if made is not None and made.messages not in own and len(found) < count:
            found[made.messages] = made
    return list(found.values())


def about_the_same(records: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """Those among others that name all that some record names, letter case aside; one without names is about nobody.

    A record that names a part only of what more records name is about these as well, and counts with them: that one of
    twenty questions about a contract names one of its parties says nothing of that party's other contracts.
    """
    named = Counter(_named(record) for record in records)
    wanted = [
        one for one, count in named.items() if one and not any(one < more and named[more] > count for more in named)
    ]
    names = map(_named, others)
    return [other for other, own in zip(others, names, strict=True) if any(one <= own for one in wanted)]


def _named(record: Record) -> frozenset[str]:
    return frozenset(name.casefold() for name in prompt_names(record.prompt))


def _shares(record: Record, ours: set[str]) -> bool:
    """Whether just one of several names is among ours: with two the prompt might be what is to be forgotten."""
    named = {record.prompt[slice(*span)] for span in name_spans(record.prompt)}
    return len(named & ours) == 1 and len(named) > 1
