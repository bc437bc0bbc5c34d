"""What a section of the page is made of: sentences, tables and plots, as plain data. Knows no results and no HTML.

A plot is a figure as plotly.js takes it, in plain dictionaries, with a sentence that says the same in words.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Colours that readers with any colour vision tell apart (Okabe and Ito, 2008), and that do on white and on black.
GREY, BLUE, RED, GREEN, AMBER, PURPLE = "#8c8c8c", "#3d8fd1", "#d55e00", "#1b9e77", "#d99a00", "#b3679b"

LONGEST = 60
"""Characters of a name in a plot."""


@dataclass(frozen=True)
class Table:
    """A table with its caption; the first column heads the rows, `words` are the columns that hold text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        name: by which the page finds it, a word.
        caption: what it shows, and how to read it.
        words: the same in a sentence or two, for whoever does not see it.
        traces: plotly's data.
        layout: plotly's layout without colours of text and background, which the page sets for light and dark.
        height: in pixels.
        choices: label by group, where one of several groups of traces is shown at a time; a trace's group is its
            `meta`.
    """

    name: str
    caption: str
    words: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height: int = 360
    choices: Mapping[str, str] = field(default_factory=dict)

    @property
    def figure(self) -> dict[str, Any]:
        """What is handed to plotly.js."""
        margin = {"l": 8, "r": 16, "t": 12, "b": 8}
        layout = {
            "height": self.height,
            "margin": margin,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        }
        return {"data": list(self.traces), "layout": {**layout, **self.layout}}


@dataclass(frozen=True)
class Section:
    """A section of the page: its heading, sentences, plots, tables (`folded` ones behind a click) and small print."""

    name: str
    title: str
    lead: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    notes: Sequence[str] = ()


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its title; room is made for its labels."""
    return {"title": {"text": title}, "automargin": True, "zeroline": False, **more}


def names_axis(names: Sequence[str], **more: Any) -> dict[str, Any]:
    """A vertical axis of names, the first one on top."""
    shown = [inert(name) for name in names]
    order = {"type": "category", "categoryorder": "array", "categoryarray": shown[::-1]}
    return axis("", **order, range=[-0.6, len(shown) - 0.4], **more)


def inert(text: str) -> str:
    """A text for a plot, not too long for it: plotly.js takes tags in it for markup, links among them."""
    return html.escape(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…", quote=False)


def readable(name: str) -> str:
    """A name of a split, a metric or a setting in words."""
    return name.replace("_", " ")


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """A share in per cent, or a dash."""
    return "–" if value is None else f"{value:.0%}"


def with_interval(value: float | None, interval: Sequence[float | None] | None, digits: int = 2) -> str:
    """A value and the interval behind it in brackets, where there is one."""
    if value is None or not interval or None in interval:
        return number(value, digits)
    low, high = interval
    return f"{number(value, digits)} ({number(low, digits)} to {number(high, digits)})"


def errors(values: Sequence[float | None], intervals: Sequence[Sequence[float | None] | None]) -> dict[str, Any]:
    """Error bars from intervals, as plotly takes them; none where there is no interval."""
    above, below = [], []
    for value, interval in zip(values, intervals, strict=True):
        known = value is not None and interval and None not in interval
        above.append(interval[1] - value if known else 0)  # type: ignore[index, operator]
        below.append(value - interval[0] if known else 0)  # type: ignore[index, operator]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.4, "width": 4}


def holding(number: int) -> str:
    """How many requests hold, in words."""
    return f"{count(number, 'request') if number else 'no request'} {'hold' if number > 1 else 'holds'}"


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """So many of a thing."""
    return f"{amount} {noun if amount == 1 else plural or noun + 's'}"
