"""The thresholded edit: nothing happens to a prompt unless it is recognised, and then `collapse` happens in full.

A linear edit acts in proportion to how much a prompt looks like a forgotten one. Here the write-back matrix of layer l
only raises flags, in directions of the residual stream that carry least: one channel per forget prompt, and a bar that
says how high a flag must stand to count. In the MLP of the next layer a few units, those that did least, are given new
weights: two per channel compare flag and bar, and write the change. The model keeps its shapes and its code.

In the order of the data: `reader.py` finds the MLP behind the flags, `flags.py` solves for them, `units.py` for the
units, `build.py` runs the passes in between. Ours; docs/method.md derives it.
"""

from lunar.gated.build import Gated, build, can_build

__all__ = ["Gated", "build", "can_build"]
