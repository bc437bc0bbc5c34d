"""Ask a model questions and score its answers, before and after an edit.

Knows models, records and metrics; knows nothing of how an edit was found or where reports go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

from lunar.edit import Edit
from lunar.generation import greedy
from lunar.metrics import Observed, applicable, deviation_score, mean, score
from lunar.models import LoadedModel, context_length
from lunar.progress import Progress
from lunar.prompts import TokenSequence, encode_all
from lunar.records import Record

Scores = dict[str, float | None]

SHORTEST_LIMIT = 48
"""New tokens allowed at least, so that a refusal is not cut off where the known answers are short."""


TURN_END = 4
"""Tokens left free behind an answer for what ends a turn, so that the model can read its own answers again."""


@dataclass(frozen=True)
class Comparison:
    """Answers and scores of one split before and after the edit; the same order as the records."""

    records: Sequence[Record]
    before: list[str]
    after: list[str]

    def scores(self) -> dict[str, dict[str, float | None]]:
        """The mean before and after, per metric that needs nothing but answers."""
        observed = {moment: Observed(self.records, answers) for moment, answers in self.moments()}
        return {
            name: {moment: mean(metric(seen)) for moment, seen in observed.items()}
            for name, metric in applicable(observed["before"]).items()
        }

    def moments(self) -> list[tuple[str, list[str]]]:
        """The answers by moment: "before" and "after"."""
        return [("before", self.before), ("after", self.after)]


def answer_records(
    loaded: LoadedModel, records: Sequence[Record], *, name: str = "questions", progress: Progress | None = None
) -> list[str]:
    """Greedy answers, in the order of the records.

    The limit on their length follows the longest known answer, as far as the model's context goes.
    """
    limit = context_length(loaded.model)
    sequences = encode_all(loaded.tokenizer, records, with_answer=False, context_length=limit, name=name)
    return greedy(
        loaded.model,
        loaded.tokenizer,
        sequences,
        max_new_tokens=new_tokens(loaded, sequences, records),
        progress=None if progress is None else lambda done: progress(name, done, len(sequences)),
    )


def new_tokens(loaded: LoadedModel, sequences: Sequence[TokenSequence], records: Sequence[Record]) -> int:
    """How many tokens an answer to these prompts may have: enough for the longest known one, as the context allows."""
    limit = context_length(loaded.model)
    longest = max((sequence.prompt_length for sequence in sequences), default=0)
    room = None if limit is None else max(1, limit - longest - TURN_END)
    known = [len(loaded.tokenizer.encode(r.answer, add_special_tokens=False)) for r in records if r.answer]
    wanted = max([SHORTEST_LIMIT, *(length + 16 for length in known)])
    return wanted if room is None else min(wanted, room)


def own_answers(
    loaded: LoadedModel, records: Sequence[Record], *, name: str = "questions", progress: Progress | None = None
) -> list[Record]:
    """The records, those without an answer with the model's own greedy one: what it knows, if it knows it.

    A record to which the model says nothing at all keeps no answer.
    """
    open_ones = [record for record in records if not record.answer]
    if not open_ones:
        return list(records)
    said = iter(answer_records(loaded, open_ones, name=f"{name}: own answers", progress=progress))
    return [record if record.answer else replace(record, answer=next(said).strip() or None) for record in records]


def compare(
    loaded: LoadedModel, edit: Edit, splits: Mapping[str, Sequence[Record]], *, progress: Progress | None = None
) -> dict[str, Comparison]:
    """Answers of every split without and with the edit; the model is left as it was."""
    return compare_edits(loaded, None, edit, splits, progress=progress)


def compare_edits(
    loaded: LoadedModel,
    first: Edit | None,
    second: Edit,
    splits: Mapping[str, Sequence[Record]],
    *,
    progress: Progress | None = None,
) -> dict[str, Comparison]:
    """Answers of every split with one edit (None for the original model) and with another; both are off again then."""
    with first.applied(loaded.model) if first is not None else nullcontext():
        before = _ask_all(loaded, splits, "before", progress)
    with second.applied(loaded.model):
        after = _ask_all(loaded, splits, "after", progress)
    return {name: Comparison(records, before[name], after[name]) for name, records in splits.items()}


def _ask_all(
    loaded: LoadedModel, splits: Mapping[str, Sequence[Record]], moment: str, progress: Progress | None
) -> dict[str, list[str]]:
    """All splits in one run of the model, so that its batches are full and its progress is one bar."""
    everything = [record for records in splits.values() for record in records]
    stage = f"answers {moment}"
    answers = iter(answer_records(loaded, everything, name=stage, progress=progress))
    return {name: [next(answers) for _ in records] for name, records in splits.items()}


def scores_with_intervals(comparisons: Mapping[str, Comparison]) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Split, metric and moment to mean, count, unit and 95% interval: what a record keeps of the answers."""
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for name, comparison in comparisons.items():
        observed = {moment: Observed(comparison.records, answers) for moment, answers in comparison.moments()}
        found[name] = {
            metric: {moment: asdict(score(one, seen)) for moment, seen in observed.items()}
            for metric, one in applicable(observed["before"]).items()
        }
    return found


def summary(comparisons: Mapping[str, Comparison]) -> dict[str, object]:
    """The scores of all splits and the Deviation Score, in the form of report.json."""
    scores = {name: comparison.scores() for name, comparison in comparisons.items()}
    result: dict[str, object] = {
        "scores": scores,
        "questions": {name: len(comparison.records) for name, comparison in comparisons.items()},
        "known_answers": {
            name: sum(bool(record.answer) for record in comparison.records) for name, comparison in comparisons.items()
        },
    }
    if "forget" in scores and "retain" in scores:
        result["deviation_score"] = {
            moment: deviation_score(scores["forget"]["rouge1"][moment], scores["retain"]["rouge1"][moment])
            for moment in ("before", "after")
        }
    return result
