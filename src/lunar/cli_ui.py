"""The command `lunar ui`: parses and calls, nothing else. `lunar.cli` takes it in."""

from __future__ import annotations

from typing import Annotated

import typer

from lunar.cli_requests import Folder
from lunar.options import Device, stages

commands = typer.Typer()


@commands.command()
def ui(
    ledger: Folder,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Where to listen (default: the first free port from 7860 on).")
    ] = None,
    browser: Annotated[
        bool,
        typer.Option("--browser/--no-browser", help="Open the page where there is a screen, or only say where it is."),
    ] = True,
    device: Device = None,
) -> None:
    """Ask, switch requests and draft new ones in the browser, on this machine only."""
    from lunar.ui import serve

    with stages(False, False) as progress:
        serve(ledger, port=port, browser=browser, device=device, progress=progress)
