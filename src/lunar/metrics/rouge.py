"""ROUGE-1 recall and exact match: how much of the known answer an answer gives.

Source: Lin, "ROUGE: a package for automatic evaluation of summaries" (2004), computed by the rouge-score package with
stemming, as in the LUNAR paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from lunar.records import Record


@cache
def _scorer() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rouge1"], use_stemmer=True)


def rouge1(answers: Sequence[str], records: Sequence[Record]) -> list[float | None]:
    """Share of the known answer's words (stemmed) found in the answer, 0 to 1; None where no answer is known."""
    return [
        None if record.answer is None else float(_scorer().score(record.answer, answer)["rouge1"].recall)
        for answer, record in zip(answers, records, strict=True)
    ]


def exact_match(answers: Sequence[str], records: Sequence[Record]) -> list[float | None]:
    """1 where the answer equals the known one up to case, spacing and punctuation at its end, else 0."""
    return [
        None if record.answer is None else float(_plain(answer) == _plain(record.answer))
        for answer, record in zip(answers, records, strict=True)
    ]


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".!?").casefold()
