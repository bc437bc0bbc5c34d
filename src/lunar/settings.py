"""How to edit: every knob of the method with its default, checked when it is set.

Knows no torch, so that the command line refuses a wrong number before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lunar.errors import LunarError, unknown

LINEAR = ("shift", "collapse", "split")
"""Targets of one matrix, which `lunar.targets` computes."""
HARDENED = "hardened"
GATED = ("gated", HARDENED)
"""Targets of several matrices, which `lunar.gated` makes: behind a threshold alone, or over a shift."""
TARGETS = (*LINEAR, *GATED)
"""What an edit may be asked for."""

PREFERENCES = {"sparing": "shift", "robust": "collapse"}
"""Targets by what matters more: what nobody listed, or standing against those who hold the weights. Between the two is
a trade (docs/results.md)."""

TAIL = {"shift": 1, "collapse": 9, "split": 9, "gated": 1, "hardened": 1}
"""How many of the last prompt tokens each target redirects unless told otherwise."""

FORGET_WEIGHT = {"shift": 1000.0, "collapse": 150.0, "split": 150.0, "gated": 150.0, "hardened": 150.0}
"""How much a redirected row weighs in each target unless told otherwise."""

SELECTORS = ("auto", "paper")
"""Who may choose the layer: the search of `lunar.select`, or the paper's selector."""

RETAIN_ONLY = "retain-only"
"""The control that the caller has to bring."""

HOLDOUT = "holdout"
"""The split of records like the forgotten ones on which nobody trained the model: what membership is told against."""

BASELINES = (*"ascent difference kl dpo idk npo simnpo rmu lunar-reference prompt".split(), RETAIN_ONLY)
"""The methods that ours is compared with; `lunar.baselines` has them."""


def preferred(prefer: str | None, target: str | None = None, harden: bool = False) -> str:
    """The target for one of the three; raises LunarError for an unknown preference, and for more than one of them."""
    if (prefer is not None) + (target is not None) + harden != 1:
        raise LunarError("--prefer, --harden and --target all say what to edit towards, so leave out all but one.")
    if harden:
        return HARDENED
    if prefer not in PREFERENCES:
        raise LunarError(f"--prefer must be one of {', '.join(PREFERENCES)}, but {prefer!r} came.")
    return PREFERENCES[prefer]


def method_names(wanted: str) -> list[str]:
    """The methods in a list separated by commas; "all" is every method that needs nothing but the request."""
    known = (*TARGETS, *BASELINES)
    if wanted.strip() == "all":
        # What tells a hardened edit from a shift are attacks, which a comparison has none of.
        return [name for name in known if name not in (RETAIN_ONLY, HARDENED)]
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if not names:
        raise LunarError("At least one method was expected, but none came: give names or all.")
    for name in names:
        if name not in known:
            raise unknown("method", name, known)
    return list(dict.fromkeys(names))


NEIGHBOURS, ALONE = 600, 5000
"""Neighbours beside retain data, and without any."""
REWORDINGS, FEW = 2, 300
"""Other forms of each forget prompt, where there are not more of them than that."""


