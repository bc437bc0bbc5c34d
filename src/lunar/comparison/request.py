"""What all methods of a comparison are asked to do, and what is measured afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lunar.baselines import Task
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.records import Record


@dataclass(frozen=True)
class Request:
    """One request to forget, as every method gets it, and the splits that are asked about afterwards.

    Attributes:
        forget, retain, reference: what a method is given; see `Task`.
        splits: what is measured: "forget", "retain" and any others, with answers where they are known.
        seed: for whatever a method draws.
        asked: records of each split but "forget" that are asked at most; 400 give a share to 0.05 at worst, in an
            interval of 95%.
    """

    forget: Sequence[Record]
    retain: Sequence[Record]
    reference: Sequence[Record]
    splits: Mapping[str, Sequence[Record]]
    seed: int = 0
    asked: int = 400

    def task(self, loaded: LoadedModel, progress: Progress | None) -> Task:
        """The part that a method sees."""
        return Task(loaded, self.forget, self.retain, self.reference, self.seed, progress)
