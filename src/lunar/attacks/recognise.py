"""Can an outsider tell forgotten questions from those about names that nobody ever bore?

Source: over-forgetting as a leak of membership, "Inexact Unlearning Needs More Careful Evaluations to Avoid a False
Sense of Privacy" (arXiv 2403.01218); the signals are this library's. The same questions are asked about invented names,
and how sure the model is of what it says is compared: the likelihood of its own answer, of its first token, of its
least likely token, and whether it declines. Which of these tells, and in which direction, is found on one half of the
forget records and scored on the other: the share of pairs in which the forgotten one is told from the invented one. An
attacker needs to ask, to see how likely answers are, and some forgotten questions. They learn who was forgotten, and no
answer. Control: 0.5, as no invented name can be told from others, or the model that never knew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from lunar.attacks.attack import TOLD_APART, Attack, Attacked, Case, Judged, Variant
from lunar.attacks.invented import Strangers, about_strangers
from lunar.errors import LunarError
from lunar.evaluation import answer_records
from lunar.likelihood import Likelihood, answer_likelihoods
from lunar.metrics import mean
from lunar.metrics.observed import Values
from lunar.metrics.refusal import is_refusal
from lunar.models import LoadedModel
from lunar.records import Record

NAMES = 4
"""Invented names per question."""
SIGNALS = ("own answer", "first token", "least likely token", "declines")
Signals = tuple[float, ...]


def signals(loaded: LoadedModel, records: Sequence[Record]) -> list[Signals]:
    """How sure the model is of its greedy answer to each record: a number for each of `SIGNALS`, larger for surer."""
    said = answer_records(loaded, records, name="signals")
    found = answer_likelihoods(loaded, records, [[text] for text in said])
    return [_signals(text, several[0]) for text, several in zip(said, found, strict=True)]


def _signals(text: str, likelihood: Likelihood | None) -> Signals:
    if likelihood is None:
        return (0.0, 0.0, 0.0, 0.0)
    values = likelihood.log_probabilities[: max(1, likelihood.answer_length)]
    return float(values.mean()), float(values[0]), float(values.min()), float(is_refusal(text))


def told(own: Sequence[Signals], others: Sequence[Sequence[Signals]], signal: int, direction: int) -> Values:
    """By record, the share of its strangers that a signal tells it from, ties counted half; None without strangers."""
    found: Values = []
    for mine, several in zip(own, others, strict=True):
        differences = [direction * (mine[signal] - other[signal]) for other in several]
        found.append(mean([1.0 if one > 0 else 0.5 if one == 0 else 0.0 for one in differences]))
    return found


class _Asked:
    """Signals of records and of the same questions about strangers, asked once for each set of records."""

    def __init__(self, loaded: LoadedModel, case: Case) -> None:
        self.loaded = loaded
        self.strangers = Strangers(case.pool(), case.seed)

    def of(self, records: Sequence[Record]) -> tuple[list[Signals], list[list[Signals]]]:
        """Raises LunarError where no record names anybody."""
        invented = [self._invented(record) for record in records]
        if not any(invented):
            raise LunarError(
                "Invented names take the place of those in the questions, but none was found there: leave this attack "
                "out."
            )
        asked = [*records, *(one for several in invented for one in several)]
        found = iter(signals(self.loaded, asked))
        own = [next(found) for _ in records]
        return own, [[next(found) for _ in several] for several in invented]

    def _invented(self, record: Record) -> list[Record]:
        made = [self.strangers.instead(record, number) for number in range(NAMES)]
        return list(dict.fromkeys(about_strangers(record, one) for one in made if one))


@contextmanager
def compared(case: Case) -> Iterator[Attacked]:
    """The model, judged by whether its answers tell forgotten questions from others."""
    asked = _Asked(case.unlearned, case)

    def judge(records: Sequence[Record]) -> Judged:
        known = asked.of(case.halves()[0])
        ways = [(signal, direction) for signal in range(len(SIGNALS)) for direction in (1, -1)]
        signal, direction = max(ways, key=lambda way: mean(told(*known, *way)) or 0.0)
        values = told(*asked.of(records), signal, direction)
        return Judged(values, [None if value is None else 0.5 for value in values])

    yield Attacked(case.unlearned, judge=judge)


def variants(case: Case) -> Iterator[Variant]:
    """One: the signal is chosen on the half that the attacker has."""
    yield Variant({"names": NAMES}, partial(compared, case))


ATTACK = Attack(
    name="recognise",
    title="Forgotten, or never known?",
    source="over-forgetting, Hayes et al., arXiv 2403.01218; signals of this library",
    access="black box",
    needs="to see how likely answers are, and some forgotten questions; they learn who was forgotten",
    control="0.5: an invented name among others",
    variants=variants,
    halves=True,
    unit=TOLD_APART,
    measures=True,
)
