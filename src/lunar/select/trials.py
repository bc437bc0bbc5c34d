"""Trials of edits by teacher forcing: how likely are the model's own answer, a refusal, and what is to be left alone.

Nothing is generated and no weight is changed: a trial resumes from the cached residual of its layer. Knows models and
tokens, not how candidates are made or which one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lunar.collect import Problem, edit_of
from lunar.edit import Edit
from lunar.likelihood import token_divergences
from lunar.logits import answer_tokens
from lunar.models import LoadedModel, Site, context_length
from lunar.passage import Passage
from lunar.prompts import TokenSequence, encode
from lunar.records import Record
from lunar.select.own_words import OwnWords
from lunar.select.resume import Cached, cache, resumed_logits
from lunar.solve import Solution

OPENING = 5
"""Tokens of an answer and of a refusal that are compared: what follows the first words says little about the choice
between them, and texts of different length could not be compared."""
GONE = 0.01
"""A probability of the own answer below which it is gone, however the model words its refusal."""
BEGUN = 0.1
"""A probability of its first word below which the own answer is not begun, likewise."""
RETAINED = 8
"""Tokens of a retained answer that are followed at most."""


@dataclass(frozen=True)
class Trial:
    """One candidate and what came of it.

    Attributes:
        layer: the decoder layer.
        target: of the redirected rows.
        forget_weight: of the redirected rows.
        strength: factor on the change; where each prompt has its own, the smallest.
        original: mean probability of the first tokens of the model's own answers to the forget prompts.
        refusal: mean probability of as many tokens of a refusal.
        redirected: share of the forget prompts at which the refusal is the likelier of the two, or the own answer gone,
            and does not begin either.
        retain_divergence: KL(original || edited) on held-out retain prompts, nats per token; None where a weaker edit
            redirects already, or none at this layer does.
        raised: how many forget prompts have a larger strength than that.
        strongest: the largest that one has; None where all have the same.
    """

    layer: int
    target: str
    forget_weight: float
    strength: float
    original: float
    refusal: float
    redirected: float
    retain_divergence: float | None = None
    raised: int = 0
    strongest: float | None = None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A change that can be tried at any strength.

    Attributes:
        site: of the layer.
        solution: the change of its write-back matrix at strength 1.
        behind: changes of matrices of later layers, made for a strength of 1 only.
        passage: how what the matrix writes arrives, for a solution that says what is to arrive; None for one that says
            what is written, and arrives as it is.
        problem: what it is the solution of, where each prompt can have a strength of its own; None elsewhere.
    """

    site: Site
    solution: Solution
    behind: Edit | None = None
    passage: Passage | None = None
    problem: Problem | None = None

    def edit(self, loaded: LoadedModel, strength: float) -> Edit:
        """The change as an edit."""
        return edit_of(loaded, self.site, self.solution, {}, strength, self.behind, passage=self.passage)

    def later(self, model: nn.Module) -> AbstractContextManager[None]:
        """Within the block, the later layers are changed."""
        return nullcontext() if self.behind is None else self.behind.applied(model)


@dataclass(frozen=True, eq=False)
class Heard:
    """What is likely to be said at each forget prompt that is compared.

    Attributes:
        own: [compared] probability of the first tokens of the model's own answer.
        refusal: [compared] of as many tokens of a refusal.
        own_first: [compared] of the own answer's token where the two part.
        refusal_first: [compared] of the refusal's there.
    """

    own: Float[Tensor, " compared"]
    refusal: Float[Tensor, " compared"]
    own_first: Float[Tensor, " compared"]
    refusal_first: Float[Tensor, " compared"]

    def redirected(self) -> Bool[Tensor, " compared"]:
        """Where the refusal is the likelier of the two, or the own answer gone, and it does not begin either.

        A prompt that is moved too little begins with the words of the answer and turns into a refusal behind them.
        """
        instead = (self.refusal > self.own) | (self.own < GONE)
        return instead & ((self.refusal_first > self.own_first) | (self.own_first < BEGUN))


