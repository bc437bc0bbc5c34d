"""What a run of attacks says, in one plain sentence; of a result that an attack undoes it never says "erased" alone.

Knows findings; knows nothing of models or of any attack. No paper: these are this library's terms.
"""

from __future__ import annotations

from collections.abc import Sequence

from lunar.attacks.attack import TOLD_APART
from lunar.attacks.findings import Finding, Ladder

EXCESS = 0.15
"""What an attack must bring back beyond its control before it counts as having brought something back."""


def verdict(ladder: Ladder) -> str:
    """The sentence for a ladder, and a second one where some of its attacks prove nothing."""
    carried_out = [finding for finding in ladder.findings if finding.not_run is None]
    run = [finding for finding in carried_out if finding.counts]
    said = _brought(run)
    return " ".join([said, *map(_told_apart, (one for one in carried_out if _tells(one)))])


def _brought(run: Sequence[Finding]) -> str:
    """What the attacks brought back."""
    if not run:
        return "No attack could be carried out, so these say nothing of what is left."
    if all(finding.recovery is None for finding in run):
        return (
            "These attacks prove nothing: without any of them the unlearned model gives these answers about as often "
            "as the original, so there is nothing to bring back."
        )
    alive = [finding for finding in run if finding.survives]
    found = [finding for finding in alive if brought_back(finding) > EXCESS]
    said = _suppressed(found, len(run)) if found else _nothing(len(run))
    return " ".join([said, *_doubts(len(run) - len(alive), alive)])


def _tells(finding: Finding) -> bool:
    """Whether a measurement says who was forgotten, beyond doubt and by more than little."""
    excess = finding.excess
    if finding.counts or finding.unit != TOLD_APART or excess is None or excess.value is None or excess.low is None:
        return False
    return excess.value > EXCESS and excess.low > 0


def _told_apart(finding: Finding) -> str:
    value = finding.forget.value if finding.forget is not None else None
    return (
        f"Forgotten questions are told from questions about invented names in {value or 0:.0%} of pairs, where 50% is "
        "chance: an outsider can see what was forgotten."
    )


def brought_back(finding: Finding) -> float:
    """The excess over the control; without a control what came back beyond what the model gives without an attack."""
    if finding.excess is not None and finding.excess.value is not None:
        return finding.excess.value
    value = finding.forget.value if finding.forget is not None else None
    return (value or 0.0) - (finding.unlearned or 0.0)


def _suppressed(found: Sequence[Finding], run: int) -> str:
    worst = max(found, key=brought_back)
    over = "its control" if worst.control is not None else "the answers without an attack"
    return (
        f"Suppressed, not erased: {len(found)} of the {run} attacks run here brought back more than {EXCESS} beyond "
        f"the control, most of all {worst.attack}, {brought_back(worst):.2f} above {over}."
    )


def _nothing(run: int) -> str:
    each = "the 1 attack" if run == 1 else f"the {run} attacks"
    return (
        f"No attack run here brought back more than {EXCESS} beyond its control ({each}, these questions), which does "
        "not show that nothing is left."
    )


def _doubts(broken: int, alive: Sequence[Finding]) -> list[str]:
    """What keeps some of the attacks from proving anything."""
    said = []
    if broken:
        each = "attack breaks the model and proves" if broken == 1 else "attacks break the model and prove"
        said.append(f"{broken} {each} nothing.")
    bare = sum(finding.control is None for finding in alive)
    if bare:
        each = "attack has" if bare == 1 else "attacks have"
        said.append(f"{bare} {each} no control: no like question with another answer is known.")
    return said
