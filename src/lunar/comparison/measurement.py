"""Ask a changed model about every split, and score what it says: the numbers of one cell of a comparison.

The forget set is looked at from all sides. Elsewhere as many questions are asked as the request wants, and what needs
the likelihood of known answers is taken on a smaller sample; samples are drawn by a seed and the same for all methods.
Knows what a method gives back, and no method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from lunar.baselines import Outcome
from lunar.comparison.request import Request
from lunar.evaluation import answer_records
from lunar.likelihood import answer_likelihoods, divergences, generated_ranks, likelihoods
from lunar.metrics import (
    METRICS,
    Observed,
    applicable,
    deviation_score,
    false_refusal_rates,
    forget_quality,
    log_truth_ratios,
    membership_auc,
    model_utility,
    priv_leak,
    rings,
    score,
    wrong_answers,
)
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.records import Record, sample
from lunar.settings import HOLDOUT

FORGET = "forget"
NOT_KEPT = (FORGET, HOLDOUT)
MEMBERSHIP = ("loss", "zlib", "min_k", "min_k_plus_plus")
SAMPLE = 64
"""Records of each other split whose known answers are scored: 0.12 at worst."""
UTILITY = ("rouge_l", "answer_probability", "truth_ratio_retain")
"""What TOFU's model utility is the harmonic mean of, on each set that is to be kept."""

Value = TypeVar("Value")


def observe_all(
    loaded: LoadedModel,
    outcome: Outcome,
    request: Request,
    reference_answers: Sequence[str],
    progress: Progress | None = None,
) -> dict[str, Observed]:
    """Everything that the metrics need, by split.

    Args:
        loaded: the original model.
        outcome: what a method made of it.
        request: its splits are asked, and records without answers have fewer scores; its seed draws the samples and
            the wrong answers.
        reference_answers: what the original model says to the reference prompts.
    """
    everything = [record for records in request.splits.values() for record in records]
    asked = {split: _at_most(request.asked, split, records, request.seed) for split, records in request.splits.items()}
    return {
        split: _observe(loaded, outcome, split, records, everything, reference_answers, request.seed, progress)
        for split, records in asked.items()
    }


def _observe(
    loaded: LoadedModel,
    outcome: Outcome,
    split: str,
    records: Sequence[Record],
    everything: Sequence[Record],
    reference_answers: Sequence[str],
    seed: int,
    progress: Progress | None,
) -> Observed:
    places = _places(split, records, seed)
    asked = [outcome.rewrite(record) for record in records]
    chosen, changed = [records[place] for place in places], [asked[place] for place in places]
    answers = answer_records(outcome.loaded, asked, name=f"{split}: answers", progress=progress)
    known = likelihoods(outcome.loaded, changed, name=f"{split}: known answers", progress=progress)
    wrong = answer_likelihoods(
        outcome.loaded,
        changed,
        wrong_answers(chosen, pool=everything, similar=True, seed=seed),
        name=f"{split}: wrong answers",
        progress=progress,
    )
    seen = Observed(
        records=records,
        answers=answers,
        likelihoods=_among(places, known, len(records)),
        wrong_likelihoods=_among(places, wrong, len(records)),
        reference_answers=reference_answers,
    )
    if split != FORGET:
        moved = divergences(loaded, outcome.loaded, chosen, asked=changed, name=f"{split}: divergence")
        return replace(seen, divergences=_among(places, moved, len(records)))
    before = answer_likelihoods(loaded, records, [[answer] for answer in answers], name=f"{split}: original model")
    return replace(
        seen,
        generated_ranks=generated_ranks(outcome.loaded, asked, name=f"{split}: ranks", progress=progress),
        original_likelihoods=[each[0] for each in before],
    )


def scored(split: str, records: Sequence[Record], seed: int) -> list[Record]:
    """The records whose known answers are scored: all of the forget set, at most `SAMPLE` of another."""
    return [records[place] for place in _places(split, records, seed)]


def _places(split: str, records: Sequence[Record], seed: int) -> list[int]:
    return _at_most(SAMPLE, split, [place for place, record in enumerate(records) if record.answer], seed)


def _at_most(count: int, split: str, values: Sequence[Value], seed: int) -> list[Value]:
    """All values of the forget set, a sample of those of another split, in their order."""
    return list(values) if split == FORGET else sample(values, count, f"{seed} {split}")


def _among(places: Sequence[int], values: Sequence[Value], count: int) -> list[Value | None]:
    """The values at their places among `count`, None elsewhere."""
    found: list[Value | None] = [None] * count
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return found


def scores(observed: Mapping[str, Observed], seed: int = 0) -> dict[str, Any]:
    """Every applicable metric of every split with its interval, and the measures that combine splits.

    Entries: "scores" and "questions" by split; "deviation_score" and "deviation_score_unseen" where there are the
    splits for them; "false_refusals" by ring of neighbours; "model_utility"; "log_truth_ratios" of the forget set, one
    number per record, for comparing with a model that never knew it; with a split "holdout", "membership_auc" by score:
    how well forgotten records are told from those.
    """
    table = {
        split: {name: asdict(score(metric, seen)) for name, metric in applicable(seen).items()}
        for split, seen in observed.items()
    }
    kept = [split for split in table if split not in NOT_KEPT]
    result: dict[str, Any] = {
        "scores": table,
        "questions": {split: len(seen.records) for split, seen in observed.items()},
        "false_refusals": {ring: asdict(rate) for ring, rate in _false_refusals(observed, seed).items()},
        "model_utility": model_utility([table[split][name]["value"] for split in kept for name in UTILITY]),
    }
    if FORGET in observed:
        result["log_truth_ratios"] = log_truth_ratios(observed[FORGET])
        for split, title in (("retain", "deviation_score"), ("retain_unseen", "deviation_score_unseen")):
            if split in table:
                parts = [table[one]["rouge1"]["value"] for one in (FORGET, split)]
                result[title] = deviation_score(*parts)
        if HOLDOUT in observed:
            result["membership_auc"] = {
                name: membership_auc(*(METRICS[name](observed[split]) for split in NOT_KEPT)) for name in MEMBERSHIP
            }
    return result


def _false_refusals(observed: Mapping[str, Observed], seed: int) -> Mapping[str, Any]:
    kept = [seen for split, seen in observed.items() if split not in NOT_KEPT]
    forgotten = observed[FORGET].records if FORGET in observed else []
    said: dict[object, str] = {}
    for seen in kept:
        said.update(zip((record.messages for record in seen.records), seen.answers or (), strict=True))
    nearby = rings(forgotten, [record for seen in kept for record in seen.records])
    return false_refusal_rates(
        {ring: ([said[record.messages] for record in records], records) for ring, records in nearby.items()}, seed=seed
    )


def against_retain_only(cell: Mapping[str, Any], retain_only: Mapping[str, Any]) -> dict[str, Any]:
    """The cell with its forget quality and PrivLeak, against the cell of a model that never knew the forget set."""
    ratios = [one.get("log_truth_ratios") or [] for one in (cell, retain_only)]
    compared: dict[str, Any] = {**cell, "forget_quality": forget_quality(*ratios)}
    if "membership_auc" in cell:
        control = retain_only.get("membership_auc", {})
        compared["priv_leak"] = {
            name: priv_leak(area, control.get(name)) for name, area in cell["membership_auc"].items()
        }
    return compared
