"""The conversation in a terminal: questions and commands in, two answers side by side out, as they are written.

Earlier lines come back by the arrow keys where there is GNU readline or its like; they are kept in memory only.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lunar.chat.session import AFTER, BEFORE, Session, recognised_line
from lunar.errors import LunarError, unknown
from lunar.report.elements import holding
from lunar.report.terminal import stale_exports
from lunar.requests.ledger import Ledger

NARROW = 60
"""Columns below which the answers stand below each other."""
PROMPT = "> "
HELP = {
    "/help": "this list",
    "/requests": "what was asked to be forgotten, and whether it is on",
    "/on NAME": "switch a request on, in this conversation only",
    "/off NAME": "switch a request off, in this conversation only",
    "/new": "start afresh: both sides forget what was said",
    "/undo": "take the last request back, in the ledger itself",
    "/save FILE": "write down what was said",
    "/quit": "end; so does Ctrl-D",
}
COMMANDS = [line.split()[0] for line in HELP]


def converse(session: Session, console: Console | None = None) -> None:
    """Read lines and answer them until the user has enough."""
    console = console or Console(highlight=False)
    _arrow_keys(session)
    console.print(Text(f"Requests that are on: {len(session.requests())}. Ask something, or /help."))
    while True:
        try:
            line = input(PROMPT).strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print()
            continue
        if line == "/quit":
            return
        try:
            _handle(session, console, line)
        except LunarError as error:
            console.print(Text(str(error)))
        except KeyboardInterrupt:
            console.print(Text("Broken off; the question counts as not asked."))


def _handle(session: Session, console: Console, line: str) -> None:
    if not line:
        return
    if not line.startswith("/"):
        _ask(session, console, line)
        return
    command, _, rest = line.partition(" ")
    rest = rest.strip()
    if command not in COMMANDS:
        raise unknown("command", command[:32], COMMANDS)
    if command in ("/on", "/off", "/save") and not rest:
        raise LunarError(f"{command} was expected to be followed by a name, but nothing came: see /help.")
    if command == "/help":
        console.print(_help())
    elif command == "/requests":
        console.print(_requests(session))
    elif command in ("/on", "/off"):
        session.switch(rest, command == "/on")
        console.print(Text(f"{rest} is {command[1:]}, here only; the conversation starts afresh."))
    elif command == "/new":
        session.start_afresh()
        console.print(Text("Both sides have forgotten what was said."))
    elif command == "/undo":
        _undo(session, console)
    elif command == "/save":
        session.save(Path(rest).expanduser())
        console.print(Text(f"{len(session.turns)} questions with their answers are in {rest}."))


def _ask(session: Session, console: Console, question: str) -> None:
    said = {BEFORE: "", AFTER: ""}
    with Live(console=console, refresh_per_second=12, vertical_overflow="visible") as live:

        def show(side: str, text: str) -> None:
            said[side] += text
            live.update(_answers(said, console.width))

        # Printed above the answers, and before there are any.
        turn = session.ask(question, show, on_gates=lambda gates: live.console.print(Text(recognised_line(gates))))
        live.update(_answers({BEFORE: turn.before, AFTER: turn.after}, console.width))
    if turn.dropped:
        console.print(Text(f"The first {turn.dropped} of what was said do not fit the model's context any more."))


def _answers(said: dict[str, str], width: int) -> RenderableType:
    if width < NARROW:
        return Group(*(Text(f"{side}: {text}") for side, text in said.items()))
    table = Table()
    for side in said:
        table.add_column(side, ratio=1)
    table.add_row(*(Text(text) for text in said.values()))
    return table


def _requests(session: Session) -> RenderableType:
    if not session.requests():
        return Text("The ledger holds no request: the model is as it was.")
    return _two_columns(
        (one.name, f"{'on' if session.is_on(one.name) else 'off'}, {one.prompts} prompts") for one in session.requests()
    )


def _help() -> RenderableType:
    return _two_columns(HELP.items())


def _two_columns(rows: Any) -> RenderableType:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for first, second in rows:
        table.add_row(Text(first), Text(second))
    return table


def _undo(session: Session, console: Console) -> None:
    name = session.last().name
    try:
        sure = input(f"Take {name} back in {session.folder}, as if it had never come? [y/N] ")
    except EOFError:
        sure = ""
    if sure.strip().lower() not in ("y", "yes"):
        console.print(Text("Nothing was changed."))
        return
    session.undo(name)
    left = len(session.requests())
    stale = stale_exports(Ledger(session.folder).stale_exports(), left)
    console.print(Text(" ".join([f"Undone: {name}.", f"{holding(left).capitalize()}.", *stale])))


def _arrow_keys(session: Session) -> None:
    """Line editing with a history and completion of commands and names; plain lines where there is no readline."""
    with contextlib.suppress(ImportError):
        import readline

        def complete(text: str, state: int) -> str | None:
            words = COMMANDS if text.startswith("/") else [one.name for one in session.requests()]
            return [*(word for word in words if word.startswith(text)), None][state]

        readline.set_completer_delims(" ")
        readline.set_completer(complete)
        readline.parse_and_bind("tab: complete")
