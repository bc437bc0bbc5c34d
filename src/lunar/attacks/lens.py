"""Read every layer as if it were the last: is the first token of the answer that tells there?

Source: the logit lens (nostalgebraist, "interpreting GPT: the logit lens", 2020), as an attack on edited models in "Can
Sensitive Information Be Deleted From LLMs?" (arXiv 2309.17410). The head's logits for the first tokens in which the
right answer and wrong ones differ are compared, behind the prompt and what all of them begin with. An attacker needs
the weights, and the right answer among some candidates. Control: the same for invented names, or the model that never
knew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.attacks.choices import Choice, judged
from lunar.attacks.residuals import Residuals, read_out
from lunar.models import LoadedModel
from lunar.records import Record


@contextmanager
def looked_into(residuals: Residuals, layer: int, pool: Sequence[Record], seed: int) -> Iterator[Attacked]:
    """The model, judged by what its head would say behind a layer."""

    def rate(loaded: LoadedModel, choices: Sequence[Choice]) -> list[list[float]]:
        rows, tokens = residuals.at(choices, layer)
        logits = read_out(loaded, rows)
        return [[float(row[token]) for token in several] for row, several in zip(logits, tokens, strict=True)]

    loaded = residuals.loaded
    yield Attacked(loaded, judge=lambda records: judged(loaded, rate, records, pool, seed))


def variants(case: Case) -> Iterator[Variant]:
    """Every layer; one pass serves all."""
    residuals = Residuals(case.unlearned)
    for site in residuals.sites:
        yield Variant({"layer": site.layer}, partial(looked_into, residuals, site.layer, case.pool(), case.seed))


ATTACK = Attack(
    name="lens",
    title="Every layer read as the last",
    source="logit lens, nostalgebraist 2020; as an attack Patil et al., arXiv 2309.17410",
    access="weights",
    needs="the weights, and to have the right answer among candidates",
    control="the same for names that nobody bears",
    variants=variants,
    unit="chosen rightly",
    curve=True,
)