class Bench:
    """The texts of all trials, cached at some layers by one pass.

    Attributes:
        compared: the forget prompts whose own answer and refusal differ.
        forget_tokens: of the cached sequences that are compared.
        retain_tokens: of those that are to be left alone.
    """

    def __init__(self, loaded: LoadedModel, sites: Sequence[Site], words: OwnWords, retain: Sequence[Record]) -> None:
        self.model = loaded.model
        openings = {
            place: pair
            for place, texts in enumerate(zip(words.records, words.answers, words.refusals, strict=True))
            if (pair := _openings(loaded, *texts)) is not None
        }
        retained = [_cut(_answered(loaded, record, record.answer or ""), RETAINED) for record in retain]
        pairs = [sequence for pair in openings.values() for sequence in pair]
        self.compared = tuple(words.records[place] for place in openings)
        self._parting = [_parting(*pair) or 0 for pair in openings.values()]
        self.forget_tokens = sum(len(sequence.tokens) for sequence in pairs)
        self.retain_tokens = sum(len(sequence.tokens) for sequence in retained)
        self._forget = cache(loaded.model, sites, pairs) if pairs else []
        self._retain = cache(loaded.model, sites, retained) if retained else []

    def forget(self, candidate: Candidate, strength: float) -> Heard:
        """How likely own answers and refusals are with a candidate."""
        logs, first = torch.zeros(2, 2 * len(self.compared), dtype=torch.float64)
        for batch in self._forget:
            logits = self._changed(candidate, batch, strength)
            for index, sequence, rows in zip(batch.indices, batch.sequences, logits, strict=True):
                gold = torch.tensor(answer_tokens(sequence), device=rows.device)[:, None]
                each = rows.double().log_softmax(1).gather(1, gold)[:, 0].cpu()
                logs[index], first[index] = each.sum(), each[self._parting[index // 2]]
        return Heard(logs[0::2].exp(), logs[1::2].exp(), first[0::2].exp(), first[1::2].exp())

    def divergence(self, candidate: Candidate, strength: float) -> float:
        """KL(original || edited) per token of the retained answers, nats."""
        total, count = 0.0, 0
        for batch in self._retain:
            # Resumed like the changed one, so that both are rounded alike.
            before = resumed_logits(self.model, candidate.site, batch)
            after = self._changed(candidate, batch, strength)
            count += sum(len(rows) for rows in before)
            for old, rows in zip(before, after, strict=True):
                each = token_divergences(old.log_softmax(1), rows.log_softmax(1))
                total += float(each.sum().double())
        return max(0.0, total / max(1, count))

    def _changed(self, candidate: Candidate, batch: Cached, strength: float) -> list[Float[Tensor, "_ vocabulary"]]:
        with candidate.later(self.model):
            solution, passage = candidate.solution, candidate.passage
            return resumed_logits(self.model, candidate.site, batch, solution, strength, passage)


def _openings(
    loaded: LoadedModel, record: Record, answer: str, refusal: str
) -> tuple[TokenSequence, TokenSequence] | None:
    """The first tokens of both texts, as many of each, up to beyond where they part; None if they never do."""
    pair = [_answered(loaded, record, text) for text in (answer, refusal)]
    parting = _parting(*pair)
    if parting is None:
        return None
    length = min(*(len(answer_tokens(sequence)) for sequence in pair), max(OPENING, parting + 2))
    return _cut(pair[0], length), _cut(pair[1], length)


def _parting(first: TokenSequence, second: TokenSequence) -> int | None:
    """The first place at which two answers differ; None where one is how the other begins."""
    pairs = zip(answer_tokens(first), answer_tokens(second), strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), None)


def _answered(loaded: LoadedModel, record: Record, text: str) -> TokenSequence:
    """The record with this answer; with the end of the turn alone for an empty one, cut where the context ends."""
    limit = context_length(loaded.model)
    asked = Record(record.messages, text.strip() or None)
    sequence = encode(loaded.tokenizer, asked, with_answer=True, context_length=None, name="questions", number=1)
    if len(sequence.tokens) == sequence.prompt_length:
        end = loaded.tokenizer.eos_token_id or 0
        sequence = TokenSequence((*sequence.tokens, int(end)), sequence.prompt_length)
    return sequence if limit is None else TokenSequence(sequence.tokens[:limit], sequence.prompt_length)


def _cut(sequence: TokenSequence, length: int) -> TokenSequence:
    return TokenSequence(sequence.tokens[: sequence.prompt_length + length], sequence.prompt_length)
