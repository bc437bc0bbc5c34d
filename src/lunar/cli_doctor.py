"""The command `lunar doctor`: parses and calls, nothing else. `lunar.cli` takes it in."""

from __future__ import annotations

import typer

from lunar.options import Json, print_json

commands = typer.Typer()


@commands.command()
def doctor(as_json: Json = False) -> None:
    """Show versions, devices, memory and cache, and what is missing; exit code 1 where something required is broken."""
    from lunar.doctor import examine

    found = examine()
    if as_json:
        print_json(found)
    else:
        from lunar.report import terminal
        from lunar.report.installation import examined

        terminal.show(examined(found))
    if found["faults"]:
        raise typer.Exit(1)
