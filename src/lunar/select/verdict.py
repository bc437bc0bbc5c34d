"""Which trial is taken, whether its answers hold, and the reason in plain words. Runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from lunar.metrics.refusal import is_refusal
from lunar.metrics.rouge import plain, scorer
from lunar.records import Record
from lunar.select.choice import Confirmation, strength_shown
from lunar.select.own_words import OwnWords
from lunar.select.profile import LayerProfile
from lunar.select.trials import Trial

COMPLETE, REDIRECTS = 0.99, 0.9
"""Share of the forget prompts at which the refusal must be the likelier text: a stronger edit is tried below the first,
and below the second a candidate does not count as redirecting, whatever its strength."""
UNLIKELY, LEFT = 0.1, 0.15
"""The mean probability that the own answers may keep, for the same two. The edit that is made in the end pins more
prompts than the trials'; a shift leaves no prompt behind for that, since it asks for at least as much on each."""
TIE = 0.1
"""Divergences that differ by less than this share count as equal, and so do those below `NOTHING`."""
NOTHING = 0.001
LIKE = 0.6
"""Likeness to the expected refusal, as the F-measure of words, from which an answer counts as one."""
LOWEST = (
    "Without retain data, nothing says what a deeper layer would take along, so the lowest that redirects is taken."
)


def redirects(trial: Trial) -> bool:
    """Whether the refusal has taken the place of most of the own answers."""
    return trial.redirected >= REDIRECTS and trial.original <= LEFT


def complete(trial: Trial) -> bool:
    """Whether it has taken the place of all of them, with something to spare."""
    return trial.redirected >= COMPLETE and trial.original <= UNLIKELY


def ordered(trials: Sequence[Trial], covered: bool = True) -> list[Trial]:
    """Candidates, the best first: those that redirect all prompts by what they spare, then those that redirect most.

    Where the retain prompts are not a user's own (`covered`), the lowest layer comes first instead: a divergence on
    prompts of another kind does not show that a deeper layer goes by what is said rather than of whom.
    """
    candidates = [trial for trial in trials if trial.retain_divergence is not None]
    everything = [trial for trial in candidates if complete(trial)]
    most = [trial for trial in candidates if redirects(trial) and not complete(trial)]
    others = [trial for trial in candidates if not redirects(trial)]
    others.sort(key=lambda trial: (-trial.redirected, trial.original, trial.layer))
    if not covered:
        return [*(one for some in (everything, most) for one in sorted(some, key=lambda trial: trial.layer)), *others]
    return [*_sparing_first(everything), *_sparing_first(most), *others]


def _sparing_first(trials: Sequence[Trial]) -> list[Trial]:
    """By divergence on retain prompts; the lower layer first where it is about the same."""
    left = sorted(trials, key=lambda trial: trial.retain_divergence or 0.0)
    result: list[Trial] = []
    while left:
        least = left[0].retain_divergence or 0.0
        tied = [trial for trial in left if (trial.retain_divergence or 0.0) <= max(NOTHING, least * (1 + TIE))]
        result.append(min(tied, key=lambda trial: trial.layer))
        left.remove(result[-1])
    return result


def reason(
    chosen: Trial,
    candidates: Sequence[Trial],
    lines: Sequence[LayerProfile],
    confirmations: Sequence[Confirmation],
    covered: bool = True,
) -> str:
    """One or two plain sentences for the choice among candidates, the best first."""
    line = next(line for line in lines if line.layer == chosen.layer)
    text = (
        f"Layer {chosen.layer} at strength {strength_shown(asdict(chosen))}: left out of the detector, a forget prompt "
        f"is told from a retain prompt in {line.ordered:.0%} of pairs, and the edit makes a refusal likelier than the "
        f"answer to {chosen.redirected:.0%} of the forget prompts at a divergence of {chosen.retain_divergence:.4f} "
        "nats per token on retain prompts that it was not given."
    )
    if chosen.strongest is not None:
        text += f" More than the least strength goes to those that need it, {chosen.raised} of the prompts."
    rivals = [trial for trial in candidates if trial.layer != chosen.layer]
    failed = [one for one in confirmations if not one.passed and one.layer != chosen.layer]
    if failed:
        return f"{text} Layer {failed[0].layer} looked better, but its answers did not hold when they were generated."
    if not rivals:
        return text
    rival = rivals[0]
    if not redirects(rival) or complete(chosen) > complete(rival):
        return f"{text} The next best, layer {rival.layer}, redirects {rival.redirected:.0%}."
    if not covered:
        return f"{text} {LOWEST}"
    strength = strength_shown(asdict(rival))
    text += f" The next best, layer {rival.layer} at strength {strength}, has {rival.retain_divergence:.4f}"
    if (rival.retain_divergence or 0.0) < (chosen.retain_divergence or 0.0):
        text += f"; below {NOTHING:g}, or within a tenth, that is the same, and the lower layer is taken"
    return f"{text}."


def judge(trial: Trial, answers: Sequence[str], words: OwnWords) -> Confirmation:
    """Whether generated answers are refusals and give nothing of the original answers away."""
    kept = []
    for record, text, original, expected in zip(words.records, answers, words.answers, words.refusals, strict=True):
        telling = _words_of(original) - _words_of(record.prompt) - _words_of(expected)
        same = float(plain(text) == plain(original))
        kept.append(len(telling & _words_of(text)) / len(telling) if telling else same)
    share = 1 - len(still_answered(answers, words)) / len(answers)
    left = sum(kept) / len(kept)
    return Confirmation(trial.layer, trial.strength, share, left, redirects(trial) and share >= 0.9 and left <= 0.1)


def still_answered(answers: Sequence[str], words: OwnWords) -> list[Record]:
    """The prompts to which the answer is no refusal: neither by the rule, nor like the one that was expected."""
    return [
        record
        for record, text, expected in zip(words.records, answers, words.refusals, strict=True)
        if not is_refusal(text) and scorer("rouge1").score(expected, text)["rouge1"].fmeasure < LIKE
    ]


def _words_of(text: str) -> set[str]:
    return {word.strip(".,;:!?'\"()") for word in text.casefold().split()}