@dataclass(frozen=True)
class Settings:
    """How to edit. The defaults are those that the trial runs in docs/method.md found to work.

    Attributes:
        target: "shift" (the paper's), "collapse" (more robust, spares less), "split" (between them), "gated" (collapse
            behind a threshold: needs a gated MLP in the next layer, and changes that too) or "hardened" (a shift, and
            a collapse of twice the size behind a threshold: each holds where the other is taken out).
        layer: decoder layer to edit, negative from the end; "auto" searches, "paper" takes the paper's selector.
        strength: factor on the wanted change; 1 moves the forget prompts onto the reference, 0 changes nothing. None is
            the smallest that redirects where the layer is searched for, else 1.
        ridge: λ relative to the mean of A's diagonal; larger means smaller and less exact edits.
        tail: how many of the last prompt tokens are redirected; None takes the target's usual number.
        redirect_answers: redirect the tokens of the forget answers too, where answers are given.
        forget_weight: weight of redirected rows; larger is more exact on them and less sparing of everything else. None
            takes the target's usual number.
        retain_weight: weight of retain prompts' last tokens and of retain answers; other pinned rows weigh 1.
        neighbours: how many prompts like the forget prompts, about other names, are pinned as well; None is
            `NEIGHBOURS`, or `ALONE` where no retain data is given and nothing else tells these names from others. More
            spare those who share a part of a name or a phrasing with the forgotten, and cost a pass over them.
        rewordings: in how many other forms each forget prompt is redirected as well; half as many prompts as there are
            neighbours are then pinned in these forms. More recognise unseen phrasings. None is `REWORDINGS` for the
            target shift beside neighbours and at most `FEW` forget prompts, which many are not in need of, else 0.
        seed: for whatever draws random numbers; here, the invented names.
        strengths: one per forget prompt, in their order, for a target that asks for at least so much; `strength` is
            then the smallest of them. What a search found is put here, so that a recipe gives the same edit again.
            Empty: `strength` for all.
    """

    target: str = "shift"
    layer: int | str = "auto"
    strength: float | None = None
    ridge: float = 1e-4
    tail: int | None = None
    redirect_answers: bool = False
    forget_weight: float | None = None
    retain_weight: float = 10.0
    neighbours: int | None = None
    rewordings: int | None = None
    seed: int = 0
    strengths: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """By name, in the form of JSON and TOML."""
        return asdict(self) | {"strengths": list(self.strengths)}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Settings:
        """From what `as_dict` gave, with whatever else stands there; raises LunarError for values that cannot be."""
        known = {entry.name for entry in fields(cls)} & content.keys()
        values: dict[str, Any] = {key: content[key] for key in known}
        return cls(**values | {"strengths": tuple(content.get("strengths", ()))})

    def least(self) -> tuple[float, ...]:
        """How much of the strength each forget prompt is to get at least, 1 or more; empty where all get the same."""
        return tuple(one / (self.strength or 1.0) for one in self.strengths)

    def redirected_weight(self) -> float:
        """What a redirected row weighs."""
        return FORGET_WEIGHT[self.target] if self.forget_weight is None else self.forget_weight

    def neighbours_beside(self, covered: bool = True) -> int:
        """How many neighbours are meant, beside a user's own retain data (`covered`) or none."""
        if self.neighbours is not None:
            return self.neighbours
        return NEIGHBOURS if covered else ALONE

    def rewordings_of(self, forget: int) -> int:
        """In how many other forms each of so many forget prompts is redirected as well."""
        if self.rewordings is not None:
            return self.rewordings
        return REWORDINGS if self.target == "shift" and self.neighbours != 0 and forget <= FEW else 0

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise LunarError(f"The target must be one of {', '.join(TARGETS)}, but {self.target!r} came.")
        if isinstance(self.layer, str) and self.layer not in SELECTORS:
            raise LunarError(f"The layer must be a number or one of {', '.join(SELECTORS)}, but {self.layer!r} came.")
        if self.strength is not None and not abs(self.strength) < float("inf"):
            raise LunarError(f"The strength must be a finite number, but {self.strength} came: 1 is the usual value.")
        if self.strengths and not (
            self.target == "shift"
            and isinstance(self.layer, int)
            and all(0 < one < float("inf") for one in self.strengths)
            and self.strength == min(self.strengths)
        ):
            raise LunarError(
                "Strengths of single prompts were expected with the target shift, a layer, and the smallest of them as "
                "the strength, but others came: take them as a recipe has them, or leave them out."
            )
        if not 0 <= self.ridge < float("inf"):
            raise LunarError(
                f"The ridge must be a number of at least 0, but {self.ridge} came: 1e-4 is the usual value."
            )
        if self.target in GATED and (self.redirect_answers or self.tail not in (None, 1)):
            raise LunarError(
                f"A {self.target} edit redirects last prompt tokens only: leave tail and redirect_answers alone."
            )
        if self.tail is not None and self.tail < 1:
            raise LunarError(f"At least 1 token of each prompt must be redirected, but a tail of {self.tail} came.")
        if not (self.redirected_weight() > 0 and self.retain_weight > 0):
            raise LunarError("The weights of forget and retain rows must be above 0: the usual values are 1000 and 10.")
        if (self.neighbours or 0) < 0 or (self.rewordings or 0) < 0:
            raise LunarError(
                "The numbers of neighbours and rewordings must be at least 0: the usual ones are 600 and 2."
            )
