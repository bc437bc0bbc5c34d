"""Ask an attacked model, and score how much of the known answers comes back; and what chance would bring back.

Knows what an attack yields, and no attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lunar.attacks.attack import Asked, Attacked
from lunar.evaluation import new_tokens
from lunar.generation import greedy, sampled
from lunar.logits import proper_lengths
from lunar.metrics import wrong_answers
from lunar.metrics.observed import Values
from lunar.metrics.rouge import rouge1
from lunar.models import LoadedModel, context_length
from lunar.prompts import TokenSequence, encode_all
from lunar.records import Record


def answers(attacked: Attacked, records: Sequence[Record], seed: int) -> list[list[str]]:
    """What is said to each record under the attack, without the beginning that the attacker gave: one or more answers.

    Raises LunarError where a question as the attacker puts it does not fit the model's context or chat template.
    """
    loaded = attacked.loaded
    asked = attacked.ask(records)
    sequences = tokens_of(loaded, asked, attacked.behind)
    limit = new_tokens(loaded, sequences, records)
    if attacked.samples:
        return sampled(
            loaded.model, loaded.tokenizer, sequences, count=attacked.samples, seed=seed, max_new_tokens=limit
        )
    return [[one] for one in greedy(loaded.model, loaded.tokenizer, sequences, max_new_tokens=limit)]


def tokens_of(loaded: LoadedModel, asked: Sequence[Asked], behind: tuple[int, ...] = ()) -> list[TokenSequence]:
    """The questions as tokens, with the beginning of an answer where one is given, as if the model had said it.

    The tokens of `behind` stand between the two.
    """
    given = [replace(one.record, answer=one.prefix or None) for one in asked]
    limit = context_length(loaded.model)
    sequences = encode_all(loaded.tokenizer, given, with_answer=True, context_length=limit, name="attacked")
    found = []
    for one, proper in zip(sequences, proper_lengths(loaded, sequences), strict=True):
        begun = one.tokens[one.prompt_length : one.prompt_length + proper]
        tokens = (*one.tokens[: one.prompt_length], *behind, *begun)
        found.append(TokenSequence(tokens, len(tokens)))
    return found


def recalls(attacked: Attacked, records: Sequence[Record], said: Sequence[Sequence[str]]) -> Values:
    """ROUGE-1 recall of what was left to be said, the best over the samples; None where no answer is known."""
    wanted = [replace(record, answer=attacked.left(record)) if record.answer else record for record in records]
    return [best(one, several) for one, several in zip(wanted, said, strict=True)]


def best(record: Record, several: Sequence[str]) -> float | None:
    """The largest recall of the record's answer among several texts."""
    found = [value for value in rouge1(several, [record] * len(several)) if value is not None]
    return max(found, default=None)


def chance(
    attacked: Attacked, records: Sequence[Record], pool: Sequence[Record], said: Sequence[Sequence[str]], seed: int
) -> Values:
    """The same score by wrong answers: those to like questions about others, the mean over up to five of them.

    What an answer owes to its form and to common words comes out the same for them. None where there is no such answer.
    """
    others = wrong_answers(records, pool=pool, similar=True, seed=seed)
    found: Values = []
    for record, several, wrong in zip(records, said, others, strict=True):
        asked = [replace(record, answer=one) for one in wrong]
        values = [best(replace(one, answer=attacked.left(one)), several) for one in asked]
        known = [value for value in values if value is not None]
        found.append(sum(known) / len(known) if known else None)
    return found
