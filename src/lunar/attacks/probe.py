"""Train a linear map from a layer's output to the answer's next token, and read with it what was not shown.

Source: linear probes, "Understanding intermediate layers using linear classifier probes" (arXiv 1610.01644). A token
that is asked for may never have been a class of the probe, so it maps into the space of the model's output embedding,
by ridge regression on retain records and half of the forget records; on the other half the right answer is to come out
before wrong ones, at the first token in which they differ. A measurement, and no attack that counts: with a few dozen
records it finds something about people who do not exist too (docs/log.md). An attacker needs the weights, that data,
and the right answer among some candidates. Controls: the same for invented names, or the model that never knew; and,
noted beside each layer, a probe of the same activations with shuffled answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.attacks.choices import Choice, Judge, choices_of, judged, layer_for
from lunar.attacks.residuals import Residuals
from lunar.errors import LunarError
from lunar.models import LoadedModel
from lunar.records import Record

RIDGE = 0.1
"""Of the mean of the diagonal of the standardised features' second moments."""


@dataclass(frozen=True)
class Probe:
    """score(token) = (x − mean)/deviation · weight · u(token), with u the centred output embeddings of unit length."""

    mean: Float[Tensor, " d"]
    deviation: Float[Tensor, " d"]
    weight: Float[Tensor, "d e"]

    @classmethod
    def fit(cls, rows: Float[Tensor, "records d"], targets: Float[Tensor, "records e"]) -> Probe:
        """Ridge regression from activations to the embeddings of the tokens that follow."""
        mean, deviation = rows.mean(0), rows.std(0, correction=0).clamp_min(1e-6)
        features = (rows - mean) / deviation
        gram = features.T @ features
        penalty = RIDGE * gram.diagonal().mean().clamp_min(1e-6)
        return cls(mean, deviation, torch.linalg.solve(gram + penalty * torch.eye(len(gram)), features.T @ targets))

    def read(self, rows: Float[Tensor, "records d"]) -> Float[Tensor, "records e"]:
        """Where in the space of output embeddings the rows point."""
        return ((rows - self.mean) / self.deviation) @ self.weight


def embeddings(loaded: LoadedModel) -> Float[Tensor, "vocabulary e"]:
    """The output embeddings, centred and of unit length, float32 on the CPU."""
    head: Any = loaded.model.get_output_embeddings()
    if head is None:
        raise LunarError(
            f"Expected a model with an output embedding, but {type(loaded.model).__name__} shows none: leave this "
            "attack out."
        )
    weight: Tensor = head.weight.detach().float().cpu()
    centred = weight - weight.mean(0)
    return centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-6)


def judge_at(
    residuals: Residuals, layer: int, known: Sequence[Choice], pool: Sequence[Record], seed: int, *, shuffled: bool
) -> Judge:
    """Judges the model by a probe of a layer that was fitted on known records, or on their answers shuffled."""
    loaded = residuals.loaded
    space = embeddings(loaded)
    shown, options = residuals.at(known, layer)
    tokens = [several[0] for several in options]
    if shuffled:
        random.Random(f"{seed} shuffled").shuffle(tokens)
    probe = Probe.fit(shown, space[tokens])

    def rate(loaded: LoadedModel, choices: Sequence[Choice]) -> list[list[float]]:
        rows, tokens = residuals.at(choices, layer)
        read = probe.read(rows)
        return [[float(row @ space[token]) for token in several] for row, several in zip(read, tokens, strict=True)]

    return lambda records: judged(loaded, rate, records, pool, seed)


@contextmanager
def probed(
    residuals: Residuals,
    layers: Sequence[int],
    known: Sequence[Record],
    pool: Sequence[Record],
    seed: int,
    *,
    shuffled: bool = False,
) -> Iterator[Attacked]:
    """The model, judged by a probe of one of the layers.

    The layer is the one that shows most about every second known record when fitted on the others and the rest of the
    pool; the probe is then fitted on all of them. Raises LunarError where no answers differ.
    """
    layer = layers[0]
    if len(layers) > 1:
        shown = _learnt(known[::2], pool, seed)
        judges = {one: judge_at(residuals, one, shown, pool, seed, shuffled=False) for one in layers}
        layer = layer_for(judges, known[1::2])
    learnt = _learnt(known, pool, seed)
    yield Attacked(residuals.loaded, judge=judge_at(residuals, layer, learnt, pool, seed, shuffled=shuffled))


def _learnt(known: Sequence[Record], pool: Sequence[Record], seed: int) -> list[Choice]:
    """What a probe is fitted on: answers with others from which they differ."""
    found = [one for one in choices_of(known, pool, seed) if one is not None]
    if not found:
        raise LunarError("A probe learns from answers that differ, but no two like questions have any: add answers.")
    return found


def variants(case: Case) -> Iterator[Variant]:
    """A layer chosen on what the attacker has; and, as a comparison, every layer, also with shuffled answers."""
    pool = case.pool()
    mine = {record.messages for record in case.forget}
    known = [*case.halves()[0], *(record for record in pool if record.messages not in mine)]
    residuals = Residuals(case.unlearned)
    layers = [site.layer for site in residuals.sites]
    probe = partial(probed, residuals, known=known, pool=pool, seed=case.seed)
    yield Variant({"layer": "by what is known", "records": len(known), "shuffled": False}, partial(probe, layers))
    for layer in layers:
        for shuffled in (False, True):
            settings = {"layer": layer, "records": len(known), "shuffled": shuffled}
            yield Variant(settings, partial(probe, [layer], shuffled=shuffled), counts=False)


ATTACK = Attack(
    name="probe",
    title="A linear probe of every layer",
    source="Alain and Bengio, arXiv 1610.01644; into the output embeddings by ridge regression, this library",
    access="weights and training",
    needs="the weights, answered retain prompts and half of what was forgotten, and the answer among candidates",
    control="the same for names that nobody bears; beside it, shuffled answers",
    variants=variants,
    halves=True,
    unit="chosen rightly",
    curve=True,
    costly=True,
    measures=True,
)
