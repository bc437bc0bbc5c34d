"""Run attacks and say how much each brings back: as recovery, and as excess over what comes back by chance.

Knows the form of an attack, and no attack. What it gives back holds no text of a prompt or an answer.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lunar.attacks.asking import answers, chance, recalls
from lunar.attacks.attack import RECALL, Attack, Attacked, Case, Variant, budget_of
from lunar.attacks.findings import NOT_ASKED, TO_FULL, Finding, Ladder, Trial
from lunar.attacks.registry import ATTACKS, attack, usual
from lunar.edit import Edit
from lunar.errors import LunarError
from lunar.evaluation import answer_records
from lunar.metrics import Score, mean
from lunar.metrics.observed import Values
from lunar.metrics.rouge import rouge1
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.prompts import reference_records
from lunar.records import Record, check_disjoint, sample

SURVIVES = 0.5
"""The share of the unattacked retain score that must be left, or what the attacked model says proves nothing."""
KNOWN = 0.05
"""The original must know this much more than the unlearned model, or there is nothing to recover."""


def run_attacks(
    original: LoadedModel,
    unlearned: LoadedModel | Edit,
    forget: Sequence[Record],
    retain: Sequence[Record],
    names: Sequence[str] | None = None,
    *,
    control: LoadedModel | None = None,
    reference: Sequence[Record] | None = None,
    seed: int = 0,
    budget: str = "quick",
    progress: Progress | None = None,
) -> Ladder:
    """Attack an unlearned model in every way that is asked for.

    Args:
        original: the model before anything was forgotten; it is left as it was.
        unlearned: the model to attack, left as it was; or an edit, which is applied to a copy of the original.
        forget: what was to be forgotten, with answers.
        retain: what was to be left alone. Its known answers show whether a model survives an attack.
        names: attacks of the registry; None for all, where the budget is quick without the costly ones.
        control: a model that never knew, attacked in the same way; without one, or where it cannot be attacked that
            way, wrong answers show what chance brings.
        reference: prompts that the original declines; None for the built-in ones.
        seed: for halves, samples and the order of batches.
        budget: "quick" or "full".
        progress: called with "attacks" and how many are done, and with the name of an attack and its variants done.

    Raises LunarError for an unknown attack or budget, no forget records or some without answers, and a prompt that
    stands in both sets. What keeps a single attack from being carried out is reported in its finding.
    """
    size = budget_of(budget)
    chosen = [attack(name) for name in (usual(budget) if names is None else dict.fromkeys(names))]
    check_disjoint(forget, retain)
    referred = reference_records("unverifiable") if reference is None else list(reference)
    case = Case(original, _model(original, unlearned), forget, retain, referred, size, seed, progress)
    runner = _Runner(case, control)
    findings = []
    for done, one in enumerate(chosen):
        case.report("attacks", done, len(chosen))
        findings.append(runner.finding(one))
    case.report("attacks", len(chosen), len(chosen))
    findings.sort(key=Finding.worth, reverse=True)
    left_out = tuple(name for name in ATTACKS if name not in {one.name for one in chosen})
    because = TO_FULL if names is None else NOT_ASKED
    return Ladder(tuple(findings), left_out, budget, seed, len(runner.scored()), len(runner.retained), because)


def _model(original: LoadedModel, unlearned: LoadedModel | Edit) -> LoadedModel:
    if isinstance(unlearned, LoadedModel):
        return unlearned
    changed = replace(original, model=copy.deepcopy(original.model))
    unlearned.apply(changed.model)
    return changed


@dataclass(frozen=True)
class _Worst:
    """The variant that counts: what it brought back record by record, and by chance; and what it left of the rest."""

    settings: dict[str, Any]
    values: Values
    by_chance: Values
    retain: float | None
    survives: bool

    @property
    def forget(self) -> float:
        """The mean of what was brought back."""
        return mean(self.values) or 0.0

    def order(self) -> tuple[bool, float]:
        """Surviving variants by what they bring back, behind broken ones by what they leave."""
        return self.survives, self.forget if self.survives else self.retain or 0.0


class _Runner:
    """One case with what is asked about it; the unattacked models are asked once."""

    def __init__(self, case: Case, control: LoadedModel | None) -> None:
        self.case, self.control = case, control
        self.pool = case.pool()
        self.retained = sample([one for one in case.retain if one.answer], case.budget.retain, f"{case.seed} retain")
        self._asked: dict[tuple[str, int], float | None] = {}

    def scored(self, one: Attack | None = None) -> list[Record]:
        """The records that attacks are scored on: all, or the half that the attacker does not have, as budgeted."""
        records = self.case.halves()[1] if one is not None and one.halves else self.case.forget
        most = self.case.budget.forget
        if one is not None and one.most is not None:
            most = min(most, one.most)
        return sample(records, most, f"{self.case.seed} forget")

    def finding(self, one: Attack) -> Finding:
        """Carry one attack out, on the control as well where there is one."""
        started = time.perf_counter()
        about = Finding(one.name, one.title, one.source, one.access, one.needs, unit=one.unit, counts=not one.measures)
        tried: list[Trial] = []
        try:
            worst = self._worst(one, self.case, tried)
        except LunarError as error:
            return replace(about, tried=tuple(tried), not_run=str(error), seconds=time.perf_counter() - started)
        by_control, kind = self._by_control(one) or (worst.by_chance, "chance")
        before, known = self._between(one, worst.settings, by_control)
        known_more = (known or 0.0) - (before or 0.0)
        differences = [
            None if value is None or other is None else value - other
            for value, other in zip(worst.values, by_control, strict=True)
        ]
        return replace(
            about,
            settings=worst.settings,
            forget=Score.of(worst.values, one.unit, seed=self.case.seed),
            unlearned=before if one.unit == RECALL else None,
            original=known,
            recovery=(worst.forget - (before or 0.0)) / known_more if known_more > KNOWN else None,
            retain=worst.retain,
            retain_unattacked=self._unattacked_retain(self.case.unlearned),
            survives=worst.survives,
            control=mean(by_control),
            control_kind=kind,
            excess=Score.of(differences, one.unit, seed=self.case.seed),
            tried=tuple(tried),
            seconds=time.perf_counter() - started,
        )

    def _by_control(self, one: Attack) -> tuple[Values, str] | None:
        """What the attack brings out of the control; None without one, or where it cannot be attacked in this way."""
        if self.control is None or one.uses_original:
            return None
        try:
            return self._worst(one, replace(self.case, unlearned=self.control), []).values, "model"
        except LunarError:
            return None

    def _worst(self, one: Attack, case: Case, tried: list[Trial]) -> _Worst:
        """The variant that brings most back where the retain set survives; all of them are noted in `tried`.

        Raises LunarError if none can be tried.
        """
        records = self.scored(one)
        worst: _Worst | None = None
        variants = list(one.variants(case))
        stage = one.name if case is self.case else f"{one.name} on the control"
        for number, variant in enumerate(variants):
            case.report(stage, number, len(variants))
            try:
                with variant.under() as attacked:
                    found, trial = self._try(one, variant, attacked, records, case, worst)
            except LunarError as error:
                tried.append(Trial(variant.settings, refused=str(error)))
                continue
            tried.append(trial)
            if found is not None:
                worst = found if worst is None else max(worst, found, key=_Worst.order)
        case.report(stage, len(variants), len(variants) or 1)
        if worst is None:
            reasons = [trial.refused for trial in tried if trial.refused]
            raise LunarError(reasons[0] if reasons else f"The attack {one.name} has nothing to try on this case.")
        return worst

    def _try(
        self,
        one: Attack,
        variant: Variant,
        attacked: Attacked,
        records: Sequence[Record],
        case: Case,
        worst: _Worst | None,
    ) -> tuple[_Worst | None, Trial]:
        """What a variant found, and what is noted of it; nothing was found where it cannot become the worst.

        Only where it may become the worst is the retain set asked, and for an attack that leaves the model as it is
        not even then.
        """
        said = None
        if attacked.judge is not None:
            judged = attacked.judge(records)
            values, by_chance = judged.values, judged.by_chance
        else:
            said = answers(attacked, records, case.seed)
            values, by_chance = recalls(attacked, records, said), None
        less = worst is not None and worst.survives and (mean(values) or 0.0) <= worst.forget
        if by_chance is None and said is not None and (one.curve or not less):
            by_chance = chance(attacked, records, self.pool, said, case.seed)
        noted = Trial(variant.settings, mean(values))
        if one.curve or not variant.counts:
            score = Score.of(values, one.unit, seed=case.seed)
            noted = replace(noted, low=score.low, high=score.high, control=mean(by_chance or []))
        if less or not variant.counts or by_chance is None:
            return None, noted
        retain = None if attacked.judge is not None else self._retain(attacked)
        survives = retain is None or retain >= SURVIVES * (self._unattacked_retain(case.unlearned) or 0.0)
        found = _Worst(variant.settings, values, by_chance, retain, survives)
        return found, replace(noted, retain=retain)

    def _between(self, one: Attack, settings: dict[str, Any], by_control: Values) -> tuple[float | None, float | None]:
        """What recovery lies between: the unlearned and the original model without an attack.

        A score that is no recall has no value without an attack: there, from the control to the original, attacked in
        the same way.
        """
        if one.unit == RECALL:
            return self._unattacked(self.case.unlearned, one), self._unattacked(self.case.original, one)
        case = replace(self.case, unlearned=self.case.original)
        try:
            for variant in one.variants(case):
                if variant.settings == settings:
                    with variant.under() as attacked:
                        if attacked.judge is not None:
                            return mean(by_control), mean(attacked.judge(self.scored(one)).values)
        except LunarError:
            pass
        return mean(by_control), None

    def _retain(self, attacked: Attacked) -> float | None:
        said = answers(attacked, self.retained, self.case.seed)
        return mean(recalls(attacked, self.retained, said))

    def _unattacked_retain(self, loaded: LoadedModel) -> float | None:
        return self._mean("retain", loaded, self.retained)

    def _unattacked(self, loaded: LoadedModel, one: Attack) -> float | None:
        return self._mean(f"forget {one.halves} {one.most}", loaded, self.scored(one))

    def _mean(self, name: str, loaded: LoadedModel, records: Sequence[Record]) -> float | None:
        key = (name, id(loaded))
        if key not in self._asked:
            self._asked[key] = mean(rouge1(answer_records(loaded, records), records))
        return self._asked[key]
