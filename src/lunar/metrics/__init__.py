"""Scores of answers: a registry of metrics, and the Deviation Score that combines two of them.

A metric is a function from answers and records to one value per record, None where it does not apply. It knows nothing
of models; `lunar.evaluation` asks the model.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence

from lunar.errors import LunarError
from lunar.metrics.refusal import refusal
from lunar.metrics.rouge import exact_match, rouge1
from lunar.records import Record

Metric = Callable[[Sequence[str], Sequence[Record]], list[float | None]]

METRICS: dict[str, Metric] = {"rouge1": rouge1, "exact_match": exact_match, "refusal_rate": refusal}


def metric(name: str) -> Metric:
    """The metric called `name`; raises LunarError with close matches for an unknown one."""
    if name not in METRICS:
        close = difflib.get_close_matches(name, METRICS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise LunarError(f"Unknown metric {name!r}.{hint} Available: {', '.join(METRICS)}.")
    return METRICS[name]


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that apply; None if none does."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def deviation_score(forget_rouge1: float | None, retain_rouge1: float | None) -> float | None:
    """100·√(R_f² + (1 − R_r)²), 0 is best (LUNAR paper, section 4.1); None if a part is missing."""
    if forget_rouge1 is None or retain_rouge1 is None:
        return None
    return 100 * math.hypot(forget_rouge1, 1 - retain_rouge1)
