"""The same question in other words, made by templates that wrap it.

Redirected beside the forget prompts, they teach the detector to look at what is asked and not at how a prompt begins or
ends; the same templates around what is to be left alone are pinned, so that it does not look at the template instead.
Knows records, no models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from lunar.records import Record

FORMS = (
    "Please tell me: {question}",
    "{question} Keep it short.",
    "Can you help me with a question? {question}",
    'Someone wants to know: "{question}"',
    "Hello! {question}",
    "{question} Thank you in advance.",
    "One more thing: {question}",
    "{question} I am curious.",
)
"""Others than those of `lunar.attacks`, which would be no test otherwise."""


def with_prompt(record: Record, prompt: str) -> Record:
    """The record with another last user message."""
    return replace(record, messages=(*record.messages[:-1], ("user", prompt)))


def in_form(form: str) -> Callable[[Record], Record]:
    """A rewriting that puts the question into the place of {question} in a form."""
    return lambda record: with_prompt(record, form.replace("{question}", record.prompt))


def rewordings(records: Sequence[Record], times: int, seed: int) -> list[Record]:
    """Every record in so many forms, with its answer: all of them once, then all of them again in another form.

    So the i-th is a rewording of record i mod len(records). At most as many as there are forms.
    """
    rng = random.Random(seed)
    drawn = [rng.sample(FORMS, min(times, len(FORMS))) for _ in records]
    turns = zip(*drawn, strict=True)
    return [in_form(form)(record) for turn in turns for form, record in zip(turn, records, strict=True)]


def reworded_sample(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """At most so many of the records, each in one form."""
    rng = random.Random(seed)
    return [in_form(rng.choice(FORMS))(record) for record in rng.sample(records, min(count, len(records)))]
