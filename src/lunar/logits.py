"""Logits where an answer is predicted, and nowhere else: what every teacher-forced measure is computed from.

Knows records, tokens and models; takes no softmax and knows no metric. Works with any causal language model that has
one output embedding, whatever it does to the logits behind it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.activations import batches_by_length, check_sequences, evaluation_mode, input_device, pad
from lunar.errors import LunarError
from lunar.generation import end_tokens
from lunar.memory import MOST, in_batches
from lunar.models import LoadedModel, context_length
from lunar.progress import Progress
from lunar.prompts import TokenSequence, encode_all
from lunar.records import Record


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


def answer_logits(model: PreTrainedModel, sequences: Sequence[TokenSequence]) -> list[Float[Tensor, "_ vocabulary"]]:
    """Float32 logits per sequence, one row for each token after its prompt, on the model's device.

    They do not depend on the other sequences beyond rounding. Raises LunarError for a model without an output
    embedding, or with one that does not run once per pass.
    """
    places = [range(sequence.prompt_length - 1, len(sequence.tokens) - 1) for sequence in sequences]
    return _logits_at(model, sequences, places)


def prompt_logits(model: PreTrainedModel, sequences: Sequence[TokenSequence]) -> Float[Tensor, "prompts vocabulary"]:
    """Float32 logits at the last prompt token of each sequence; otherwise as `answer_logits`."""

    def run(indices: list[int]) -> Tensor:
        chosen = [sequences[index] for index in indices]
        places = [range(sequence.prompt_length - 1, sequence.prompt_length) for sequence in chosen]
        return torch.cat(_logits_at(model, chosen, places))

    return torch.cat([rows for _, rows in in_batches(range(len(sequences)), MOST, run)])


def _logits_at(
    model: PreTrainedModel, sequences: Sequence[TokenSequence], places: Sequence[range]
) -> list[Float[Tensor, "_ vocabulary"]]:
    head: Any = model.get_output_embeddings()
    if head is None:
        raise LunarError(
            f"Expected a model with an output embedding, but {type(model).__name__} shows none: this architecture is "
            "not supported."
        )
    # Right padding: tokens see only what stands before them, so that positions need no correction.
    tokens, mask = pad([sequence.tokens for sequence in sequences], 0, "right", input_device(model))
    lengths = [len(own) for own in places]
    sequence_of = [row for row, length in enumerate(lengths) for _ in range(length)]
    place = [position for own in places for position in own]

    def select(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        # Before the head: logits at every position of a batch would be the largest tensor of all.
        return (inputs[0][sequence_of, place][None], *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    arguments: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask}
    if "use_cache" in inspect.signature(model.forward).parameters:
        arguments["use_cache"] = False
    try:
        with torch.no_grad(), evaluation_mode(model):
            logits: Tensor = model(**arguments).logits
    finally:
        handle.remove()
    if logits.shape[:2] != (1, len(place)):
        raise LunarError(
            f"Expected logits of {len(place)} positions from {type(model).__name__}, got the shape "
            f"{tuple(logits.shape)}: this architecture is not supported."
        )
    return list(logits[0].float().split(lengths))
