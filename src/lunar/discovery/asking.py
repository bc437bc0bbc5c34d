"""What a model says to questions, and whether it knows it: an answer about a name counts where it is no refusal, is
much likelier about this name than about invented ones, and comes to other questions, differently worded, as well.

Knows models and records; knows nothing of which questions to ask.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from lunar import names
from lunar.evaluation import answer_records
from lunar.likelihood import Likelihood, likelihoods
from lunar.logits import answer_tokens, encode_answers
from lunar.metrics.refusal import is_refusal
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.records import Record

INVENTED = 2
"""Names that every answer is tried on, beside the one that was asked about."""
LEAST_EVIDENCE = math.log(10)
"""Nats; an answer that is not even ten times likelier than about an invented name says nothing about this one."""
SURE_WORDS = 0.75
"""Share of an answer's words that the model must be sure of. Babble is put together from unlikely pieces; what is known
need not be said in certain words, but its own words are certain."""
AGREEING = 2
"""Differently worded questions that must get the same answer."""
SHARED = 0.75
"""Share of the words of the shorter of two answers that both say surely where they say the same."""

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_NAMED = re.compile(r"(?<!^)\b[A-Z0-9]\w*")
_FUNCTION_WORDS = frozenset(
    """a about am an and are as at be been being but by can could did do does for from had has have he her hers him his
    how i if in into is it its me my no not of on or our she so some tell than that the their them there these they this
    those to us was we were what when where which who whom whose why will with would you your""".split()
)


@dataclass(frozen=True)
class Said:
    """A question and what the model says to it.

    Attributes:
        question: as it was asked.
        answer: the model's own, greedy.
        likelihood: mean log probability of the answer's tokens, nats; minus infinity for what is declined.
        means: the words of the answer that have a meaning and are not in the question, in lower case; none where it
            is declined, or the model is unsure of more than a quarter of the answer.
        says: those among them that the model is sure of.
        tokens: how many the answer has.
    """

    question: str
    answer: str
    likelihood: float
    means: frozenset[str]
    says: frozenset[str]
    tokens: int


@dataclass(frozen=True)
class Finding(Said):
    """What the model says about a name, and what that is worth.

    Attributes:
        evidence: log of how many times likelier the whole answer is than the same words about an invented name, nats.
    """

    evidence: float

    @property
    def known(self) -> bool:
        """Whether it is an answer about this name and no other."""
        return self.evidence >= LEAST_EVIDENCE


Some = TypeVar("Some", bound=Said)


def meaning(text: str) -> frozenset[str]:
    """The words of a text other than function words, in lower case."""
    return frozenset(word for word in _WORD.findall(text.lower()) if word not in _FUNCTION_WORDS)


def agreement(said: Sequence[Some], among: Collection[Some]) -> list[int]:
    """How many differently worded questions `among` these get the answer of each, its own among them if it is there.

    Questions are worded differently where they differ in words with a meaning other than names and numbers: not if one
    asks "can you tell me" first. Questions about different others, as about two towns, do not back each other.
    """
    worded = [(one, _wording(one.question), _named(one.question)) for one in among]
    counts = []
    for one in said:
        own = _named(one.question)
        backed = {word for other, word, named in worded if (own <= named or named <= own) and _same(one, other)}
        counts.append(len(backed))
    return counts


def facts(known: Iterable[Some]) -> list[list[Some]]:
    """The questions that get the same answer side by side, the surest first; of these lists the longest first."""
    groups: list[list[Some]] = []
    for one in sorted(known, key=lambda one: -one.likelihood):
        group = next((group for group in groups if _same(group[0], one)), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return sorted(groups, key=lambda group: -len(group))


def _wording(question: str) -> frozenset[str]:
    return meaning(_NAMED.sub("", question))


def _named(question: str) -> frozenset[str]:
    return frozenset(_NAMED.findall(question))


def _same(one: Said, other: Said) -> bool:
    return len(one.says & other.says) >= max(1, SHARED * min(len(one.means), len(other.means)))


def replies(loaded: LoadedModel, asked: Sequence[str], stage: str, progress: Progress | None) -> list[str]:
    """Greedy answers to questions, in order."""
    return answer_records(loaded, [Record.of(text) for text in asked], name=stage, progress=progress) if asked else []


def declined(answer: str) -> bool:
    """Whether an answer is none: empty, or a refusal, also one that was cut off within a later sentence."""
    whole = re.sub(r"(?<=[.!?])\s[^.!?]*$", "", answer.strip())
    return not whole or is_refusal(whole)


def ask(loaded: LoadedModel, asked: Sequence[str], stage: str, progress: Progress | None = None) -> list[Said]:
    """What the model says to each question, in order, and how sure it is.

    Raises LunarError where a question does not fit the model's context.
    """
    answers = replies(loaded, asked, stage, progress)
    open_ones = [place for place, answer in enumerate(answers) if not declined(answer)]
    records = [Record.of(asked[place], answers[place]) for place in open_ones]
    said = [
        Said(question, answer, -math.inf, frozenset(), frozenset(), 0)
        for question, answer in zip(asked, answers, strict=True)
    ]
    if records:
        found = likelihoods(loaded, records, name="how sure the answers are", progress=progress)
        for place, record, one, sequence in zip(
            open_ones, records, found, encode_answers(loaded, records, stage), strict=True
        ):
            if one is not None:
                count = one.answer_length
                mean = float(one.log_probabilities[:count].mean())
                sure, share = _sure_words(loaded, answer_tokens(sequence), one)
                means = meaning(answers[place]) - meaning(record.prompt) if share >= SURE_WORDS else frozenset()
                said[place] = Said(record.prompt, answers[place], mean, means, means & sure, count)
    return said


def _sure_words(loaded: LoadedModel, tokens: list[int], found: Likelihood) -> tuple[frozenset[str], float]:
    """The words with a meaning that the model would rather say than everything else together; the share of all such."""
    total: dict[int, float] = {}
    text = ""
    for place in range(found.answer_length):
        # Only as a whole: single tokens do not tell in every tokenizer whether a space stands before them.
        text = str(loaded.tokenizer.decode(tokens[: place + 1]))
        word = max(0, len(text.split()) - 1)
        total[word] = total.get(word, 0.0) + float(found.log_probabilities[place])
    words = text.split()
    sure = [word for number, word in enumerate(words) if total.get(number, 0.0) >= math.log(0.5)]
    return meaning(" ".join(sure)), len(sure) / max(1, len(words))


def findings(
    loaded: LoadedModel, name: str, asked: Sequence[str], seed: int, *, progress: Progress | None = None
) -> list[Finding]:
    """Ask everything, and weigh what is not declined; a refusal has no evidence, minus infinity.

    Raises LunarError where a question does not fit the model's context.
    """
    said = ask(loaded, asked, "questions about the name", progress)
    given = [one for one in said if not declined(one.answer)]
    weighed = iter(_evidence(loaded, name, given, seed, progress))
    own = meaning(name)
    return [
        Finding(
            one.question,
            one.answer,
            one.likelihood,
            one.means - own,
            one.says - own,
            one.tokens,
            -math.inf if declined(one.answer) else next(weighed),
        )
        for one in said
    ]


def _evidence(
    loaded: LoadedModel, name: str, given: Sequence[Said], seed: int, progress: Progress | None
) -> list[float]:
    """log p(answer | question) − log mean p of the same with invented names in the place of the name."""
    rng = random.Random(seed)
    others = [names.scramble(name, rng) for _ in range(INVENTED)]
    records = [
        Record.of(_about(one.question, name, other), _about(one.answer, name, other))
        for other in others
        for one in given
    ]
    found = likelihoods(loaded, records, name="how specific the answers are", progress=progress)
    sums = [0.0 if one is None else float(one.log_probabilities[: one.answer_length].double().sum()) for one in found]
    beside = torch.tensor(sums).double().reshape(INVENTED, len(given)).logsumexp(0) - math.log(INVENTED)
    return [one.likelihood * one.tokens - float(other) for one, other in zip(given, beside, strict=True)]


def _about(text: str, name: str, other: str) -> str:
    """The text about another name; single words of the name are exchanged one by one where it stands in part."""
    text = text.replace(name, other)
    for word, instead in zip(name.split(), other.split(), strict=True):
        if word[0].isupper() and word not in names.LEGAL_FORMS + names.COMPANY_ENDINGS:
            text = re.sub(rf"\b{re.escape(word)}\b", instead, text)
    return text
