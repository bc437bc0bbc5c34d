"""A conversation with a model as it was and as a ledger makes it: `session` holds it, `terminal` shows it."""

from __future__ import annotations

from pathlib import Path

from lunar import preflight
from lunar.ledgers import model_of
from lunar.progress import Progress
from lunar.requests.store import settle
from lunar.workflow import load


def chat(ledger: Path, *, device: str | None = None, progress: Progress) -> None:
    """Load what a ledger was started with, and converse in the terminal.

    Raises LunarError where the folder is no ledger or its model is not to be had.
    """
    settle(ledger)
    model = model_of(ledger)
    preflight.check_model(model, None, {}, device=device)
    from lunar.chat.session import Session
    from lunar.chat.terminal import converse

    session = Session(ledger, load(model, device, progress))
    converse(session)
