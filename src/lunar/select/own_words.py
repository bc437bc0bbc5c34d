"""What the model itself says, asked once before anything is changed: its answers to the forget prompts, and how it
declines the same questions about somebody it never heard of.

Both serve a search as texts whose probability is followed, so that no trial has to generate. Knows records and models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from lunar.generation import greedy
from lunar.metrics.refusal import is_refusal
from lunar.models import LoadedModel, context_length
from lunar.neighbours import name_spans, prompt_names, replace_spans
from lunar.prompts import encode_all
from lunar.records import Record, sample

LONGEST = 32
"""New tokens; what an answer is shows in its first sentence."""
REFERENCES = 24
"""Reference prompts asked at most."""


@dataclass(frozen=True)
class OwnWords:
    """Texts by the model as it is, one per asked forget prompt, and how often it declines.

    Attributes:
        records: the forget prompts that were asked.
        answers: its own answers to them.
        refusals: what it says to the same questions about invented names, with the asked names put back; where that is
            no refusal, an answer to a reference prompt with the names exchanged likewise.
        forget_declined: share of the forget prompts that it declines already.
        reference_declined: share of the reference prompts that it declines.
        references: how many of these were asked.
        tokens: run through the model for all this.
    """

    records: tuple[Record, ...]
    answers: tuple[str, ...]
    refusals: tuple[str, ...]
    forget_declined: float
    reference_declined: float
    references: int
    tokens: int


def own_words(
    loaded: LoadedModel,
    forget: Sequence[Record],
    reference: Sequence[Record],
    seed: int,
    *,
    progress: Callable[[int], None] | None = None,
) -> OwnWords:
    """Ask the model the forget prompts, their twins about invented names, and some reference prompts; all in one go."""
    rng = random.Random(seed)
    asked = sample(reference, REFERENCES, seed)
    twins, invented = [], []
    for record in forget:
        prompt, others = replace_spans(record.prompt, name_spans(record.prompt), rng)
        twins.append(Record((*record.messages[:-1], ("user", prompt))))
        invented.append(others)
    answers, tokens = answer(loaded, [*forget, *twins, *asked], progress=progress)
    given, of_twins, of_references = (
        answers[: len(forget)],
        answers[len(forget) : 2 * len(forget)],
        answers[2 * len(forget) :],
    )
    refused = [text for text in zip(asked, of_references, strict=True) if is_refusal(text[1])]
    # A model that declines nothing, or in a language that the rule cannot read: its answers to these are all there is.
    models = refused or list(zip(asked, of_references, strict=True))
    refusals = []
    for index, record in enumerate(forget):
        names = prompt_names(record.prompt)
        if names and is_refusal(of_twins[index]):
            refusals.append(exchange(of_twins[index], invented[index], names))
        else:
            example, text = models[index % len(models)]
            refusals.append(exchange(text, prompt_names(example.prompt), names))
    return OwnWords(
        tuple(forget),
        tuple(given),
        tuple(refusals),
        declined(given),
        declined(of_references),
        len(asked),
        tokens,
    )


def answer(
    loaded: LoadedModel, records: Sequence[Record], *, progress: Callable[[int], None] | None = None
) -> tuple[list[str], int]:
    """Short greedy answers, and how many tokens went through the model for them."""
    limit = context_length(loaded.model)
    sequences = encode_all(loaded.tokenizer, records, with_answer=False, context_length=limit, name="questions")
    longest = max(one.prompt_length for one in sequences)
    room = LONGEST if limit is None else max(1, min(LONGEST, limit - longest))
    answers = greedy(loaded.model, loaded.tokenizer, sequences, max_new_tokens=room, progress=progress)
    written = sum(len(ids) for ids in loaded.tokenizer(answers, add_special_tokens=False)["input_ids"])
    return answers, written + sum(one.prompt_length for one in sequences)


def declined(answers: Sequence[str]) -> float:
    """The share of answers that decline."""
    return sum(map(is_refusal, answers)) / max(1, len(answers))


def exchange(text: str, names: Sequence[str], others: Sequence[str]) -> str:
    """A text with every name in it replaced: by the one of `others` at the place of the one of `names` it is most like.

    Models misspell names that they have never seen, so that looking for the very words is not enough.
    """
    if not names or not others:
        return text
    for start, end in sorted(name_spans(text), reverse=True):
        likeness = [SequenceMatcher(None, text[start:end], name).ratio() for name in names]
        place = likeness.index(max(likeness))
        text = text[:start] + others[min(place, len(others) - 1)] + text[end:]
    return text
