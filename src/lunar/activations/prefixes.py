"""Prompts that begin with the same tokens have the same activations there: where a batch is to be cut to use that.

A chat template and questions of one form make much of a data set common to many prompts. A causal model is run on every
distinct prefix once and goes on from what it remembers of it. Knows tokens and their cost, nothing of activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Tokens = Sequence[int]


@dataclass(frozen=True)
class Stage:
    """One call of the model: the tokens from `start` to `end` of some sequences of a batch.

    Attributes:
        start: how many tokens were run in the stages before.
        end: behind the last token; the last stage ends with the longest sequence.
        rows: of each distinct prefix of `end` tokens, one sequence that begins with it; in the last stage, all.
        parents: [rows] the place, in the stage before, of what a row begins with; empty in the first.
        members: [batch] the place in `rows` of each sequence's prefix.
    """

    start: int
    end: int
    rows: tuple[int, ...]
    parents: tuple[int, ...]
    members: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens per row."""
        return self.end - self.start


def stages(batch: Sequence[Tokens], call: int | None = None, most: int | None = None) -> list[Stage]:
    """The calls that cost least for a batch, by the tokens they run and `call` tokens for each; None is for one call.

    Every stage but the last ends within the shortest sequence, so that none of them needs padding, and within the first
    `most` tokens.
    """
    most = min(map(len, batch)) - 1 if most is None else most
    cuts = [] if call is None else _cuts(batch, call, most)
    found: list[Stage] = []
    start = 0
    for cut in cuts:
        places: dict[Tokens, int] = {}
        members = [places.setdefault(tuple(tokens[:cut]), len(places)) for tokens in batch]
        first = [members.index(place) for place in range(len(places))]
        found.append(Stage(start, cut, tuple(first), _parents(found, first), tuple(members)))
        start = cut
    every = range(len(batch))
    found.append(Stage(start, max(map(len, batch)), tuple(every), _parents(found, every), tuple(every)))
    return found


def _parents(before: Sequence[Stage], rows: Sequence[int]) -> tuple[int, ...]:
    return tuple(before[-1].members[row] for row in rows) if before else ()


def _cuts(batch: Sequence[Tokens], call: int, most: int) -> list[int]:
    """Where the stages before the last end: the cheapest of all ways to cut, found from the shortest prefix upwards."""
    longest = max(map(len, batch))
    ordered = sorted(map(tuple, batch))
    common = [_common(first, second) for first, second in pairwise(ordered)]
    # A prefix is worth a cut at most where some sequences part from others; the last stage keeps a token of each.
    places = sorted({min(length, most) for length in common} - {0})
    cheapest: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    for cut in places:
        distinct = 1 + sum(length < cut for length in common)
        cheapest[cut] = min(
            (cost + distinct * (cut - start) + call, [*cuts, cut]) for start, (cost, cuts) in cheapest.items()
        )
    return min((cost + len(batch) * (longest - start), cuts) for start, (cost, cuts) in cheapest.items())[1]


def _common(first: Tokens, second: Tokens) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))
