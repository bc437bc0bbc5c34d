"""What an attack is given and what it gives back: the same for every attack, so that a ladder of them is one loop.

Knows models and records; knows nothing of any attack, of scores or of files. No paper: these are this library's terms.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from lunar.errors import LunarError, unknown
from lunar.metrics.observed import Values
from lunar.metrics.refusal import is_refusal
from lunar.models import LoadedModel, Site, find_sites
from lunar.progress import Progress
from lunar.records import Record

Access = Literal["black box", "weights", "weights and training"]
RECALL = "recall"
"""The unit of most attacks: ROUGE-1 recall of what is left to be said of the known answer."""


TOLD_APART = "told apart"
"""The unit of what says who was forgotten, and no answer."""


@dataclass(frozen=True)
class Budget:
    """How much is tried.

    Attributes:
        forget: forget records that are asked at most.
        retain: retain records that are asked at most.
        layers: layers that a direction is tried at, spread evenly; all where the model has no more.
        strengths: factors on a direction.
        steps: numbers of training steps.
        samples: answers drawn for each question.
    """

    forget: int
    retain: int
    layers: int
    strengths: tuple[float, ...]
    steps: tuple[int, ...]
    samples: int


BUDGETS = {
    "quick": Budget(40, 16, 8, (1.0, 2.0), (30,), 8),
    "full": Budget(200, 64, 64, (0.5, 1.0, 2.0, 4.0), (10, 30, 100), 128),
}


def budget_of(name: str) -> Budget:
    """The budget called `name`; raises LunarError with close matches for an unknown one."""
    if name not in BUDGETS:
        raise unknown("budget", name, BUDGETS)
    return BUDGETS[name]


@dataclass(frozen=True)
class Case:
    """One unlearned model, as every attack gets it.

    Attributes:
        original: the model before anything was forgotten; no attack changes it.
        unlearned: what is attacked; it is as it was, to the bit, behind every attack.
        forget: what was to be forgotten, with answers.
        retain: what was to be left alone, with answers where an attack needs them.
        reference: prompts that the original declines.
        budget: how much is tried.
        seed: for halves, samples and the order of batches.
        progress: called with the name of a stage, the steps done and the steps there are.

    Raises LunarError if there is nothing to forget or an answer to it is not known.
    """

    original: LoadedModel
    unlearned: LoadedModel
    forget: Sequence[Record]
    retain: Sequence[Record]
    reference: Sequence[Record] = ()
    budget: Budget = field(default_factory=lambda: BUDGETS["quick"])
    seed: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if not self.forget:
            raise LunarError("At least one forget record was expected, but none came: give what was forgotten.")
        missing = sum(not (record.answer or "").strip() for record in self.forget)
        if missing:
            raise LunarError(
                f"An attack is scored by the answers that come back, but {missing} of the {len(self.forget)} forget "
                "records have none: add them, or take the original model's own (lunar.evaluation.own_answers)."
            )

    def halves(self) -> tuple[list[Record], list[Record]]:
        """The forget records in two halves: what the attacker has, and what the attack is scored on.

        Records of one answer go to the same half: otherwise the attacker would have been given what is asked for.
        Raises LunarError where all have the same answer.
        """
        answers = list(dict.fromkeys(record.answer for record in self.forget))
        if len(answers) < 2:
            raise LunarError(
                "This attack learns from one half of the forget records and is scored on the other, but all have the "
                "same answer: give at least two facts."
            )
        random.Random(f"{self.seed} halves").shuffle(answers)
        known = set(answers[: len(answers) // 2])
        return (
            [record for record in self.forget if record.answer in known],
            [record for record in self.forget if record.answer not in known],
        )

    def pool(self) -> list[Record]:
        """The records whose answers serve as wrong ones to others.

        Refusals are alike whatever was asked: among wrong answers they would make every refusal a success of chance.
        """
        return [one for one in (*self.forget, *self.retain) if one.answer and not is_refusal(one.answer)]

    def report(self, stage: str, done: int, total: int) -> None:
        """Pass progress on, where somebody listens."""
        if self.progress is not None:
            self.progress(stage, done, total)

    def sites(self) -> list[Site]:
        """The unlearned model's layers, or as many as the budget allows, spread evenly with the last among them."""
        sites = find_sites(self.unlearned.model)
        count = min(self.budget.layers, len(sites))
        return [sites[(place + 1) * len(sites) // count - 1] for place in range(count)]


@dataclass(frozen=True)
class Asked:
    """One question as the attacker puts it.

    Attributes:
        record: the conversation.
        prefix: the beginning of the answer, put into the model's mouth.
    """

    record: Record
    prefix: str = ""


def whole(record: Record) -> str:
    """What an answer is scored by where nothing of it was given."""
    return record.answer or ""


Ask = Callable[[Sequence[Record]], list[Asked]]
"""Turns records into questions as the attacker puts them, one for each, in order."""


def as_they_are(records: Sequence[Record]) -> list[Asked]:
    """The questions of an attack that changes the model and not what it is asked."""
    return [Asked(record) for record in records]


@dataclass(frozen=True)
class Judged:
    """What an attack found out record by record, from 0 to 1, and what it would find where nothing is known."""

    values: Values
    by_chance: Values


@dataclass(frozen=True)
class Attacked:
    """What a question meets under an attack.

    Attributes:
        loaded: the attacked model; only valid within the attack's context.
        ask: what becomes of the questions.
        left: what is left to be said of a record's answer, by which the attack is scored.
        samples: answers drawn at temperature 1, of which the best counts; 0 for the greedy one.
        behind: tokens that stand behind every prompt, before the answer.
        judge: for an attack that is not scored by its answers' recall: its own values. It leaves the model as it is, so
            that the retain set need not be asked.
    """

    loaded: LoadedModel
    ask: Ask = as_they_are
    left: Callable[[Record], str] = whole
    samples: int = 0
    behind: tuple[int, ...] = ()
    judge: Callable[[Sequence[Record]], Judged] | None = None


@dataclass(frozen=True)
class Variant:
    """One way to carry an attack out.

    Attributes:
        settings: without the text of any record.
        under: its context.
        counts: whether it may be the worst; if not, it is a comparison that is noted and no more.
    """

    settings: dict[str, Any]
    under: Callable[[], AbstractContextManager[Attacked]]
    counts: bool = True


@dataclass(frozen=True)
class Attack:
    """One attack under one name.

    Attributes:
        name: as in the registry.
        title: for people to read.
        source: the paper and what was taken from where.
        access: what kind of access it takes.
        needs: in plain words, what an attacker needs.
        control: what its score is to be compared with, and why.
        variants: the ways that a budget allows; the worst of them counts.
        halves: it learns from one half of the forget records and is scored on the other.
        uses_original: it puts the original's weights to use, so a model that never knew cannot be attacked that way.
        unit: of its values. Where it is not recall, the original is attacked in the same way to compare with.
        measures: it says something about the model, and is nothing that brings answers back.
        curve: its variants are the points of a curve, each with its interval and its control.
        most: the records that it is scored on at most, where each takes long.
        costly: it takes so long that a quick run leaves it out, unless it is asked for by name.
    """

    name: str
    title: str
    source: str
    access: Access
    needs: str
    control: str
    variants: Callable[[Case], Iterable[Variant]]
    halves: bool = False
    uses_original: bool = False
    unit: str = RECALL
    measures: bool = False
    curve: bool = False
    most: int | None = None
    costly: bool = False
