"""The question with slips of the keyboard: letters swapped, doubled or left out.

Source: this library; noise of this kind is usual in evaluations of robustness ("Synthetic and Natural Noise Both Break
Neural Machine Translation", arXiv 1711.02173). An attacker needs to ask. Control: the model that never knew asked in
the same letters, or wrong answers to like questions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import partial

from lunar.attacks.attack import Attack, Case, Variant
from lunar.attacks.rewriting import rewritten
from lunar.neighbours import name_spans
from lunar.records import Record
from lunar.rewordings import with_prompt

SHARE = 0.3
SHORTEST = 4
"""Letters of a word that may get a slip; shorter ones would become others."""


def with_slips(record: Record, *, share: float = SHARE, names: bool = False, seed: int = 0) -> Record:
    """The record with a slip in that share of its longer words, at least in one; in names only where `names`.

    A word with a digit in it is a number or a mark, where a slip would ask for something else: it is spared.
    """
    prompt = record.prompt
    rng = random.Random(f"{seed} {prompt}")
    spared = [] if names else name_spans(prompt)
    words = [
        word.span()
        for word in re.finditer(rf"\b[^\W\d_]{{{SHORTEST},}}\b", prompt)
        if not any(start < word.end() and word.start() < end for start, end in spared)
    ]
    count = min(len(words), max(1, round(share * len(words))))
    for start, end in sorted(rng.sample(words, count), reverse=True):
        prompt = prompt[:start] + _slip(prompt[start:end], rng) + prompt[end:]
    return with_prompt(record, prompt)


def _slip(word: str, rng: random.Random) -> str:
    """One slip behind the first letter."""
    place = rng.randrange(1, len(word) - 1)
    kinds = (
        word[:place] + word[place + 1] + word[place] + word[place + 2 :],
        word[:place] + word[place + 1 :],
        word[:place] + word[place] + word[place:],
    )
    return rng.choice(kinds)


def variants(case: Case) -> Iterator[Variant]:
    """Slips outside names, and anywhere."""
    for names in (False, True):
        rewrite = partial(with_slips, names=names, seed=case.seed)
        yield Variant({"share": SHARE, "names": names}, partial(rewritten, case.unlearned, rewrite))


ATTACK = Attack(
    name="typos",
    title="The question with slips of the keyboard",
    source="this library; Belinkov and Bisk, arXiv 1711.02173",
    access="black box",
    needs="to ask",
    control="the control asked in the same letters",
    variants=variants,
)
