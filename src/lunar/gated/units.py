"""The second half of a gated edit: units of an MLP that compare each flag with the bar, and write the change.

For a channel's flag z and the bar b, two units with gates (β/ω)(z − θb) and (β/ω)((1 − ω)z − θb) and the same up row z
differ by 0 while z is below θb and by βz² once (1 − ω)z is above it, whatever the activation function does in between.
Their write-back columns are ±D/β, and D is solved for so that Σ z²D is the wanted change on the forget prompts. Knows a
`Reader` and rows, no prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lunar.errors import LunarError
from lunar.gated.flags import Flags
from lunar.gated.reader import Reader
from lunar.models import LoadedModel

STEEP, SOFT = 40.0, 0.06
"""β, the slope of the comparison, and ω, the share of the flag over which it opens."""
OPEN_AT = 0.35
"""Where the threshold lies between the highest flag of a pinned prompt (0) and the lowest of a forget prompt (1)."""
OPENED = 0.02
"""Share of the neighbours that may stand above the threshold. A neighbour with one syllable of a name changed can look
as the forget prompt does, and is a question about nobody; without this a single one would make the edit impossible."""
NEARLY_SINGULAR = 1e-6
"""Added to the Gram matrix of the units' openings, which are about 1."""


@dataclass(frozen=True)
class Units:
    """New weights of some units.

    Attributes:
        places: [units] which they are.
        gate: [units, d] rows of the gate matrix.
        up: [units, d] rows of the up matrix.
        columns: [d, units] of the write-back matrix.
        threshold: θ, what share of the bar a flag must exceed.
        lowest: the lowest share of the bar of a forget prompt at its own flag.
        highest: the highest of a pinned prompt at any, a few neighbours aside.
    """

    places: Int[Tensor, " units"]
    gate: Float[Tensor, "units d"]
    up: Float[Tensor, "units d"]
    columns: Float[Tensor, "d units"]
    threshold: float
    lowest: float
    highest: float


def find_units(
    loaded: LoadedModel,
    reader: Reader,
    flags: Flags,
    use: Float[Tensor, " m"],
    channels: Int[Tensor, " rows"],
    inputs: Float[Tensor, "rows d"],
    wanted: Float[Tensor, "rows d"],
    pinned: Float[Tensor, "others d"],
    invented: int,
) -> Units:
    """Set the threshold between forget and pinned prompts, and solve for what the units write.

    Args:
        loaded: the model with its original MLP behind the flags.
        reader: that MLP.
        flags: what stands in its input by now.
        use: mean square of what each of its units writes; those of least use give way.
        channels: of the forget prompts.
        inputs: of the MLP at the forget prompts' last tokens, with flags.
        wanted: changes of the layer's output there.
        pinned: inputs at other prompts' last tokens, with flags.
        invented: how many of them, at the end, are neighbours that nobody gave.

    Raises LunarError where the flag of a prompt that was given to be left alone, or of more than a few neighbours,
    stands as high as a forget prompt's.
    """
    exact, others = inputs.double(), pinned.double()
    size = float((exact / reader.scale).square().mean().sqrt())
    flag, bar = flags.readings(reader.scale, size)
    lowest = float(((exact @ flag.T).gather(1, channels[:, None])[:, 0] / (exact @ bar)).min())
    readings = (others @ flag.T).amax(1) / (others @ bar)
    highest = float(readings.max())
    if not lowest > highest:
        highest = _below_a_few(readings, invented)
    if not lowest > highest:
        raise LunarError(
            f"Flags of forget prompts that stand out were expected, but the lowest reads {lowest:.2f} and the highest "
            f"of another prompt {highest:.2f}: choose another layer, or another target than gated."
        )
    threshold = OPEN_AT * lowest + (1 - OPEN_AT) * highest
    gate = torch.cat([flag - threshold * bar, (1 - SOFT) * flag - threshold * bar]) * (STEEP / SOFT)
    up = torch.cat([flag, flag])
    raised = reader.activation(exact @ gate.T) * (exact @ up.T)
    opened = (raised[:, : len(flag)] - raised[:, len(flag) :]) / STEEP
    places = use.argsort()[: len(gate)].sort().values
    # What these units wrote is missing from the layer's output; the change makes up for it.
    column = reader.weight(loaded, reader.site.module_name)[:, places]
    lost = reader.hidden(loaded, inputs)[:, places].double().cpu() @ column.T
    asked = wanted.double() + lost
    # The flags themselves are left standing: taking them down would tell where they are.
    asked = asked - asked @ flags.directions @ flags.directions.T
    gram = opened.T @ opened
    gram.diagonal().add_(NEARLY_SINGULAR)
    down = torch.linalg.solve(gram, opened.T @ asked)
    return Units(places, gate, up, torch.cat([down, -down]).T / STEEP, threshold, lowest, highest)


def _below_a_few(readings: Float[Tensor, " others"], invented: int) -> float:
    """The highest reading of the prompts that were given, and of the neighbours without the few highest."""
    given, neighbours = readings[: len(readings) - invented], readings[len(readings) - invented :]
    return float(torch.cat([given, neighbours.sort().values[: invented - int(OPENED * invented)]]).max())
