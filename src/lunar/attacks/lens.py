"""Read every layer as if it were the last: is the first token of the answer that tells there?

Source: the logit lens (nostalgebraist, "interpreting GPT: the logit lens", 2020), as an attack on edited models in "Can
Sensitive Information Be Deleted From LLMs?" (arXiv 2309.17410). The head's logits for the first tokens in which the
right answer and wrong ones differ are compared, behind the prompt and what all of them begin with. Which
layer shows most is found on one half of the forget records and scored on the other. An attacker needs the weights, that
half, and the right answer among some candidates. Control: the same for invented names, or the model that never knew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.attacks.choices import Choice, Judge, judged, layer_for
from lunar.attacks.residuals import Residuals, read_out
from lunar.models import LoadedModel
from lunar.records import Record


def judge_at(residuals: Residuals, layer: int, pool: Sequence[Record], seed: int) -> Judge:
    """Judges the model by what its head would say behind a layer."""

    def rate(loaded: LoadedModel, choices: Sequence[Choice]) -> list[list[float]]:
        rows, tokens = residuals.at(choices, layer)
        logits = read_out(loaded, rows)
        return [[float(row[token]) for token in several] for row, several in zip(logits, tokens, strict=True)]

    return lambda records: judged(residuals.loaded, rate, records, pool, seed)


@contextmanager
def looked_into(loaded: LoadedModel, judges: Mapping[int, Judge], known: Sequence[Record]) -> Iterator[Attacked]:
    """The model, read at the one of the layers that shows most about known records."""
    yield Attacked(loaded, judge=judges[layer_for(judges, known)])


def variants(case: Case) -> Iterator[Variant]:
    """The layer that shows most on the half that the attacker has; and, as a comparison, every layer."""
    residuals, known = Residuals(case.unlearned), case.halves()[0]
    judges = {site.layer: judge_at(residuals, site.layer, case.pool(), case.seed) for site in residuals.sites}
    yield Variant({"layer": "by the known half"}, partial(looked_into, case.unlearned, judges, known))
    for layer, judge in judges.items():
        yield Variant({"layer": layer}, partial(looked_into, case.unlearned, {layer: judge}, known), counts=False)


ATTACK = Attack(
    name="lens",
    title="Every layer read as the last",
    source="logit lens, nostalgebraist 2020; as an attack Patil et al., arXiv 2309.17410",
    access="weights",
    needs="the weights, half of what was forgotten, and to have the right answer among candidates",
    control="the same for names that nobody bears",
    variants=variants,
    halves=True,
    unit="chosen rightly",
    curve=True,
)
