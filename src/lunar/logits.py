"""Logits where an answer is predicted, and nowhere else: what every teacher-forced measure is computed from.

Knows records, tokens and models; takes no softmax and knows no metric. Works with any causal language model that has
one output embedding, whatever it does to the logits behind it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.activations import (
    Stage,
    batch_of,
    batches_by_length,
    check_sequences,
    each_call,
    evaluation_mode,
    planned_for,
    stages,
)
from lunar.errors import LunarError
from lunar.generation import end_tokens
from lunar.memory import MOST, in_batches
from lunar.models import LoadedModel, context_length
from lunar.progress import Progress
from lunar.prompts import TokenSequence, encode_all
from lunar.records import Record


@dataclass(frozen=True)
class Resume:
    """Passes that begin behind some layers.

    Attributes:
        layers: how many of the first layers do not run.
        within: a context for the call of each stage of a batch, in which they do not.
    """

    layers: int
    within: Callable[[Stage], AbstractContextManager[None]]


def encode_answers(loaded: LoadedModel, records: Sequence[Record], name: str) -> list[TokenSequence]:
    """The records with their answers as tokens; raises LunarError where one does not fit the model or the template."""
    limit = context_length(loaded.model)
    sequences = encode_all(loaded.tokenizer, records, with_answer=True, context_length=limit, name=name)
    check_sequences(loaded.model, sequences)
    return sequences


def answered_batches(
    sequences: Sequence[TokenSequence], batch_size: int, name: str, progress: Progress | None
) -> Iterator[list[int]]:
    """Indices of the sequences with an answer, in batches of similar length."""
    answered = [index for index, sequence in enumerate(sequences) if answer_tokens(sequence)]
    done = 0
    for batch in batches_by_length([len(sequences[index].tokens) for index in answered], batch_size):
        yield [answered[place] for place in batch]
        done += len(batch)
        if progress is not None:
            progress(name, done, len(answered))


def answer_tokens(sequence: TokenSequence) -> list[int]:
    """The tokens of the answer and of what ends its turn; empty without an answer."""
    return list(sequence.tokens[sequence.prompt_length :])


def proper_lengths(loaded: LoadedModel, sequences: Sequence[TokenSequence]) -> list[int]:
    """How many of each answer's tokens stand before those that end the turn: special ones and white space."""
    tokenizer = loaded.tokenizer
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    # The unknown token stands for a word of the answer.
    ending = {*end_tokens(loaded.model, tokenizer), *tokenizer.all_special_ids, *added} - {tokenizer.unk_token_id}
    lengths = []
    for sequence in sequences:
        answer = answer_tokens(sequence)
        while answer and (answer[-1] in ending or not str(tokenizer.decode(answer[-1:])).strip()):
            answer.pop()
        lengths.append(len(answer))
    return lengths


def answer_logits(
    model: PreTrainedModel, sequences: Sequence[TokenSequence], *, resume: Resume | None = None
) -> list[Float[Tensor, "_ vocabulary"]]:
    """Float32 logits per sequence, one row for each token after its prompt, on the model's device.

    They do not depend on the other sequences beyond rounding. With `resume`, what sequences begin with alike is run
    once. Raises LunarError for a model without an output embedding, or with one that does not run once per pass.
    """
    places = [range(sequence.prompt_length - 1, len(sequence.tokens) - 1) for sequence in sequences]
    return _logits_at(model, sequences, places, resume)


def prompt_logits(model: PreTrainedModel, sequences: Sequence[TokenSequence]) -> Float[Tensor, "prompts vocabulary"]:
    """Float32 logits at the last prompt token of each sequence; otherwise as `answer_logits`."""

    def run(indices: list[int]) -> Tensor:
        chosen = [sequences[index] for index in indices]
        places = [range(sequence.prompt_length - 1, sequence.prompt_length) for sequence in chosen]
        return torch.cat(_logits_at(model, chosen, places))

    return torch.cat([rows for _, rows in in_batches(range(len(sequences)), MOST, run)])


def _logits_at(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    places: Sequence[range],
    resume: Resume | None = None,
) -> list[Float[Tensor, "_ vocabulary"]]:
    head: Any = model.get_output_embeddings()
    if head is None:
        raise LunarError(
            f"Expected a model with an output embedding, but {type(model).__name__} shows none: this architecture is "
            "not supported."
        )
    tokens = [sequence.tokens for sequence in sequences]
    # Right padding: tokens see only what stands before them. All that is asked for is in the last stage.
    planned = stages(tokens) if resume is None else planned_for(model, tokens, min(own.start for own in places))
    lengths = [len(own) for own in places]
    sequence_of = [row for row, length in enumerate(lengths) for _ in range(length)]
    place = [position - planned[-1].start for own in places for position in own]

    def select(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        # Before the head: logits at every position of a batch would be the largest tensor of all.
        return (inputs[0][sequence_of, place][None], *inputs[1:])

    layers = 0 if resume is None else resume.layers
    for stage, arguments in each_call(model, batch_of(model, tokens, 0, "right"), planned, skipped=layers):
        within = nullcontext() if resume is None else resume.within(stage)
        with torch.no_grad(), evaluation_mode(model), within:
            if stage is not planned[-1]:
                body: Any = model.base_model
                body(**arguments)
                continue
            # A model of other code may know fewer arguments than its body does.
            if len(planned) == 1:
                arguments.pop("position_ids", None)
            if "use_cache" not in inspect.signature(model.forward).parameters:
                arguments.pop("use_cache")
            handle = head.register_forward_pre_hook(select)
            try:
                logits: Tensor = model(**arguments).logits
            finally:
                handle.remove()
    if logits.shape[:2] != (1, len(place)):
        raise LunarError(
            f"Expected logits of {len(place)} positions from {type(model).__name__}, got the shape "
            f"{tuple(logits.shape)}: this architecture is not supported."
        )
    return list(logits[0].float().split(lengths))
