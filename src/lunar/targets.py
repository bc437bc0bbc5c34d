"""What redirected rows should change by: the two targets of the design, their parts, and a control.

A target is a function from the activations of the redirected rows to `Term`s. A term is one ridge problem: wanted
changes, weights and a gain. Variants are therefore data, not code. Torch only: nothing here knows models or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lunar.errors import LunarError
from lunar.settings import HARDENED, LINEAR

REWORDED = 0.7
"""What a rewording is to get at least, as a share of what its prompt is: in a form that nobody may use, less does."""


@dataclass(frozen=True)
class Term:
    """One weighted ridge problem over the redirected rows.

    Attributes:
        wanted: [rows, d] the change of the layer's output asked for, T in the design.
        weights: [rows] importance of each row, Ω in the design.
        gain: the solution is multiplied by it. Above 1 it amplifies what a low weight lets through only in part.
        group: [rows] rows of one group are asked for the same, and each may get more of it (`lunar.solve.shares`).
            None asks every row for what it wants and no more.
        least: [rows] in a group, the share of the wanted change that each row is to get at least; None is 1 for all.
    """

    wanted: Float[Tensor, "rows d"]
    weights: Float[Tensor, " rows"]
    gain: float = 1.0
    group: Int[Tensor, " rows"] | None = None
    least: Float[Tensor, " rows"] | None = None


def least_shares(least: Float[Tensor, " rows"] | None, reworded: Bool[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """What rows are to get at least: what their prompts are (None is 1 for all), or `REWORDED` of it in other words."""
    given = torch.ones(len(reworded), dtype=torch.float64) if least is None else least.double()
    return torch.where(reworded, REWORDED * given, given)


def mean_shift(
    reference_mean: Float[Tensor, "positions d"],
    residual: Float[Tensor, "rows d"],
    position: Int[Tensor, " rows"],
) -> Float[Tensor, "rows d"]:
    """r at each row's position: μ there minus the mean of the redirected rows there (the paper's equation 2).

    With the last prompt token alone every row gets the same r, and the edit has rank one.
    """
    rows = residual.to(reference_mean)
    wanted = torch.empty_like(rows)
    for index in position.unique():
        here = position == index
        wanted[here] = reference_mean[index] - rows[here].mean(dim=0)
    return wanted


def deviation(residual: Float[Tensor, "rows d"], position: Int[Tensor, " rows"]) -> Float[Tensor, "rows d"]:
    """Each row's distance back to the mean of the redirected rows at its position: (μ − a) − r = mean(a) − a."""
    rows = residual.double()
    wanted = torch.empty_like(rows)
    for index in position.unique():
        here = position == index
        wanted[here] = rows[here].mean(dim=0) - rows[here]
    return wanted


def shift(
    reference_mean: Float[Tensor, "positions d"],
    residual: Float[Tensor, "rows d"],
    position: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"],
) -> tuple[Term, ...]:
    """The paper's target: every redirected row is asked for the mean shift r, one direction per position.

    Ours to add: for at least that. Where a row that is easy to tell apart gets more on the way, nothing pulls it back.
    """
    return (Term(mean_shift(reference_mean, residual, position), weights.double(), group=position),)


def collapse(
    reference_mean: Float[Tensor, "positions d"],
    residual: Float[Tensor, "rows d"],
    position: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"],
) -> tuple[Term, ...]:
    """Ours: every redirected row is asked for μ − a, so that what told the forget prompts apart is gone."""
    wanted = mean_shift(reference_mean, residual, position) + deviation(residual, position)
    return (Term(wanted, weights.double()),)


def split(
    reference_mean: Float[Tensor, "positions d"],
    residual: Float[Tensor, "rows d"],
    position: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"],
    *,
    shift_share: float = 2 / 15,
    deviation_share: float = 1 / 75,
    deviation_gain: float = 6.0,
) -> tuple[Term, ...]:
    """`collapse` in two problems: the mean shift, and each row's deviation under a low weight, then amplified.

    Args:
        shift_share: weight of the mean shift's rows relative to `weights`, a quarter of it before the last token.
        deviation_share: the same for the deviation; smaller fits only its smooth part, which spares more of what no
            retain prompt covers. The gain presumes that it is small: what is fitted in full must not be amplified.
        deviation_gain: factor on the deviation's solution; larger is more robust and spares less.
    """
    exact = weights.double()
    shift_weights = exact * shift_share * torch.where(position == 0, 1.0, 0.25)
    return (
        Term(mean_shift(reference_mean, residual, position), shift_weights),
        Term(deviation(residual, position), exact * deviation_share, deviation_gain),
    )


def hardened(
    reference_mean: Float[Tensor, "positions d"],
    residual: Float[Tensor, "rows d"],
    position: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"],
    *,
    answer_share: float = 0.2,
) -> tuple[Term, ...]:
    """The mean shift at prompt tokens; at answer tokens, μ of the last prompt token minus what is there.

    Whoever gives the beginning of an answer then finds what follows a question that is declined.

    Args:
        position: negative at answer tokens.
        answer_share: weight of answer tokens, of which there are several to a prompt, relative to `weights`.
    """
    answers = position < 0
    wanted = torch.empty_like(residual.to(reference_mean))
    wanted[~answers] = mean_shift(reference_mean, residual[~answers], position[~answers])
    wanted[answers] = reference_mean[0] - residual[answers].to(reference_mean)
    exact = weights.double()
    return (Term(wanted, torch.where(answers, answer_share * exact, exact)),)


def build(
    name: str,
    reference_mean: Float[Tensor, "positions d"],
    residual: Float[Tensor, "rows d"],
    position: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"],
) -> tuple[Term, ...]:
    """The terms of the target called `name`; raises LunarError for an unknown one.

    A negative `position`, of an answer token, counts as the last prompt token unless the target knows better.
    """
    if name == HARDENED:
        return hardened(reference_mean, residual, position, weights)
    position = position.clamp(min=0)
    functions = {"shift": shift, "collapse": collapse, "split": split}
    if name not in functions:
        raise LunarError(f"The target must be one of {', '.join(LINEAR)}, but {name!r} came: choose one of these.")
    return functions[name](reference_mean, residual, position, weights)


def random_control(terms: Sequence[Term], generator: torch.Generator) -> tuple[Term, ...]:
    """The same problems with every wanted change turned into one random direction of the same length per row.

    An edit that forgets as well with this target owes nothing to where it redirects to.
    """
    controls = []
    for term in terms:
        direction = torch.randn(term.wanted.shape[1], generator=generator, dtype=torch.float64).to(term.wanted)
        lengths = term.wanted.norm(dim=1, keepdim=True)
        controls.append(replace(term, wanted=lengths * direction / direction.norm()))
    return tuple(controls)
