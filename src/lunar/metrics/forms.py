"""Questions without their names, and wrong answers made from the answers to questions of the same form.

For data that brings no wrong answers. It knows words and capital letters only: an answer that is made here may happen
to be true, and it differs from the known one in more than the fact that was asked for. TOFU's own perturbed answers are
better where there are any, and numbers from the two are not to be compared.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence

from lunar.errors import LunarError
from lunar.metrics.rouge import plain
from lunar.neighbours import name_spans, prompt_names
from lunar.records import Record

GAP = "\u2026"


def question_form(prompt: str) -> str:
    """The prompt with a gap for every name; letter case and spacing do not count."""
    for start, end in sorted(name_spans(prompt), reverse=True):
        prompt = prompt[:start] + GAP + prompt[end:]
    return " ".join(prompt.split()).casefold()


def wrong_answers(
    records: Sequence[Record],
    *,
    pool: Sequence[Record] = (),
    count: int = 5,
    similar: bool = False,
    seed: int = 0,
) -> list[tuple[str, ...]]:
    """At most `count` wrong answers per record, drawn from the other records with a question of the same form.

    Those in `pool` are drawn from as well; where all records are about one person, say, they are the only source. Names
    of the other question are replaced by those in the same place of this one, so that the answer is about whom was
    asked about; what then equals the known answer is left out. Deterministic for a seed, and a record's answers do not
    depend on the order of the records. Empty where no answer is known or no other question has the form.

    With `similar`, what is missing is filled up from the questions whose forms share the largest part of their words
    (Jaccard index) with this one, nearest first: for data in which hardly two questions have the same form.

    Raises LunarError for a count below 1.
    """
    if count < 1:
        raise LunarError(f"Expected a count of at least 1 wrong answer per record, got {count}: raise it.")
    by_form: dict[str, list[Record]] = {}
    for record in sorted([*records, *pool], key=lambda one: (one.prompt, one.answer or "")):
        if record.answer is not None:
            by_form.setdefault(question_form(record.prompt), []).append(record)
    words = {form: frozenset(re.findall(r"\w+", form)) for form in by_form} if similar else {}
    found = []
    for record in records:
        form = question_form(record.prompt)
        chosen = _draw(record, by_form.get(form, []), count, seed)
        if similar and record.answer is not None and len(chosen) < count:
            others = [other for near in _nearest(form, words) for other in by_form[near]]
            chosen = tuple(dict.fromkeys([*chosen, *_wrong(record, others, count)]))[:count]
        found.append(chosen)
    return found


def _nearest(form: str, words: Mapping[str, frozenset[str]]) -> list[str]:
    """The other forms that share a word with this one, those with the largest part in common first."""
    own = words[form]
    near = [other for other, those in words.items() if other != form and own & those]
    return sorted(near, key=lambda other: (-len(own & words[other]) / len(own | words[other]), other))


def _draw(record: Record, others: Sequence[Record], count: int, seed: int) -> tuple[str, ...]:
    candidates = sorted(_wrong(record, others, None), key=plain)
    # The prompt is part of the seed: records of one form would all draw the same answers otherwise.
    return tuple(random.Random(f"{seed} {record.prompt}").sample(candidates, min(count, len(candidates))))


def _wrong(record: Record, others: Iterable[Record], most: int | None) -> list[str]:
    """The answers of the others in order, about whom this record asks, without the right one and without repetition."""
    if record.answer is None:
        return []
    own = prompt_names(record.prompt)
    found: dict[str, str] = {}
    for other in others:
        made = _rename(other.answer or "", prompt_names(other.prompt), own)
        if plain(made) != plain(record.answer):
            found.setdefault(plain(made), made)
        if len(found) == most:
            break
    return list(found.values())


def _rename(answer: str, names: Sequence[str], own: Sequence[str]) -> str:
    """All names at once, so that a name put in is not replaced again."""
    changes = {name: new for name, new in zip(names, own, strict=False) if name}
    if not changes:
        return answer
    longest_first = sorted(changes, key=len, reverse=True)
    return re.sub(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", lambda match: changes[match[0]], answer)
