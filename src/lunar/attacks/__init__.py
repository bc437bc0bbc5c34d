"""Somebody tries to get back what was forgotten: a registry of attacks, each in a small file with its source.

    ladder = run_attacks(original, edit, forget, retain, ["steering", "relearn"], budget="quick")
    for finding in ladder.findings:
        print(finding.attack, finding.forget.value, finding.excess)

Every attack is a context manager, which yields an attacked model or a rewriting of the questions and leaves the models
as they were, to the bit. In the order of the data: `attack.py` is what an attack is given and gives back,
`registry.py` names them all, `asking.py` asks under an attack and scores, `run.py` runs them, `findings.py` is what
comes out. `hooks.py` and `directions.py` are what several attacks share.
"""

from lunar.attacks.attack import BUDGETS, Asked, Attack, Attacked, Budget, Case, Variant
from lunar.attacks.findings import Finding, Ladder, Trial
from lunar.attacks.registry import ATTACKS, attack
from lunar.attacks.run import run_attacks

__all__ = [
    "ATTACKS",
    "BUDGETS",
    "Asked",
    "Attack",
    "Attacked",
    "Budget",
    "Case",
    "Finding",
    "Ladder",
    "Trial",
    "Variant",
    "attack",
    "run_attacks",
]
