"""Token sequences as batches: checked, ordered by length, padded; and what a model is put into to run one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from lunar.errors import LunarError
from lunar.models import context_length
from lunar.prompts import TokenSequence
from lunar.weights import device_of


def check_sequences(model: PreTrainedModel, sequences: Sequence[TokenSequence]) -> None:
    """Raise `LunarError` for the first sequence that the model cannot read as it is."""
    limit = context_length(model)
    embedding: Any = model.get_input_embeddings()
    vocabulary = embedding.weight.shape[0]
    for index, sequence in enumerate(sequences):
        count = len(sequence.tokens)
        if not 1 <= sequence.prompt_length <= count:
            raise LunarError(
                f"Sequence {index} has {count} tokens and a prompt of {sequence.prompt_length}; expected at least one "
                "prompt token and no more than there are tokens."
            )
        if limit is not None and count > limit:
            raise LunarError(
                f"Sequence {index} has {count} tokens, more than the model's context of {limit}: shorten it."
            )
        if not 0 <= min(sequence.tokens) <= max(sequence.tokens) < vocabulary:
            raise LunarError(
                f"Sequence {index} has a token outside the model's vocabulary of {vocabulary}: the tokenizer belongs "
                "to another model."
            )


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first so that memory runs out at once if it does."""
    check_batch_size(batch_size)
    order = longest_first(lengths)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Indices by falling length, those of one length as they came."""
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])


def check_batch_size(batch_size: int) -> None:
    """Raise `LunarError` for a batch of less than one."""
    if batch_size < 1:
        raise LunarError(f"batch_size was expected to be at least 1, got {batch_size}.")


def pad(
    rows: Sequence[Sequence[int]], pad_token_id: int, side: Literal["left", "right"], device: torch.device
) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch length"]]:
    """Token ids and attention mask (1 on tokens, 0 on padding) of rows of different lengths."""
    length = max(len(row) for row in rows)
    tokens = torch.full((len(rows), length), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        tokens[index, place] = torch.tensor(list(row), dtype=torch.long)
        mask[index, place] = 1
    return tokens.to(device), mask.to(device)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where the model expects its token ids."""
    return device_of(model.get_input_embeddings())


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout and the like off, and give every module back the mode it was in."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            # The attribute and not .train(), which would switch the children as well.
            module.training = True
