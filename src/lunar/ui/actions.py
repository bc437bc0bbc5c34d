"""What the controls of the page do to one conversation and one draft; plain values in and out, and no page.

Raises LunarError for whatever the user should hear of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

from lunar.chat.draft import Draft, candidates, commit, questions_of, try_out
from lunar.chat.session import AFTER, BEFORE, Session, Turn, recognised_line
from lunar.errors import LunarError
from lunar.progress import Progress
from lunar.records import Record
from lunar.report.terminal import stale_exports
from lunar.requests.ledger import Ledger

Row = tuple[str, str, str]
"""A question and its answers before and after."""


@dataclass(frozen=True)
class Shown:
    """How far a question has been answered."""

    recognised: str = ""
    before: str = ""
    after: str = ""
    note: str = ""


@dataclass(frozen=True)
class Tried:
    """What a draft would do, as the page shows it."""

    asked: list[Row]
    changed: list[Row]
    summary: str


class Actions:
    """One conversation with a ledger, and the request that is being drafted."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._nearby: tuple[Record, ...] = ()
        self._draft: Draft | None = None

    def names(self) -> list[str]:
        """The requests of the ledger, oldest first."""
        return [one.name for one in self.session.requests()]

    def on(self) -> list[str]:
        """Those that are on."""
        return [name for name in self.names() if self.session.is_on(name)]

    def ask(self, question: str) -> Iterator[Shown]:
        """The answers as they are written; the last one is whole."""
        question = question.strip()
        if not question:
            raise LunarError("A question was expected, but the box is empty: write one.")
        said, shown = {BEFORE: "", AFTER: ""}, Shown()
        for kind, text in _pieces(self.session, question):
            if kind in said:
                said[kind] += text
                shown = Shown(shown.recognised, said[BEFORE], said[AFTER])
            else:
                shown = Shown(text)
            yield shown
        turn = self.session.turns[-1]
        dropped = f"The first {turn.dropped} of what was said do not fit the model's context any more."
        yield Shown(recognised_line(turn.gates), turn.before, turn.after, dropped if turn.dropped else "")

    def history(self) -> list[tuple[str, str, str, str]]:
        """What was asked, the last first: question, how far recognised, before, after."""
        return [(one.question, _recognised(one), one.before, one.after) for one in reversed(self.session.turns)]

    def switch(self, on: Collection[str]) -> str:
        """Have these requests on and the others off, here only; what is on, in a sentence."""
        for name in self.names():
            if self.session.is_on(name) != (name in on):
                self.session.switch(name, name in on)
        return self.requests_line()

    def start_afresh(self) -> None:
        """Both sides forget what was said."""
        self.session.start_afresh()

    def requests_line(self) -> str:
        """How many requests there are and how many of them are on."""
        if not self.names():
            return "The ledger holds no request: the model is as it was."
        count = len(self.names())
        return f"{len(self.on())} of {count} {'request is' if count == 1 else 'requests are'} on."

    def last(self) -> str:
        """The request that `undo` would take back. Raises LunarError without any."""
        return self.session.last().name

    def undo(self, name: str) -> str:
        """Take the last request back in the ledger itself. Raises LunarError where it is another than was agreed to."""
        if self.last() != name:
            raise LunarError(
                f"{name} was expected to be the last request, but it is {self.last()}: nothing was undone."
            )
        self.session.undo(name)
        self._draft = None
        return " ".join([f"Undone: {name}.", self.requests_line(), *self._stale_exports()])

    def candidates(self, name: str, progress: Progress) -> str:
        """Questions about a name, one per line, for the user to look through."""
        questions, nearby = candidates(self.session.loaded, name.strip(), progress)
        self._nearby = tuple(nearby)
        return "\n".join(questions)

    def try_out(self, text: str, progress: Progress) -> Tried:
        """Solve a draft on the side and ask before and after; the ledger stays as it is."""
        self._draft = None
        session = self.session
        draft = try_out(session.folder, session.loaded, questions_of(text), self._nearby, progress=progress)
        self._draft = draft
        asked = zip(draft.asked.records, draft.asked.before, draft.asked.after, strict=True)
        rows = [(record.prompt, before, after) for record, before, after in asked]
        return Tried(rows, draft.changed, _summary(draft))

    def commit(self, text: str, name: str, progress: Progress) -> str:
        """Add what was tried to the ledger. Raises LunarError where the questions are others than those tried."""
        draft = self._draft
        if draft is None:
            raise LunarError("A draft that was tried was expected, but there is none: press Try first.")
        if tuple(questions_of(text)) != draft.records:
            raise LunarError("The questions were changed since they were tried: press Try again.")
        session = self.session
        given = commit(session.folder, session.loaded, draft, name.strip() or None, progress=progress)
        self._draft, self._nearby = None, ()
        session.read_again()
        return " ".join([f"Added to the ledger: {given}.", self.requests_line(), *self._stale_exports()])

    def _stale_exports(self) -> list[str]:
        """That what was exported before is of another edit, where there is some."""
        return stale_exports(Ledger(self.session.folder).stale_exports(), len(self.names()))


def _recognised(turn: Turn) -> str:
    return "–" if turn.recognised is None else f"{turn.recognised[1]:.2f} ({turn.recognised[0]})"


def _summary(draft: Draft) -> str:
    moved = sum(one != other for one, other in zip(draft.asked.before, draft.asked.after, strict=True))
    said = f"Nothing was written. {moved} of {len(draft.records)} drafted questions would be answered otherwise."
    if draft.kept is None:
        return f"{said} There was no question near them to ask."
    count = len(draft.near.records)
    return (
        f"{said} {count - len(draft.changed)} of {count} questions near them ({draft.kept:.0%}) would be answered word "
        "for word as before."
    )


def _pieces(session: Session, question: str) -> Iterator[tuple[str, str]]:
    """("gates", sentence) once, then ("before" or "after", piece of that answer) as `Session.ask` comes to them.

    Whoever stops listening waits until the answer is whole: the model has an edit on meanwhile.
    """
    pieces: SimpleQueue[tuple[str, str] | BaseException | None] = SimpleQueue()
    worker = threading.Thread(target=_asked, args=(session, question, pieces.put))
    worker.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        worker.join()


def _asked(session: Session, question: str, put: Callable[[tuple[str, str] | BaseException | None], None]) -> None:
    try:
        session.ask(
            question, lambda side, text: put((side, text)), lambda gates: put(("gates", recognised_line(gates)))
        )
        put(None)
    except BaseException as error:  # raised again by whoever listens
        put(error)
