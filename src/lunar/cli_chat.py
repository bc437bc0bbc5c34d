"""The command `lunar chat`: parses and calls, nothing else. `lunar.cli` takes it in."""

from __future__ import annotations

import typer

from lunar.cli_requests import Folder
from lunar.options import Device, stages

commands = typer.Typer()


@commands.command()
def chat(ledger: Folder, device: Device = None) -> None:
    """Talk to the model before and after side by side, and switch requests on and off meanwhile."""
    from lunar.chat import chat as converse

    # No bar: it would be in the way of the conversation.
    with stages(False, True) as progress:
        converse(ledger, device=device, progress=progress)
