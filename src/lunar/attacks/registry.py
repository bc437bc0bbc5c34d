"""The attacks by name, in the order of what an attacker needs.

Knows every attack and nothing of how they are scored.
"""

from __future__ import annotations

from lunar.attacks import prefill, relearn, skip, steering
from lunar.attacks.attack import Attack
from lunar.errors import unknown

ATTACKS: dict[str, Attack] = {one.name: one for one in (prefill.ATTACK, skip.ATTACK, steering.ATTACK, *relearn.ATTACKS)}


def attack(name: str) -> Attack:
    """The attack called `name`; raises LunarError with close matches for an unknown one."""
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    return ATTACKS[name]
