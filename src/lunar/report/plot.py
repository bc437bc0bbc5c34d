"""The layers of a choice as a picture, drawn by matplotlib where it is installed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lunar.errors import LunarError

SUFFIXES = (".svg", ".png")


def check_plot(path: Path) -> None:
    """Raise LunarError unless a plot can be written to `path`; imports nothing heavy."""
    if path.suffix.lower() not in SUFFIXES:
        raise LunarError(f"A plot is an .svg or .png file, but {path} is neither: choose another name.")
    if find_spec("matplotlib") is None:
        raise LunarError(
            "A plot needs matplotlib, which is not installed: pip install 'lunar-unlearn[plot]', or leave --plot out."
        )
    parent = path.absolute().parent
    if path.exists() or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise LunarError(
            f"The plot must be a new file in a folder you may write to, but {path} is not: choose another."
        )


def draw(choice: Mapping[str, Any], path: Path) -> None:
    """Separability, refusal reached and retain divergence over the layers, the chosen one marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tried = sorted(
        (trial for trial in choice["trials"] if trial["retain_divergence"] is not None), key=lambda one: one["layer"]
    )
    layers = [trial["layer"] for trial in tried]
    figure, (upper, lower) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 5), layout="constrained")
    try:
        profile = choice["profile"]
        upper.plot(
            [line["layer"] for line in profile], [line["ordered"] for line in profile], "o-", label="separability"
        )
        upper.plot(layers, [trial["redirected"] for trial in tried], "s", label="refusal reached")
        upper.set_ylim(0, 1.05)
        upper.set_ylabel("share")
        lower.plot(layers, [trial["retain_divergence"] for trial in tried], "s", color="tab:red")
        lower.set_ylabel("retain KL (nats per token)")
        lower.set_ylim(0, 1.15 * max([1e-6, *(trial["retain_divergence"] for trial in tried)]))
        lower.set_xlabel("decoder layer")
        lower.xaxis.get_major_locator().set_params(integer=True)
        for axes in (upper, lower):
            if not choice.get("obstacles"):
                axes.axvline(choice["layer"], color="0.7", zorder=0, label="chosen")
        upper.legend()
        # Without a date, the same choice gives the same bytes.
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else {})
    finally:
        pyplot.close(figure)
