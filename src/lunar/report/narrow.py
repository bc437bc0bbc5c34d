"""Tables in terminals that are too narrow for them: one line per cell instead of cut words. Prints only."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WIDE = 1000
"""Columns; wider than any table's longest words side by side."""


class Fitting:
    """A table as it is where the width suffices for its longest words, else as lines of "title: cell"."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """What to print at the width at hand."""
        if self._fits(console, options):
            yield self.table
            return
        if self.table.title:
            yield Text.assemble(str(self.table.title))
        rows = zip(*(list(column.cells) for column in self.table.columns), strict=True)
        for row in rows:
            for column, cell in zip(self.table.columns, row, strict=True):
                title = str(column.header) if self.table.show_header else ""
                text = cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
                if text:
                    yield Text(f"{title}: {text}" if title else text, overflow="fold")
            yield Text()

    def _fits(self, console: Console, options: ConsoleOptions) -> bool:
        """Whether no column vanishes and no word is cut; columns that share the width by ratio show only when drawn."""
        if Measurement.get(console, options.update(max_width=WIDE), self.table).minimum > options.max_width:
            return False
        drawn = [segment.text for line in console.render_lines(self.table, options) for segment in line]
        own = [str(cell) for column in self.table.columns for cell in (column.header, *column.cells)]
        return "".join(drawn).count("…") <= "".join(own).count("…")


def fitting(renderable: RenderableType) -> RenderableType:
    """The same with every table in it made to fit."""
    if isinstance(renderable, Table):
        return Fitting(renderable)
    if isinstance(renderable, Group):
        return Group(*(fitting(one) for one in renderable.renderables))
    return renderable
