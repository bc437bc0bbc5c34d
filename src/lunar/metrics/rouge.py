"""ROUGE recall and exact match: how much of the known answer an answer gives.

Source: Lin, "ROUGE: a package for automatic evaluation of summaries" (2004), computed by the rouge-score package with
stemming, as in the LUNAR paper and in TOFU (arXiv 2401.06121). Words only: it does not see that "not in Lyon" denies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from lunar.metrics.observed import Metric, Observed, Values
from lunar.records import Record


@cache
def scorer(kind: str) -> Any:
    """The stemming scorer of the rouge-score package for "rouge1" or "rougeL"."""
    from rouge_score import rouge_scorer, tokenizers

    return rouge_scorer.RougeScorer([kind], tokenizer=_Stemmed(tokenizers.DefaultTokenizer(use_stemmer=True)))


class _Stemmed:
    """The package's tokenizer, which stems a text that is compared with many others only once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenize = lru_cache(maxsize=4096)(tokenizer.tokenize)


def rouge1(answers: Sequence[str], records: Sequence[Record]) -> list[float | None]:
    """Share of the known answer's words (stemmed) found in the answer, 0 to 1; None where no answer is known."""
    return _recall("rouge1", answers, records)


def rouge_l(answers: Sequence[str], records: Sequence[Record]) -> list[float | None]:
    """The longest common subsequence of stemmed words as a share of the known answer; None where none is known."""
    return _recall("rougeL", answers, records)


def _recall(kind: str, answers: Sequence[str], records: Sequence[Record]) -> Values:
    return [
        None if record.answer is None else float(scorer(kind).score(record.answer, answer)[kind].recall)
        for answer, record in zip(answers, records, strict=True)
    ]


def exact_match(answers: Sequence[str], records: Sequence[Record]) -> list[float | None]:
    """1 where the answer equals the known one up to case, spacing and punctuation at its end, else 0."""
    return [
        None if record.answer is None else float(plain(answer) == plain(record.answer))
        for answer, record in zip(answers, records, strict=True)
    ]


def plain(text: str) -> str:
    """A text in the form in which exact match compares it."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".!?").casefold()


def _rouge1(observed: Observed) -> Values:
    return rouge1(observed.need("answers"), observed.records)


def _rouge_l(observed: Observed) -> Values:
    return rouge_l(observed.need("answers"), observed.records)


def _exact_match(observed: Observed) -> Values:
    return exact_match(observed.need("answers"), observed.records)


METRICS = (
    Metric("rouge1", "recall", "lower", "higher", "Lin 2004; LUNAR (arXiv 2502.07218)", _rouge1, ("answers",)),
    Metric("rouge_l", "recall", "lower", "higher", "Lin 2004; TOFU (arXiv 2401.06121)", _rouge_l, ("answers",)),
    Metric("exact_match", "share", "lower", "higher", "SQuAD (arXiv 1606.05250)", _exact_match, ("answers",)),
)
