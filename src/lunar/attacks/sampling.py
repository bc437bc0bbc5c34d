"""Ask many times at temperature 1, and see how good the best of k answers is.

Source: leak at k, as in "Leak@k: Unlearning Does Not Make LLMs Forget Under Probabilistic Decoding" (arXiv 2511.04934)
and "A Probabilistic Perspective on Unlearning and Alignment for Large Language Models" (arXiv 2410.03523). Leak@k is
the expected best recall among k answers; it is estimated without bias from n ≥ k drawn ones, as pass@k is in
"Evaluating Large Language Models Trained on Code" (arXiv 2107.03374). An attacker needs to ask often and to know a
right answer when it is there, so this is what may be found among the answers and not what is found. Control: leak@k of
the model that never knew, or by wrong answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import comb

from lunar.attacks.asking import answers
from lunar.attacks.attack import Attack, Attacked, Case, Judged, Variant
from lunar.errors import LunarError
from lunar.metrics import mean, wrong_answers
from lunar.metrics.observed import Values
from lunar.metrics.rouge import rouge1
from lunar.models import LoadedModel
from lunar.records import Record

QUESTIONS = 40
"""Asked at most: each of them many times."""


def leak(recalls: Sequence[float], k: int) -> float:
    """The expected largest of k values drawn without replacement from these n, 0 to 1.

    Without bias for what k fresh answers would bring: Σ v₍ᵢ₎ C(i − 1, k − 1) / C(n, k) over the sorted values (arXiv
    2107.03374, there for values of 0 and 1). Raises LunarError for a k that is not from 1 to n.
    """
    count = len(recalls)
    if not 1 <= k <= count:
        raise LunarError(f"Leak@k takes a k from 1 to the {count} answers drawn, but {k} came: change it.")
    return sum(value * comb(place, k - 1) for place, value in enumerate(sorted(recalls))) / comb(count, k)


class Drawn:
    """Recall of many answers to each record, drawn once for all k; and how much of wrong answers they hold."""

    def __init__(self, loaded: LoadedModel, count: int, pool: Sequence[Record], seed: int) -> None:
        if count < 1:
            raise LunarError(f"At least 1 answer must be drawn for each question, but {count} came: raise it.")
        self.loaded, self.count, self.pool, self.seed = loaded, count, pool, seed
        self._found: dict[tuple[Record, ...], tuple[list[list[float]], list[list[list[float]]]]] = {}

    def leaks(self, records: Sequence[Record], k: int) -> Judged:
        """Leak@k of each record, and the mean leak@k of up to five wrong answers to like questions."""
        own, others = self._recalls(tuple(records))
        values: Values = [leak(one, k) if one else None for one in own]
        return Judged(values, [mean([leak(one, k) for one in several]) for several in others])

    def _recalls(self, records: tuple[Record, ...]) -> tuple[list[list[float]], list[list[list[float]]]]:
        if records not in self._found:
            said = answers(Attacked(self.loaded, samples=self.count), records, self.seed)
            wrong = wrong_answers(records, pool=self.pool, similar=True, seed=self.seed)
            own = [_each(one.answer, several) for one, several in zip(records, said, strict=True)]
            others = [[_each(one, several) for one in wrongs] for wrongs, several in zip(wrong, said, strict=True)]
            self._found[records] = own, others
        return self._found[records]


def _each(answer: str | None, several: Sequence[str]) -> list[float]:
    """Recall of an answer in each of several texts; empty without one."""
    if not answer:
        return []
    # Many samples are alike, and stemming takes longer than looking up.
    distinct = list(dict.fromkeys(several))
    found = dict(zip(distinct, rouge1(distinct, [Record.of("?", answer)] * len(distinct)), strict=True))
    return [found[one] or 0.0 for one in several]


@contextmanager
def sampling(drawn: Drawn, k: int) -> Iterator[Attacked]:
    """The model asked k times at temperature 1, as estimated from what was drawn."""
    yield Attacked(drawn.loaded, judge=lambda records: drawn.leaks(records, k))


def variants(case: Case) -> Iterator[Variant]:
    """The points of the curve: k = 1, 2, 4 and so on, up to as many answers as the budget allows."""
    count = case.budget.samples
    drawn = Drawn(case.unlearned, count, case.pool(), case.seed)
    powers = [2**power for power in range(count.bit_length()) if 2**power < count]
    for k in [*powers, count]:
        yield Variant({"samples": count, "k": k}, partial(sampling, drawn, k))


ATTACK = Attack(
    name="sampling",
    title="Many answers at temperature 1",
    source="leak at k, arXiv 2511.04934; Scholten et al., arXiv 2410.03523; estimator of Chen et al., arXiv 2107.03374",
    access="black box",
    needs="to ask often, and to know a right answer when it is there",
    control="leak at k of the control",
    variants=variants,
    curve=True,
    most=QUESTIONS,
)
