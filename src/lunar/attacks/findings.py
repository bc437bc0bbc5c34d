"""What a run of attacks found, as plain data without the text of any prompt or answer.

Knows scores; knows nothing of models. No paper: these are this library's terms.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lunar.metrics import Score

NOT_ASKED, TO_FULL = "not asked for", "left to the full budget"


@dataclass(frozen=True)
class Trial:
    """One variant that was tried: its settings, and its scores on the forget and the retain records.

    `retain` is None where it was not asked, as another variant had already brought back more and left the retain set
    alive, no answers are known, or the attack leaves the model as it is. `refused` says why the variant could not be
    carried out. `low`, `high` (the 95% interval) and `control` (what chance gives) are there for the points of a curve
    and for comparisons.
    """

    settings: dict[str, Any]
    forget: float | None = None
    retain: float | None = None
    refused: str | None = None
    low: float | None = None
    high: float | None = None
    control: float | None = None


@dataclass(frozen=True)
class Finding:
    """What one attack brought back, by the variant that brought most among those that left the retain set alive.

    All scores are from 0 to 1, on the `forget.count` records that the attack is scored on; ROUGE-1 recall, unless
    `unit` says otherwise.

    Attributes:
        attack, title, source, access, needs: as in the registry.
        settings: of the variant; None where no variant could be tried.
        forget: the attacked model, with its interval.
        unlearned, original: the two models without an attack. Where the unit is not recall, `original` is attacked in
            the same way and `unlearned` is None.
        recovery: (attacked − unlearned) / (original − unlearned), with the control in the place of `unlearned` where
            that is None; None where the original knows no more.
        retain, retain_unattacked: the unlearned model with and without the attack; `retain` is None without known
            answers, or where the attack leaves the model as it is.
        survives: whether the retain set survives; if not, the variant is the one with the highest retain score.
        control: the mean score of the control.
        control_kind: "model" for a model that never knew; "chance" for wrong answers to like questions in the place of
            the right ones.
        excess: attacked − control, record by record, with its interval. A model as control is attacked by its own worst
            variant; "chance" knows nothing of how many variants the worst was chosen from, so that the worst of many
            may stand a few hundredths above it where nothing is known.
        unit: "recall", or what else the values are.
        counts: False for what is measured about the model and brings no answers back.
        tried: every variant.
        not_run: why the attack could not be carried out; None if it was.
        seconds: wall-clock time.
    """

    attack: str
    title: str
    source: str
    access: str
    needs: str
    settings: dict[str, Any] | None = None
    forget: Score | None = None
    unlearned: float | None = None
    original: float | None = None
    recovery: float | None = None
    retain: float | None = None
    retain_unattacked: float | None = None
    survives: bool = False
    control: float | None = None
    control_kind: str | None = None
    excess: Score | None = None
    unit: str = "recall"
    counts: bool = True
    tried: tuple[Trial, ...] = ()
    not_run: str | None = None
    seconds: float = 0.0

    def worth(self) -> tuple[bool, bool, bool, float]:
        """The order of findings, worst last: not run, measured only, model broken, then by excess, or score without."""
        values = [one.value for one in (self.excess, self.forget) if one is not None and one.value is not None]
        return self.not_run is None, self.counts, self.survives, values[0] if values else 0.0


@dataclass(frozen=True)
class Ladder:
    """The findings of a run, the worst first.

    Attributes:
        findings: one for each attack that was asked for.
        left_out: the attacks that were not tried.
        budget, seed: as given.
        forget_questions: how many forget records were asked at most.
        retain_questions: how many retain records with answers were asked.
        left_out_because: why some were not tried.
    """

    findings: tuple[Finding, ...]
    left_out: tuple[str, ...]
    budget: str
    seed: int
    forget_questions: int
    retain_questions: int
    left_out_because: str = NOT_ASKED

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
