"""Questions and answers for people to look at, before and after: what changed most, and some of all.

What is forgotten is marked, and whatever tells of it elsewhere, so that whoever shows the rows can leave it out. Knows
the results of `lunar.evaluation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lunar.metrics.refusal import is_refusal
from lunar.neighbours import prompt_names
from lunar.report.contents import TEXTS, hidden

if TYPE_CHECKING:
    from lunar.evaluation import Comparison

PER_SPLIT = 12
CHANGED = PER_SPLIT // 2
"""Of these, how many are taken for having changed; the others are spread over the split."""


def pick(comparisons: Mapping[str, Comparison], *, show_forget: bool) -> list[dict[str, Any]]:
    """At most `PER_SPLIT` rows of every split.

    Each has "split", "forget" (it is of the forget set), "tells" (it is not, but its texts hold a name or an answer of
    the forget set), "outcome", and "question", "before" and "after". Without `show_forget` the three texts of rows
    "forget" are missing, and rows that tell are left out.
    """
    forgotten = [comparison for split, comparison in comparisons.items() if of_forget_set(split)]
    secret = _any_of(_secrets(forgotten))
    rows = []
    for split, comparison in comparisons.items():
        for place in _places(comparison):
            texts = (comparison.records[place].prompt, comparison.before[place], comparison.after[place])
            row: dict[str, Any] = {"split": split, "forget": of_forget_set(split), "tells": False}
            row["tells"] = not row["forget"] and any(secret.search(text) is not None for text in texts)
            row["outcome"] = _outcome(*texts[1:])
            rows.append(row | dict(zip(TEXTS, texts, strict=True)))
    return rows if show_forget else hidden(rows)


def of_forget_set(split: str) -> bool:
    """Whether a split asks about what is to be forgotten, as its name says ("forget", "forget_unseen_phrasings")."""
    return split.split("_")[0] == "forget"


def _places(comparison: Comparison) -> list[int]:
    """Changed answers first, then some from all over the split; in the order of the split."""
    total = len(comparison.records)
    changed = [place for place in range(total) if comparison.before[place] != comparison.after[place]]
    # Where most were kept, a refusal in the place of an answer is what a reader has to know of.
    changed.sort(key=lambda place: not is_refusal(comparison.after[place]))
    chosen = set(changed[:CHANGED])
    rest = [place for place in range(total) if place not in chosen]
    room = min(PER_SPLIT - len(chosen), len(rest))
    return sorted(chosen | {rest[index * len(rest) // room] for index in range(room)})


def _outcome(before: str, after: str) -> str:
    if before.strip() == after.strip():
        return "same answer"
    if is_refusal(after):
        return "declined before and after" if is_refusal(before) else "declines now"
    return "answers now" if is_refusal(before) else "another answer"


def _secrets(forgotten: Sequence[Comparison]) -> set[str]:
    """Names and whole answers of the forget set, those that the original model gives among them."""
    found: set[str] = set()
    for comparison in forgotten:
        for record, said in zip(comparison.records, comparison.before, strict=True):
            for text in (record.prompt, record.answer or "", "" if is_refusal(said) else said):
                found |= {text.strip(" .!?"), *prompt_names(text)}
    return {" ".join(text.split()).casefold() for text in found if text.strip()}


def _any_of(texts: set[str]) -> re.Pattern[str]:
    """A pattern for any of the texts as whole words, in any letter case and spacing; of none where there is none."""
    spaced = (r"\s+".join(re.escape(word) for word in text.split()) for text in sorted(texts))
    joined = "|".join(spaced)
    return re.compile(rf"(?<!\w)(?:{joined})(?!\w)" if joined else r"(?!)", re.IGNORECASE)
