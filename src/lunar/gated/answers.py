"""The linear part of a hardened edit: the shift of the last prompt tokens, and the answers redirected as well.

Taken alone, answer tokens are words that any answer could have. What is pinned for their sake teaches the difference:
the same answers behind invented names and behind retain prompts, where nothing is to happen, and the refusals behind
the forget prompts themselves, which are to be said to their end. No retain data more than the request has is needed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from lunar.collect import Problem, Sets, Work, edit_of
from lunar.generation import greedy
from lunar.moments import Moments
from lunar.records import Record
from lunar.settings import Settings

BEHIND_INVENTED, BEHIND_RETAINED = 2, 3
"""How many of the answers are pinned behind each neighbour and each retain prompt."""
REFUSALS = 3
"""How often the refusals count."""
LONGEST = 48
"""Tokens of an answer by the model."""


def with_answers(work: Work, sets: Sets, problem: Problem, settings: Settings) -> Problem:
    """The problem with the answers' tokens among the redirected rows, and what is pinned for their sake.

    Args:
        problem: with the last prompt tokens redirected alone.

    Answers that the forget records do not have are the model's own.
    """
    loaded, site = work.loaded, problem.site
    with work.stage("own answers"):
        own = iter(said(work, [record for record in sets.forget if not record.answer], "own answers", LONGEST))
        given = [record if record.answer else next(own) for record in sets.forget]
    known = [record for record in given if record.answer]
    if not known:
        return problem
    with work.stage("answers"):
        rows = work.rows("answers", [site], known, with_answer=True)[site.layer]
    shift = edit_of(loaded, site, problem.solve(settings), {}, 1.0, passage=problem.passage)
    with work.stage("refusals"), shift.applied(loaded.model):
        refused = said(work, sets.forget, "refusals", LONGEST)
    pinned = _elsewhere(known, sets, settings.seed) + [record for record in refused if record.answer] * REFUSALS
    more = Moments.zeros(site.inner_width)
    with work.stage("answers elsewhere"):
        for batch in work.capture("answers elsewhere", [site], pinned, with_answer=True):
            other = batch[site.layer]
            inner = other.inner[other.from_end < 0]
            more.update(inner, torch.full((len(inner),), settings.retain_weight))
    answers = rows.from_end < 0
    place = torch.tensor([index for index, record in enumerate(given) if record.answer])
    return replace(
        problem,
        moments=problem.sums().merge(more),
        inner=torch.cat([problem.inner, rows.inner[answers]]),
        residual=torch.cat([problem.residual, rows.residual[answers]]),
        position=torch.cat([problem.position, rows.from_end[answers]]),
        prompt=torch.cat([problem.prompt, place[rows.sequence[answers]]]),
        reworded=torch.cat([problem.reworded, torch.zeros(int(answers.sum()), dtype=torch.bool)]),
    )


def said(work: Work, records: Sequence[Record], name: str, longest: int) -> list[Record]:
    """The records with what the model says to them as it is now."""
    sequences = work.encode(name, records, with_answer=False)
    if not sequences:
        return []
    report = work.reporter(name, len(sequences))
    answers = greedy(work.loaded.model, work.loaded.tokenizer, sequences, max_new_tokens=longest, progress=report)
    return [replace(record, answer=text or None) for record, text in zip(records, answers, strict=True)]


def _elsewhere(known: Sequence[Record], sets: Sets, seed: int) -> list[Record]:
    """Neighbours and retain prompts, each with a few of the forget answers instead of its own."""
    rng = random.Random(seed)
    answers = [record.answer for record in known]
    counts = [(sets.neighbours, BEHIND_INVENTED), (sets.retain, BEHIND_RETAINED)]
    return [
        replace(record, answer=rng.choice(answers)) for group, count in counts for record in group for _ in range(count)
    ]
