"""A conversation with a model before and after the requests of a ledger, some of which may be switched off.

Switching changes nothing on the disk; `undo` does. Knows no terminal.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lunar.activations import capture_all
from lunar.edit import Edit
from lunar.errors import LunarError, unknown
from lunar.generation import streamed
from lunar.ledgers import undo_request
from lunar.models import LoadedModel, context_length
from lunar.prompts import TokenSequence, encode
from lunar.records import Record
from lunar.requests.changes import edit_of_all
from lunar.requests.ledger import Ledger
from lunar.requests.parts import Joint
from lunar.requests.state import Request

LONGEST, SHORTEST = 256, 32
"""New tokens of an answer, and the room that must be left for one."""
BEFORE, AFTER = "before", "after"

OnText = Callable[[str, str], None]
"""Called with "before" or "after" and the next piece of that answer."""


@dataclass(frozen=True)
class Turn:
    """One question and what was said to it.

    Attributes:
        question: as it was asked.
        before: the answer of the model without any request.
        after: the answer with the requests that were on.
        gates: how much the question was recognised as one of each request that was on; near 1 is fully.
        dropped: earlier turns that no longer fitted the model's context.
    """

    question: str
    before: str
    after: str
    gates: dict[str, float]
    dropped: int

    @property
    def recognised(self) -> tuple[str, float] | None:
        """The request whose detector read most, and what it read; None where no request with rows is on."""
        return max(self.gates.items(), key=lambda item: item[1]) if self.gates else None


class Session:
    """What is on, and what was said. Does not change the ledger unless `undo` is called."""

    def __init__(self, folder: Path, loaded: LoadedModel) -> None:
        self.folder, self.loaded = folder, loaded
        self.turns: list[Turn] = []
        self._messages: dict[str, tuple[tuple[str, str], ...]] = {BEFORE: (), AFTER: ()}
        self._off: set[str] = set()
        self._read()

    def _read(self) -> None:
        ledger = Ledger(self.folder)
        self._state, self._whole = ledger.state(), ledger.edit()
        self._off &= {one.name for one in self.requests()}
        self._solve()

    def _solve(self) -> None:
        """The edit and the detectors of the requests that are on."""
        on = [one for one in self.requests() if self.is_on(one.name)]
        joint = self._state.joint
        frozen = [one for one in self.requests() if not one.kept]
        pairs = zip(frozen, joint.frozen, strict=True)
        self._joint: Joint = replace(
            joint,
            parts={one.id: joint.parts[one.id] for one in on if one.kept},
            frozen=tuple(solution for one, solution in pairs if one in on),
        )
        names = {one.id: one.name for one in on}
        # With all of them on, it is the very edit that the ledger holds, and not solved once more.
        self._edit: Edit = self._whole if not self._off else edit_of_all(self._joint, self._state.shared)
        self._detectors = {names[id]: vector for id, vector in self._joint.detectors().items()}

    def requests(self) -> tuple[Request, ...]:
        """Those that the ledger holds, oldest first."""
        return self._state.requests

    def is_on(self, name: str) -> bool:
        """Whether a request has its effect in this conversation."""
        return name not in self._off

    def switch(self, name: str, on: bool) -> None:
        """Switch a request on or off, here only, and start afresh: what was said is not what this model would say.

        Raises LunarError for an unknown one.
        """
        known = [one.name for one in self.requests()]
        if name not in known:
            raise unknown("request", name[:64], known or ["none, for the ledger holds no request"])
        self._off = self._off - {name} if on else self._off | {name}
        self._solve()
        self.start_afresh()

    def last(self) -> Request:
        """The request that `undo` would take back. Raises LunarError where there is none."""
        if not self.requests():
            raise LunarError("A request to undo was expected, but the ledger holds none: the model is as it was.")
        return self.requests()[-1]

    def undo(self, name: str) -> None:
        """Take a request back in the ledger itself and start afresh. Raises LunarError as `ledgers.undo_request`."""
        undo_request(self.folder, name)
        self.read_again()

    def read_again(self) -> None:
        """Take up what the ledger holds now, and start afresh."""
        self._read()
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget what was said in this conversation; the transcript keeps it."""
        self._messages = {BEFORE: (), AFTER: ()}

    def ask(self, question: str, on_text: OnText, on_gates: Callable[[dict[str, float]], None] | None = None) -> Turn:
        """Ask both; each goes on with its own conversation. A question that is broken off leaves no trace.

        `on_gates` is called before the first piece of an answer. Raises LunarError for a question that does not fit the
        model's context even without what was said before.
        """
        sides = {side: self._fitted(side, question) for side in (BEFORE, AFTER)}
        gates = self._gates(sides[AFTER][0])
        if on_gates is not None:
            on_gates(gates)
        answers = {}
        for side, edit in ((BEFORE, contextlib.nullcontext()), (AFTER, self._edit.applied(self.loaded.model))):
            with edit:
                answers[side] = self._answer(sides[side][0], lambda text, side=side: on_text(side, text))  # type: ignore[misc]
        for side, answer in answers.items():
            kept = self._messages[side][2 * sides[side][1] :]
            # Templates want an answer between two questions, also where the model said nothing.
            self._messages[side] = (*kept, ("user", question), ("assistant", answer or "…"))
        dropped = max(count for _, count in sides.values())
        self.turns.append(Turn(question, answers[BEFORE], answers[AFTER], gates, dropped))
        return self.turns[-1]

    def _fitted(self, side: str, question: str) -> tuple[TokenSequence, int]:
        """The question behind as much of what was said as the context has room for, and how many turns it has not."""
        limit = context_length(self.loaded.model)
        messages, dropped = self._messages[side], 0
        while True:
            record = Record((*messages, ("user", question)))
            alone = None if messages else limit
            sequence = encode(
                self.loaded.tokenizer, record, with_answer=False, context_length=alone, name="question", number=1
            )
            if limit is None or not messages or sequence.prompt_length + SHORTEST <= limit:
                return sequence, dropped
            messages, dropped = messages[2:], dropped + 1

    def _gates(self, sequence: TokenSequence) -> dict[str, float]:
        """What each detector reads at the last prompt token."""
        if not self._detectors:
            return {}
        rows = capture_all(self.loaded.model, self._state.shared.site, [sequence])
        last = rows.inner[rows.from_end == 0][0].double().cpu()
        return {name: float(vector.to(last) @ last) for name, vector in self._detectors.items()}

    def _answer(self, sequence: TokenSequence, on_text: Callable[[str], None]) -> str:
        limit = context_length(self.loaded.model)
        room = LONGEST if limit is None else max(1, min(LONGEST, limit - sequence.prompt_length))
        return streamed(self.loaded.model, self.loaded.tokenizer, sequence, on_text, max_new_tokens=room)

    def save(self, path: Path) -> None:
        """Write the transcript, readable for its owner only. Raises LunarError where it cannot be written."""
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write("\n".join(_transcribed(turn) for turn in self.turns))
        except FileExistsError as error:
            raise LunarError(f"A new file was expected, but {path} is there already: name another.") from error
        except OSError as error:
            raise LunarError(f"The file {path} cannot be written ({error.strerror}): choose another place.") from error


def _transcribed(turn: Turn) -> str:
    lines = [
        f"Question: {turn.question}",
        recognised_line(turn.gates),
        f"Before: {turn.before}",
        f"After: {turn.after}",
    ]
    return "\n".join(lines) + "\n"


def recognised_line(gates: dict[str, float]) -> str:
    """How much a question is recognised, and as which request's, in words."""
    if not gates:
        return "recognised as forgotten: – (no request whose activations are kept is on)"
    name = max(gates, key=lambda one: gates[one])
    return f"recognised as forgotten: {gates[name]:.2f} ({name})"
