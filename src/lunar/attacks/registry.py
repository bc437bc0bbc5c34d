"""The attacks by name, in the order of what an attacker needs.

Knows every attack and nothing of how they are scored.
"""

from __future__ import annotations

from lunar.attacks import (
    cloze,
    few_shot,
    interpolate,
    lens,
    letter_case,
    multi_turn,
    multiple_choice,
    paraphrase,
    patch,
    prefill,
    probe,
    project,
    prune,
    quantise,
    quantise_adapter,
    recognise,
    relearn,
    restore,
    reversal,
    reverse,
    role_play,
    sampling,
    scale,
    skip,
    soft_prompt,
    steering,
    system_override,
    typos,
    yes_no,
)
from lunar.attacks.attack import Attack
from lunar.errors import unknown

_BLACK_BOX = (
    paraphrase,
    typos,
    letter_case,
    few_shot,
    role_play,
    system_override,
    multi_turn,
    prefill,
    cloze,
    reversal,
    yes_no,
    multiple_choice,
    sampling,
    recognise,
)
_WEIGHTS = (
    skip,
    lens,
    steering,
    reverse,
    project,
    scale,
    interpolate,
    restore,
    patch,
    prune,
    quantise,
    quantise_adapter,
)
_TRAINING = (probe, soft_prompt)

ATTACKS: dict[str, Attack] = {
    one.name: one for one in (*(part.ATTACK for part in (*_BLACK_BOX, *_WEIGHTS, *_TRAINING)), *relearn.ATTACKS)
}


def usual(budget: str) -> list[str]:
    """The names of the attacks that a run of a budget consists of: all, but for the costly ones where it is "quick"."""
    return [name for name, one in ATTACKS.items() if budget != "quick" or not one.costly]


def attack(name: str) -> Attack:
    """The attack called `name`; raises LunarError with close matches for an unknown one."""
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    return ATTACKS[name]
