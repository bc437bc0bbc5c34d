"""The first half of a gated edit: what the write-back matrix writes so that a later MLP can tell forget prompts.

Two kinds of detectors of the write-back's input h. A *flag* per channel wants at least 1 on the prompts of the channel,
and at most 0 on the last tokens of all other prompts, those of other channels among them: with one flag for all, the
mean difference between forget and other prompts would be the flag, and whoever subtracts that would have the answers
back. The *bar* wants 1 on forget prompts and at least as much on everything else, so that "flag above a share of the
bar" is a threshold that does not depend on the scale of what it is read from. Both are ridge regressions with one-sided
targets, which a factorisation and some sweeps solve. Torch only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.cluster.vq import kmeans2
from torch import Tensor

from lunar.moments import Moments
from lunar.solve import Solution

FLAG, BAR = 0.45, 0.22
"""Heights of a flag and of the bar, in units of the mean norm of the forget prompts' residuals. Higher, and retraining
on other data finds them; lower, and the rounding of the norm does."""
AT_LAST = 1.3
"""How high the bar stands at least on other prompts' last tokens; 1 on the forget prompts."""
ELSEWHERE = 2.0
"""The same on all other tokens, which are easily told from last ones. Lower, and flags stand on answers in forms that
no retain prompt has."""
WEIGHT, LAST_WEIGHT, EARLIER = 2000.0, 300.0, 30.0
"""Of forget rows, and of other prompts' last tokens and answers; of last tokens in the bar's own problem. Other pinned
tokens weigh 1. What a flag is off by costs nothing below the threshold, so that forget rows can be asked for more
exactly than in a linear edit. Smaller weights and a larger ridge survive retraining better, and spare less."""
SWEEPS = {"bar": 12, "flags": 60}
"""Of the one-sided regressions; they have converged to a few hundredths by then."""
LOWEST = -0.25
"""What a flag may read where it is not to stand. Unbounded, it would write much where nothing is wanted."""
WIDTH_SHARE = 8
"""At most one in so many directions of the residual stream becomes a channel; beyond, prompts share a few."""
SHARED = 4
"""Channels where prompts share them. Fewer read better, and leave more to whoever subtracts their mean."""


@dataclass(frozen=True)
class Flags:
    """What the write-back matrix writes on top of what it wrote.

    Attributes:
        detectors: [channels, m] read about 1 on the prompts of a channel, about 0 or less on everything else.
        bar: [m] reads 1 on the forget prompts, at least `AT_LAST` on other last tokens.
        directions: [d, channels + 1] orthonormal, the last one the bar's.
        heights: [channels + 1] what a reading of 1 writes.
    """

    detectors: Float[Tensor, "channels m"]
    bar: Float[Tensor, " m"]
    directions: Float[Tensor, "d all"]
    heights: Float[Tensor, " all"]

    def solution(self) -> Solution:
        """The change of the write-back matrix."""
        return Solution(self.directions * self.heights, torch.cat([self.detectors, self.bar[None]]))

    def readings(
        self, scale: Float[Tensor, " d"], size: float
    ) -> tuple[Float[Tensor, "channels d"], Float[Tensor, " d"]]:
        """Rows that read flags and bar from the next MLP's input, at a root mean square of `size` in their own units.

        At another root mean square both readings are off by the same factor, which a comparison does not see.
        """
        rows = size * (self.directions / self.heights / scale[:, None]).T
        return rows[:-1], rows[-1]


def channels_of(inner: Float[Tensor, "rows m"], most: int) -> Int[Tensor, " rows"]:
    """Which channel each row belongs to: its own while there are enough, else those like it share one (k-means)."""
    count = len(inner)
    if count <= most:
        return torch.arange(count)
    centred = inner.double() - inner.double().mean(0)
    _, labels = kmeans2(centred.numpy(), min(most, SHARED), minit="++", seed=0)
    return torch.unique(torch.from_numpy(labels).long(), return_inverse=True)[1]


