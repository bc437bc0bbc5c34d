"""Residual streams where an answer begins to tell, at every layer, and what the model's head makes of them.

Knows models and choices; knows nothing of what is looked for there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lunar.activations import capture_layers, evaluation_mode, input_device
from lunar.attacks.choices import Choice
from lunar.attacks.hooks import changed_residual
from lunar.logits import encode_answers
from lunar.models import LoadedModel, find_sites
from lunar.prompts import TokenSequence
from lunar.records import Record


class Residuals:
    """The outputs of all layers where options begin to differ, one pass for each set of choices."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded, self.sites = loaded, find_sites(loaded.model)
        self._found: dict[tuple[Choice, ...], tuple[dict[int, Tensor], list[list[int]]]] = {}

    def at(self, choices: Sequence[Choice], layer: int) -> tuple[Float[Tensor, "choices d"], list[list[int]]]:
        """One row for each choice, float32 on the CPU, and the token with which each of its options goes on there."""
        key = tuple(choices)
        if key not in self._found:
            sequences, tokens = telling_tokens(self.loaded, key)
            rows = {site.layer: torch.zeros(len(key), site.width) for site in self.sites}
            for batch in capture_layers(self.loaded.model, self.sites, sequences, last_only=True):
                for number, captured in batch.items():
                    rows[number][captured.sequence.cpu()] = captured.residual.float().cpu()
            self._found[key] = rows, tokens
        rows, tokens = self._found[key]
        return rows[layer], tokens


def read_out(loaded: LoadedModel, rows: Float[Tensor, "rows d"]) -> Float[Tensor, "rows vocabulary"]:
    """The logits that the model's last norm and its head make of rows of the residual stream, float32 on the CPU.

    The rows take the place of the last layer's output on sequences of one token.
    """
    model: Any = loaded.model
    tokens = torch.zeros(len(rows), 1, dtype=torch.long, device=input_device(model))

    def put(hidden: Tensor) -> Tensor:
        return rows[:, None].to(hidden)

    with torch.no_grad(), evaluation_mode(model), changed_residual(model, find_sites(model)[-1], put):
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits[:, -1].float().cpu()


def telling_tokens(loaded: LoadedModel, choices: Sequence[Choice]) -> tuple[list[TokenSequence], list[list[int]]]:
    """Where the options of each choice begin to differ, and the token with which each of them goes on there.

    What all of them begin with ("She lives in …") tells nothing and is put behind the prompt, so that a sequence ends
    with the token that predicts the first one that tells. Raises LunarError where an option does not fit the model.
    """
    records = [Record(choice.record.messages, option) for choice in choices for option in choice.options]
    encoded = iter(encode_answers(loaded, records, "attacked"))
    sequences, tokens = [], []
    for choice in choices:
        several = [next(encoded) for _ in choice.options]
        answers = [one.tokens[one.prompt_length :] for one in several]
        shared = 0
        while len(answers) > 1 and shared < min(map(len, answers)) - 1 and len({one[shared] for one in answers}) == 1:
            shared += 1
        end = several[0].prompt_length + shared
        sequences.append(TokenSequence(several[0].tokens[:end], end))
        tokens.append([one[shared] for one in answers])
    return sequences, tokens
