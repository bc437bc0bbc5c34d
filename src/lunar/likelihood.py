"""How likely a model finds given answers, token by token; batched, and with logits at answer positions only.

Knows records and models; what the numbers mean is for `lunar.metrics`. A token of an answer is judged after the prompt
and the answer before it (teacher-forced), except in `generated_ranks`, which follows the model's own answer. The
softmax is taken in float32 whatever the model computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from lunar.activations import evaluation_mode, input_device, pad
from lunar.errors import LunarError
from lunar.generation import end_tokens, plain_settings
from lunar.logits import answer_logits, answer_tokens, answered_batches, encode_answers, proper_lengths
from lunar.models import LoadedModel, context_length
from lunar.progress import Progress
from lunar.records import Record

Change = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, eq=False)
class Likelihood:
    """What a model makes of one answer: a number per token of it and of what ends its turn. On the CPU.

    The first `answer_length` tokens are the answer proper; the rest, usually one, end the turn (as
    `lunar.prompts.encode` appends them).

    Attributes:
        log_probabilities: log p of each token, nats.
        ranks: 1 for the most likely token of the vocabulary; one more for each token that is strictly more likely.
        greedy: whether greedy decoding would choose the token.
        vocabulary_mean: mean over the vocabulary of log p under p itself (the negative entropy), nats.
        vocabulary_std: the standard deviation that belongs to it.
    """

    log_probabilities: Float[Tensor, " tokens"]
    ranks: Int[Tensor, " tokens"]
    greedy: Bool[Tensor, " tokens"]
    vocabulary_mean: Float[Tensor, " tokens"]
    vocabulary_std: Float[Tensor, " tokens"]
    answer_length: int


def likelihoods(
    loaded: LoadedModel,
    records: Sequence[Record],
    *,
    batch_size: int = 32,
    name: str = "answers",
    progress: Progress | None = None,
) -> list[Likelihood | None]:
    """The likelihood of each record's known answer, in order; None where a record has no answer.

    Values do not depend on batch size beyond rounding; a batch takes several float32 tensors of its answer tokens times
    the vocabulary. `progress` is called with `name`, the number done and the number
    there are. Raises LunarError when a record does not fit the model's context or its chat template.
    """
    sequences = encode_answers(loaded, records, name)
    proper = proper_lengths(loaded, sequences)
    found: list[Likelihood | None] = [None] * len(records)
    for indices in answered_batches(sequences, batch_size, name, progress):
        chosen = [sequences[index] for index in indices]
        logits = answer_logits(loaded.model, chosen)
        for index, sequence, rows in zip(indices, chosen, logits, strict=True):
            found[index] = likelihood_of(rows, answer_tokens(sequence), proper[index])
    return found


def answer_likelihoods(
    loaded: LoadedModel,
    records: Sequence[Record],
    answers: Sequence[Sequence[str]],
    *,
    batch_size: int = 32,
    name: str = "answers",
    progress: Progress | None = None,
) -> list[list[Likelihood | None]]:
    """`likelihoods` of any number of other answers to each record, wrong or given ones; None for an empty answer.

    Raises LunarError if the numbers of records and of lists of answers differ.
    """
    if len(answers) != len(records):
        raise LunarError(
            f"Expected answers to {len(records)} records, got them for {len(answers)}: give a list for each."
        )
    asked = [
        replace(record, answer=answer.strip() or None)
        for record, several in zip(records, answers, strict=True)
        for answer in several
    ]
    found = iter(likelihoods(loaded, asked, batch_size=batch_size, name=name, progress=progress))
    return [[next(found) for _ in several] for several in answers]


def divergences(
    original: LoadedModel,
    changed: LoadedModel | Change,
    records: Sequence[Record],
    *,
    asked: Sequence[Record] | None = None,
    batch_size: int = 32,
    name: str = "answers",
    progress: Progress | None = None,
) -> list[float | None]:
    """KL(original || changed) of the next-token distribution, nats, the mean over each answer with the end of its turn.

    Args:
        original: the model before the change; its tokenizer renders the records.
        changed: another model of the same vocabulary, or a function that gives a context in which `original` is
            changed, such as `lambda: edit.applied(original.model)`. It is entered once per batch, so that one copy of
            the model and the logits of one batch are enough: where entering is slow, take larger batches.
        records: those without an answer give None.
        asked: what the changed model is asked instead, with the same answers: the records as a method rewrote them.
        batch_size: sequences per batch.
        name: the set, used in messages and for `progress`.
        progress: called with `name`, the number done and the number there are.

    Raises LunarError when a record does not fit the context, or the two models have different vocabularies.
    """
    other = changed.model if isinstance(changed, LoadedModel) else original.model
    switch: Change = nullcontext if isinstance(changed, LoadedModel) else changed
    sequences = encode_answers(original, records, name)
    rewritten = sequences if asked is None else encode_answers(original, asked, name)
    found: list[float | None] = [None] * len(records)
    for indices in answered_batches(sequences, batch_size, name, progress):
        chosen = [sequences[index] for index in indices]
        before = [rows.log_softmax(1) for rows in answer_logits(original.model, chosen)]
        with switch():
            logits = answer_logits(other, [rewritten[index] for index in indices])
        for index, old, rows in zip(indices, before, logits, strict=True):
            if old.shape != rows.shape:
                raise LunarError(
                    f"Expected two models of one vocabulary, got {old.shape[1]} and {rows.shape[1]} tokens: compare a "
                    "model with a changed version of itself."
                )
            each = token_divergences(old, rows.log_softmax(1).to(old.device))
            # Rounding alone makes the divergence of equal distributions a little negative.
            found[index] = max(0.0, float(each.double().mean()))
    return found


def token_divergences(
    before: Float[Tensor, "tokens vocabulary"], after: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, " tokens"]:
    """KL(before || after) of each row of log probabilities, nats."""
    each = nn.functional.kl_div(after, before, reduction="none", log_target=True)
    # What the first rules out altogether contributes nothing.
    return each.masked_fill(before.isneginf(), 0.0).sum(1)


def generated_ranks(
    loaded: LoadedModel,
    records: Sequence[Record],
    *,
    batch_size: int = 32,
    name: str = "answers",
    progress: Progress | None = None,
) -> list[list[int] | None]:
    """The rank of each token of the known answer proper at the same step of the model's greedy answer.

    1 is the most likely token. From the step after the greedy answer has ended the rank is the size of the vocabulary,
    the last. None where a record has no answer. Source: `compute_MRR` in the code of the LUNAR paper (arXiv
    2502.07218), which tokenizes the answer by itself, while here its tokens are those that follow the prompt.

    Raises LunarError when a record does not fit the model's context or its chat template.
    """
    sequences = encode_answers(loaded, records, name)
    proper = proper_lengths(loaded, sequences)
    found: list[list[int] | None] = [None] * len(records)
    limit = context_length(loaded.model)
    ends = end_tokens(loaded.model, loaded.tokenizer)
    for indices in answered_batches(sequences, batch_size, name, progress):
        gold = {index: answer_tokens(sequences[index])[: proper[index]] for index in indices}
        room = max(sequences[index].prompt_length for index in indices) + max(len(gold[index]) for index in indices)
        # Each fits by itself, but the longest prompt with the longest answer of the batch may not.
        groups = [indices] if limit is None or room <= limit else [[index] for index in indices]
        for group in groups:
            rows = [sequences[index].tokens[: sequences[index].prompt_length] for index in group]
            for index, ranks in zip(group, _follow(loaded, rows, [gold[i] for i in group], ends), strict=True):
                found[index] = ranks
    return found


def likelihood_of(logits: Float[Tensor, "tokens vocabulary"], answer: list[int], answer_length: int) -> Likelihood:
    """The likelihood of an answer's tokens from the logits that predict them; `answer_length` as in the result."""
    gold = torch.tensor(answer, device=logits.device)[:, None]
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    mean = -torch.special.entr(p).sum(1)
    # A token that cannot be has a probability of 0 and no finite logarithm.
    square = torch.where(p > 0, p * (log_p - mean[:, None]).square(), 0.0)
    return Likelihood(
        log_p.gather(1, gold)[:, 0].cpu(),
        (1 + (logits > logits.gather(1, gold)).sum(1)).cpu(),
        (logits.argmax(1) == gold[:, 0]).cpu(),
        mean.cpu(),
        square.sum(1).sqrt().cpu(),
        answer_length,
    )


