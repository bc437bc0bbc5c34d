"""What a baseline is given and what it gives back: the same for every method, so that a comparison is one loop.

Knows models and records; knows nothing of any method, of scores or of files. No paper: these are this library's terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from lunar.errors import LunarError
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.records import Record, check_disjoint


@dataclass(frozen=True)
class Task:
    """One request to forget, as every baseline gets it.

    Attributes:
        loaded: model and tokenizer; the model is never changed.
        forget: what to forget, with answers where the method needs them.
        retain: what to leave alone, with answers where the method needs them.
        reference: prompts that the model declines.
        seed: for the order of batches and whatever else is drawn.
        progress: called with the name of a stage, the steps done and the steps there are.

    Raises LunarError if nothing is to be forgotten or a prompt is to be both forgotten and retained.
    """

    loaded: LoadedModel
    forget: Sequence[Record]
    retain: Sequence[Record]
    reference: Sequence[Record]
    seed: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if not self.forget:
            raise LunarError("At least one record to forget was expected, but none came: add one.")
        check_disjoint(self.forget, self.retain)

    def report(self, stage: str, done: int, total: int) -> None:
        """Pass progress on, where somebody listens."""
        if self.progress is not None:
            self.progress(stage, done, total)


@dataclass(frozen=True)
class Outcome:
    """What a baseline made of a task.

    Attributes:
        loaded: a changed copy of the model in the original's dtype, in evaluation mode, with the same tokenizer.
        rewrite: what to do to every record, to forget or not, before the model is asked; mostly nothing.
        changed_parameters: how many numbers differ from the original model's.
        seconds: wall-clock time of the whole run, the copy of the model included.
        settings: every setting the run used, and what it chose by itself (layer, number of steps).
    """

    loaded: LoadedModel
    rewrite: Callable[[Record], Record]
    changed_parameters: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline:
    """One method under one name.

    Attributes:
        name: as in the registry.
        title: for people to read.
        source: the paper and what was taken from where.
        settings: the default, as published.
        search: the settings that a comparison may try; the same number for every method that has any to try.
        function: runs the method; takes the task and settings of the class of the default.
    """

    name: str
    title: str
    source: str
    settings: Any
    search: tuple[Any, ...]
    function: Callable[[Task, Any], Outcome]

    def run(self, task: Task, settings: Any = None) -> Outcome:
        """Run the method with its default or other settings of its own class; raises LunarError for another class."""
        chosen = self.settings if settings is None else settings
        if not isinstance(chosen, type(self.settings)):
            raise LunarError(
                f"The baseline {self.name} takes {type(self.settings).__name__}, but {type(chosen).__name__} came: use "
                "dataclasses.replace on its default settings."
            )
        return self.function(task, chosen)


def unchanged(record: Record) -> Record:
    """The rewriting of a method that changes the model and not what it is asked."""
    return record


def count_changed(before: PreTrainedModel, after: PreTrainedModel) -> int:
    """How many parameters differ; all of them where the two models have other names or shapes."""
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    if {name: part.shape for name, part in old.items()} != {name: part.shape for name, part in new.items()}:
        return sum(part.numel() for part in new.values())
    return sum(int((part.detach() != old[name].detach().to(part)).sum()) for name, part in new.items())
