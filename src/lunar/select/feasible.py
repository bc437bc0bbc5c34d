"""When it cannot be done: said before anything is written, each with the figure that shows it.

Where the evidence is thin (few prompts), the same is a warning: a share of three prompts says little.
"""

from __future__ import annotations

from collections.abc import Sequence

from lunar.errors import LunarError
from lunar.select.own_words import OwnWords
from lunar.select.profile import LayerProfile

ENOUGH_FORGET, ENOUGH_RETAIN, ENOUGH_REFERENCE, ENOUGH_ASKED = 10, 20, 10, 3
"""Prompts from which on a figure is evidence."""
APART = 0.6
"""Share of ordered pairs below which sets count as inseparable: 0.5 is chance, 0.06 its deviation at 20 prompts."""
DECLINED, KNOWN = 0.2, 0.8
"""At least this share of the reference prompts must be declined, and at most this share of the forget prompts."""


def check_separable(lines: Sequence[LayerProfile], forget: int, retain: int) -> list[str]:
    """A warning, or LunarError, where forget and retain prompts are told apart at no layer."""
    best = max(lines, key=lambda line: line.ordered)
    if best.ordered >= APART or forget < 2:
        return []
    return _say(
        f"Forget and retain prompts that can be told apart were expected, but even at the best layer ({best.layer}) an "
        f"unseen forget prompt stands out in only {best.ordered:.0%} of pairs (50% is chance): check that the sets "
        "differ in what they ask about, or give a layer to skip this check.",
        forget >= ENOUGH_FORGET and retain >= ENOUGH_RETAIN,
    )


def check_words(words: OwnWords) -> list[str]:
    """Warnings, or LunarError, where the model does not decline what it should, or declines what is to be forgotten."""
    warnings = []
    if words.reference_declined < DECLINED:
        warnings += _say(
            f"Reference prompts that the model declines were expected, but it declines only "
            f"{words.reference_declined:.0%} of {words.references} asked: give others with --reference, or a layer to "
            "skip this check.",
            words.references >= ENOUGH_REFERENCE,
        )
    otherwise = ", or give a layer to skip this check"
    return warnings + check_known(words.forget_declined, len(words.records), True, otherwise)


def check_known(declined: float, asked: int, refuse: bool, otherwise: str = "") -> list[str]:
    """A warning, or LunarError, where the original model declines most of what is to be forgotten.

    Args:
        declined: share of the forget prompts that it declines.
        asked: how many of them were asked.
        refuse: whether to raise where these are enough to tell.
        otherwise: what else can be done, to end the sentence with.
    """
    if declined <= KNOWN:
        return []
    return _say(
        f"Forget prompts that the model answers were expected, but it declines {declined:.0%} of the {asked} asked "
        f"already: there is nothing to forget, so check the prompts and the model{otherwise}.",
        refuse and asked >= ENOUGH_ASKED,
    )


def _say(sentence: str, certain: bool) -> list[str]:
    if certain:
        raise LunarError(sentence)
    return [sentence]
