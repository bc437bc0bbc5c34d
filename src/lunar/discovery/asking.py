"""What a model says to questions about a name, and whether it knows it: an answer counts where it is no refusal and is
much likelier about this name than about invented ones.

Knows models and records; knows nothing of which questions to ask.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lunar import names
from lunar.evaluation import answer_records
from lunar.likelihood import likelihoods
from lunar.metrics.refusal import is_refusal
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.records import Record

INVENTED = 2
"""Names that every answer is tried on, beside the one that was asked about."""
LEAST_EVIDENCE = math.log(10)
"""Nats; an answer that is not even ten times likelier than about an invented name says nothing about this one."""


@dataclass(frozen=True)
class Finding:
    """A question about the name, what the model says to it, and what that is worth.

    Attributes:
        question: as it was asked.
        answer: the model's own, greedy.
        evidence: log of how many times likelier the whole answer is than the same words about an invented name, nats.
        likelihood: mean log probability of the answer's tokens, nats.
    """

    question: str
    answer: str
    evidence: float
    likelihood: float

    @property
    def known(self) -> bool:
        """Whether it is an answer about this name and no other."""
        return self.evidence >= LEAST_EVIDENCE


def replies(loaded: LoadedModel, asked: Sequence[str], stage: str, progress: Progress | None) -> list[str]:
    """Greedy answers to questions, in order."""
    return answer_records(loaded, [Record.of(text) for text in asked], name=stage, progress=progress) if asked else []


def declined(answer: str) -> bool:
    """Whether an answer is none: empty, or a refusal, also one that was cut off within a later sentence."""
    whole = re.sub(r"(?<=[.!?])\s[^.!?]*$", "", answer.strip())
    return not whole or is_refusal(whole)


def findings(
    loaded: LoadedModel, name: str, asked: Sequence[str], seed: int, *, progress: Progress | None = None
) -> list[Finding]:
    """Ask everything, and weigh what is not declined; a refusal has no evidence, minus infinity.

    Raises LunarError where a question does not fit the model's context.
    """
    answers = replies(loaded, asked, "questions about the name", progress)
    open_ones = [place for place, answer in enumerate(answers) if not declined(answer)]
    pairs = [(asked[place], answers[place]) for place in open_ones]
    values = dict(zip(open_ones, _weighed(loaded, name, pairs, seed, progress), strict=True))
    nothing = (-math.inf, -math.inf)
    return [
        Finding(question, answer, *values.get(place, nothing))
        for place, (question, answer) in enumerate(zip(asked, answers, strict=True))
    ]


def _weighed(
    loaded: LoadedModel, name: str, pairs: Sequence[tuple[str, str]], seed: int, progress: Progress | None
) -> list[tuple[float, float]]:
    """Evidence and likelihood of answers to questions.

    Evidence is log p(answer | question) − log mean p of the same with invented names in the place of the name.
    """
    rng = random.Random(seed)
    others = [names.scramble(name, rng) for _ in range(INVENTED)]
    versions = [pairs, *([(_about(q, name, other), _about(a, name, other)) for q, a in pairs] for other in others)]
    records = [Record.of(question, answer) for version in versions for question, answer in version]
    found = likelihoods(loaded, records, name="how specific the answers are", progress=progress)
    each = [torch.zeros(1) if one is None else one.log_probabilities[: one.answer_length].double() for one in found]
    count = len(pairs)
    weighed = []
    for place in range(count):
        beside = torch.stack([each[place + count * number].sum() for number in range(1, INVENTED + 1)])
        evidence = each[place].sum() - (beside.logsumexp(0) - math.log(INVENTED))
        weighed.append((float(evidence), float(each[place].mean())))
    return weighed


def _about(text: str, name: str, other: str) -> str:
    """The text about another name; single words of the name are exchanged one by one where it stands in part."""
    text = text.replace(name, other)
    for word, instead in zip(name.split(), other.split(), strict=True):
        if word[0].isupper() and word not in names.LEGAL_FORMS + names.COMPANY_ENDINGS:
            text = re.sub(rf"\b{re.escape(word)}\b", instead, text)
    return text
