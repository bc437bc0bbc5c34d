"""Progress on the terminal: one bar per stage on standard error, nothing where nobody watches."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Stages:
    """Shows `progress(stage, done, total)` calls as bars; a stage of unknown length has total 0.

    Silent if `shown` is false or standard error is no terminal: a log file needs no bars.
    """

    def __init__(self, *, shown: bool) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Set how far a stage is."""
        if self._bars is None:
            return
        if stage not in self._tasks:
            for name in [name for name, task in self._tasks.items() if self._bars.tasks[task].finished]:
                self._bars.update(self._tasks.pop(name), visible=False)
            self._tasks[stage] = self._bars.add_task(stage, total=total or None)
        finished = total or done
        self._bars.update(self._tasks[stage], completed=done, total=finished or None)

    def __enter__(self) -> Stages:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
