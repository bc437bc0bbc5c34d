"""Questions put in another way: what the attacks that only write prompts share.

Knows records; knows nothing of any wording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from lunar.attacks.attack import Asked, Attacked
from lunar.models import LoadedModel
from lunar.records import Record


@contextmanager
def rewritten(loaded: LoadedModel, rewrite: Callable[[Record], Record]) -> Iterator[Attacked]:
    """The model as it is, asked other questions: each record as `rewrite` makes it, with its own answer."""
    yield Attacked(loaded, lambda records: [Asked(rewrite(record)) for record in records])


def under_system(instruction: str) -> Callable[[Record], Record]:
    """A rewriting that puts an instruction before the conversation, in front of a system message that is there."""

    def rewrite(record: Record) -> Record:
        messages = list(record.messages)
        if messages[0][0] == "system":
            messages[0] = ("system", f"{instruction}\n\n{messages[0][1]}")
        else:
            messages.insert(0, ("system", instruction))
        return replace(record, messages=tuple(messages))

    return rewrite