def find_flags(
    pinned: Float[Tensor, "m m"],
    inner: Float[Tensor, "rows m"],
    channels: Int[Tensor, " rows"],
    others: Float[Tensor, "others m"],
    last: Bool[Tensor, " others"],
    answer: Bool[Tensor, " others"],
    spread: Float[Tensor, "d d"],
    *,
    size: float,
    given_weight: float,
    share: float,
    ridge: float,
) -> Flags:
    """Solve for the detectors and choose the quietest directions.

    Args:
        pinned: Σ w h hᵀ over all pinned rows.
        inner: last prompt tokens of the forget prompts.
        channels: of those.
        others: a sample of pinned rows, with all last prompt tokens and all answer tokens.
        last: which of them are last prompt tokens.
        answer: which are answer tokens: of retain prompts, and of refusals of questions like the forget prompts.
        spread: second moment of the normalised residual that the next MLP reads.
        size: mean norm of the forget prompts' residuals.
        given_weight: what last prompt tokens weigh in `pinned`.
        share: of all pinned rows before the last token, how many the sample holds; they weigh more for it.
        ridge: λ, relative to the mean of the diagonal.
    """
    rows, exact = inner.double(), others.double()
    count = int(channels.max()) + 1
    own = torch.nn.functional.one_hot(channels, count).bool()
    # Last tokens are asked for just 0 in `pinned`; here it is 0 at most.
    sided = last | answer
    two_sided = pinned - _second(exact[last], torch.full((int(last.sum()),), given_weight))
    detectors = _detectors(two_sided, rows, own, exact[sided], ridge)
    bar = _bar(rows, exact, last, share, ridge)
    quiet = torch.linalg.eigh(spread / spread.diagonal().mean()).eigenvectors[:, : count + 1]
    heights = torch.tensor([FLAG * size] * count + [BAR * size], dtype=torch.float64)
    # The quietest direction is the bar's, because every prompt raises it.
    return Flags(detectors.T, bar, quiet.flip(1), heights)


def _detectors(
    moments: Float[Tensor, "m m"],
    rows: Float[Tensor, "rows m"],
    own: Bool[Tensor, "rows channels"],
    others: Float[Tensor, "others m"],
    ridge: float,
) -> Float[Tensor, "m channels"]:
    """The flags' detectors: at least 1 on a channel's own rows, at most 0 on all others."""

    def wanted(reading: Tensor) -> Tensor:
        low = reading.clamp(min=LOWEST, max=0)
        return torch.cat([torch.where(own, reading[: len(rows)].clamp(min=1), low[: len(rows)]), low[len(rows) :]])

    weights = [torch.full((len(part),), weight) for part, weight in ((rows, WEIGHT), (others, LAST_WEIGHT))]
    nothing = torch.zeros(len(moments), own.shape[1], dtype=torch.float64)
    everything = torch.cat([rows, others])
    return one_sided(moments, nothing, everything, wanted, torch.cat(weights).double(), ridge, SWEEPS["flags"])


def _bar(
    rows: Float[Tensor, "rows m"],
    others: Float[Tensor, "others m"],
    last: Bool[Tensor, " others"],
    share: float,
    ridge: float,
) -> Float[Tensor, " m"]:
    """The bar's detector: 1 on the forget prompts, at least so much on everything else."""
    least = torch.where(last, AT_LAST, ELSEWHERE)[:, None]
    weights = torch.where(last, EARLIER, 1 / share).double()
    moments, known = WEIGHT * rows.T @ rows, WEIGHT * rows.sum(0)[:, None]
    found = one_sided(moments, known, others, lambda y: torch.maximum(least, y), weights, ridge, SWEEPS["bar"])
    return found[:, 0]


def one_sided(
    moments: Float[Tensor, "m m"],
    known: Float[Tensor, "m outputs"],
    rows: Float[Tensor, "rows m"],
    wanted: Callable[[Float[Tensor, "rows outputs"]], Float[Tensor, "rows outputs"]],
    weights: Float[Tensor, " rows"],
    ridge: float,
    sweeps: int,
) -> Float[Tensor, "m outputs"]:
    """Vectors v that minimise known rows' squared error plus Σ w · (wanted(h·v) − h·v)² over the others.

    Majorisation: a row that reads what satisfies it is asked for just that in the next sweep, so that one factorisation
    serves all sweeps, and each lowers the objective. A sweep is a step from where the vectors stand, so that rows that
    are satisfied take no part in it, and the many products with rows may be in single precision.

    Args:
        moments: Σ w h hᵀ of the rows with two-sided targets.
        known: Σ w y h of the same.
        rows: those with one-sided targets.
        wanted: the nearest reading that would satisfy each row, from what it reads now.
        weights: of them.
        ridge: λ, relative to the mean of the diagonal.
        sweeps: how many.
    """
    added = _second(rows, weights)
    penalty = ridge * (moments + added).diagonal().mean()
    two_sided = moments + penalty * torch.eye(len(moments), dtype=moments.dtype)
    factor = torch.linalg.cholesky(two_sided + added)
    single, each_weight = rows.float(), weights.float()[:, None]
    vectors = torch.zeros_like(known)
    for _ in range(sweeps):
        reading = single @ vectors.float()
        off = (reading - wanted(reading)).float()
        places = off.any(1)
        pull = single[places].T @ (each_weight[places] * off[places])
        vectors = vectors - torch.cholesky_solve(two_sided @ vectors - known + pull, factor)
    return vectors


def _second(rows: Float[Tensor, "rows m"], weights: Float[Tensor, " rows"]) -> Float[Tensor, "m m"]:
    """Σ w h hᵀ."""
    return Moments.zeros(rows.shape[1]).update(rows, weights).second
