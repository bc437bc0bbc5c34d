"""The command `lunar report`: parses and calls, nothing else. `lunar.cli` takes it in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lunar.options import ShowForget

commands = typer.Typer()


@commands.command()
def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="LEDGER", help="Output folder of `lunar unlearn` or `compare`.", show_default=False),
    ],
    show_forget: ShowForget = False,
    opened: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write report.html again, the page that says what came of it, and print where it is."""
    from lunar.reporting import write_page

    path = write_page(folder, show_forget=show_forget)
    typer.echo(path)
    if opened:
        typer.launch(path.absolute().as_uri())
