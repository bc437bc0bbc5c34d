"""The result of a search for where and how strongly to edit: numbers and plain words, no text of any prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lunar.select.profile import LayerProfile
from lunar.select.trials import Trial


@dataclass(frozen=True)
class Confirmation:
    """What a short generation showed of a candidate.

    Attributes:
        layer: of the candidate.
        strength: of the candidate.
        declined: share of the forget prompts answered by a refusal.
        kept: mean share of the original answers' words that are still given, those of the question not counted.
        passed: the candidate was taken.
    """

    layer: int
    strength: float
    declined: float
    kept: float
    passed: bool


@dataclass(frozen=True)
class AnswerLikeness:
    """One layer's line.

    Attributes:
        layer: whose activations were moved.
        ignorance: mean likeness of the answers to an expression of ignorance about the question, 0 to 1.
        unrelated: mean likeness to an unrelated refusal, 0 to 1.
    """

    layer: int
    ignorance: float
    unrelated: float

    @property
    def score(self) -> float:
        """What the paper chooses by."""
        return self.ignorance - self.unrelated


@dataclass(frozen=True)
class Choice:
    """Where to edit, how strongly, and why.

    Attributes:
        selector: "auto" or "paper".
        layer: the chosen decoder layer.
        strength: the chosen strength; where each prompt has its own, the smallest.
        reason: for the choice, in plain words.
        warnings: what the data were too few or the model too odd to be sure of.
        profile: a line per layer; empty for the paper's selector.
        trials: every candidate that was tried, losers included.
        confirmations: short generations, in the order in which they were asked for.
        likeness: the scores of the paper's selector, a line per layer.
        strengths: one per forget prompt, where each has its own; empty elsewhere.
        held_out: retain prompts that were kept out of the trial edits to judge them.
        passes: the cost in full forward passes over all data, that of the edit itself not counted.
        obstacles: why it cannot be done, where it was asked to look nevertheless.
    """

    selector: str
    layer: int
    strength: float
    reason: str
    warnings: tuple[str, ...] = ()
    profile: tuple[LayerProfile, ...] = ()
    trials: tuple[Trial, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    likeness: tuple[AnswerLikeness, ...] = ()
    strengths: tuple[float, ...] = ()
    held_out: int = 0
    passes: float = 0.0
    obstacles: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Everything in the form of report.json."""
        return asdict(self)


def strength_shown(trial: Mapping[str, Any]) -> str:
    """A trial's strength in words, from its fields: "0.65", or "0.65 to 0.9" where prompts have their own."""
    weakest, strongest = trial["strength"], trial.get("strongest")
    return f"{weakest:g}" if strongest is None else f"{weakest:g} to {strongest:g}"


@dataclass
class Effort:
    """Counts tokens times layers, in units of one pass of all data through all layers."""

    tokens: int
    layers: int
    spent: float = 0.0

    def add(self, tokens: int, layers: int) -> None:
        """So many tokens went through so many layers."""
        self.spent += self.of(tokens, layers)

    def of(self, tokens: int, layers: int) -> float:
        """What so many tokens through so many layers cost."""
        return tokens * layers / max(1, self.tokens * self.layers)
