"""The attacks by name, in the order of what an attacker needs.

Knows every attack and nothing of how they are scored.
"""

from __future__ import annotations

from lunar.attacks import (
    few_shot,
    interpolate,
    letter_case,
    multi_turn,
    paraphrase,
    prefill,
    project,
    quantise,
    relearn,
    restore,
    reverse,
    role_play,
    sampling,
    scale,
    skip,
    steering,
    system_override,
    typos,
)
from lunar.attacks.attack import Attack
from lunar.errors import unknown

_BLACK_BOX = (paraphrase, typos, letter_case, few_shot, role_play, system_override, multi_turn, prefill, sampling)
_WEIGHTS = (skip, steering, reverse, project, scale, interpolate, restore, quantise)

ATTACKS: dict[str, Attack] = {
    one.name: one for one in (*(part.ATTACK for part in (*_BLACK_BOX, *_WEIGHTS)), *relearn.ATTACKS)
}


def attack(name: str) -> Attack:
    """The attack called `name`; raises LunarError with close matches for an unknown one."""
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    return ATTACKS[name]
