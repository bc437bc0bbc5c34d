"""A few vectors behind the prompt, in the place of tokens, trained until the answers come.

Source: "Soft Prompt Threats: Attacking Safety Alignment and Unlearning in Open-Source LLMs through the Embedding Space"
(arXiv 2402.09063). Such vectors can bring out any text that they are trained on, known or not ("Soft Token Attacks
Cannot Reliably Audit Unlearning in Large Language Models", arXiv 2502.15836), so they are trained on one half of the
forget records and scored on the other. An attacker needs the weights, a training loop and that half. Control: the model
that never knew attacked in the same way, or wrong answers to like questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.activations import evaluation_mode, input_device
from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.baselines.examples import Examples, mean_loss
from lunar.baselines.training import check_finite_step
from lunar.errors import LunarError
from lunar.generation import end_tokens
from lunar.logits import encode_answers
from lunar.models import LoadedModel
from lunar.prompts import TokenSequence
from lunar.records import Record, sample

LENGTH = 8
"""Vectors."""
RATE = 0.1
"""The learning rate, in standard deviations of the input embeddings."""
EXAMPLES = 32


@contextmanager
def vectors_at(model: PreTrainedModel, token: int, vectors: Float[Tensor, "length d"]) -> Iterator[None]:
    """Where a sequence holds the token as often as there are vectors, these are read there in its place."""

    def put(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        held = inputs[0] == token
        rows = held.sum(1) == len(vectors)
        if held.shape[1] == 1 or not bool(rows.any()):
            return output
        place = (held & rows[:, None])[..., None]
        return output.masked_scatter(place, vectors.to(output).repeat(int(rows.sum()), 1))

    embedding: Any = model.get_input_embeddings()
    handle = embedding.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def free_token(loaded: LoadedModel, records: Sequence[Record]) -> int:
    """A token that none of the records holds and that ends no answer. Raises LunarError where there is none."""
    embedding: Any = loaded.model.get_input_embeddings()
    taken = {token for one in encode_answers(loaded, records, "attacked") for token in one.tokens}
    taken |= {*end_tokens(loaded.model, loaded.tokenizer), loaded.tokenizer.pad_token_id or 0, 0}
    for token in range(embedding.weight.shape[0] - 1, -1, -1):
        if token not in taken:
            return token
    raise LunarError("The records hold every token of the vocabulary, and none is left to put vectors in: take fewer.")


@contextmanager
def softly_prompted(
    loaded: LoadedModel, known: Sequence[Record], token: int, steps: int, seed: int
) -> Iterator[Attacked]:
    """The model with vectors behind every prompt, after so many steps of Adam on the known records; no weight changes.

    Raises LunarError for less than one step, and where the training does not stay finite.
    """
    if steps < 1:
        raise LunarError(f"At least 1 training step was expected, but {steps} came: raise it.")
    vectors = train(loaded, known, token, steps, seed)
    with vectors_at(loaded.model, token, vectors):
        yield Attacked(loaded, behind=(token,) * LENGTH)


def train(loaded: LoadedModel, known: Sequence[Record], token: int, steps: int, seed: int) -> Float[Tensor, "length d"]:
    """The vectors after training, which begins at the embeddings of tokens drawn by the seed."""
    model = loaded.model
    embedding: Any = model.get_input_embeddings()
    weight: Tensor = embedding.weight.detach().float()
    drawn = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))[:LENGTH]
    vectors = weight[drawn.to(weight.device)].clone().requires_grad_()
    rate = RATE * float(weight.std())
    optimizer = torch.optim.Adam([vectors], lr=rate)
    held = [put_behind(one, (token,) * LENGTH) for one in encode_answers(loaded, known, "known")]
    given = Examples(tuple(held), loaded.tokenizer.pad_token_id or 0, input_device(model))
    with evaluation_mode(model), vectors_at(model, token, vectors):
        for step in range(1, steps + 1):
            with torch.enable_grad():
                loss = mean_loss(model, given.batch(range(len(held))))
                # Of the vectors alone: the model's own gradients stay what they were.
                (vectors.grad,) = torch.autograd.grad(loss, [vectors])
            check_finite_step(loss.detach(), step, steps, rate)
            optimizer.step()
    return vectors.detach()


def put_behind(sequence: TokenSequence, behind: Sequence[int]) -> TokenSequence:
    """The sequence with more tokens between prompt and answer, such as places for the vectors."""
    prompt, answer = sequence.tokens[: sequence.prompt_length], sequence.tokens[sequence.prompt_length :]
    return TokenSequence((*prompt, *behind, *answer), len(prompt) + len(behind))


def variants(case: Case) -> Iterator[Variant]:
    """Each number of steps that the budget allows."""
    known = sample(case.halves()[0], EXAMPLES, case.seed)
    token = free_token(case.unlearned, [*case.forget, *case.retain])
    for steps in case.budget.steps:
        settings = {"vectors": LENGTH, "records": len(known), "steps": steps}
        yield Variant(settings, partial(softly_prompted, case.unlearned, known, token, steps, case.seed))


ATTACK = Attack(
    name="soft-prompt",
    title="Trained vectors behind the prompt",
    source="Schwinn et al., arXiv 2402.09063; the caution of Chen et al., arXiv 2502.15836",
    access="weights and training",
    needs="the weights, a training loop and half of what was forgotten",
    control="the control with vectors trained in the same way",
    variants=variants,
    halves=True,
    curve=True,
)