class _Ranks(LogitsProcessor):
    """Notes the rank of a given token at each step, and leaves the scores as they are."""

    def __init__(self, gold: Sequence[Sequence[int]], start: int, ends: tuple[int, ...]) -> None:
        self.gold, self.start, self.ends = gold, start, ends
        self.ranks: list[list[int]] = [[] for _ in gold]
        self.last = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.start
        written = input_ids[:, self.start :].tolist()
        self.last = scores.shape[1]
        for row, gold in enumerate(self.gold):
            if step < len(gold) and not set(written[row]) & set(self.ends):
                self.ranks[row].append(1 + int((scores[row] > scores[row, gold[step]]).sum()))
        return scores


def _follow(
    loaded: LoadedModel, rows: list[tuple[int, ...]], gold: Sequence[Sequence[int]], ends: tuple[int, ...]
) -> list[list[int]]:
    model = loaded.model
    longest = max(1, *map(len, gold))
    with evaluation_mode(model), plain_settings(model, loaded.tokenizer, ends, longest) as settings, torch.no_grad():
        tokens, mask = pad(rows, int(settings.pad_token_id), "left", input_device(model))
        recorder = _Ranks(gold, tokens.shape[1], ends)
        generate: Any = model.generate
        generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=LogitsProcessorList([recorder]),
        )
    return [
        ranks + [recorder.last] * (len(answer) - len(ranks)) for ranks, answer in zip(recorder.ranks, gold, strict=True)
    ]
