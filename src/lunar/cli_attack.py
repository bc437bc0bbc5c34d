"""The command `lunar attack`: parses and calls, nothing else. `lunar.cli` takes it in."""

from __future__ import annotations

from typing import Annotated

import typer

from lunar.cli_requests import Folder
from lunar.options import Device, Json, Quiet, Seed, print_json, stages

commands = typer.Typer()


@commands.command()
def attack(
    ledger: Folder,
    forget: Annotated[
        str,
        typer.Option(help="What was forgotten: a file or a Hub data set; without answers, the original's own serve."),
    ],
    retain: Annotated[
        str | None,
        typer.Option(help="What was left alone (default: what the ledger was started with, else built-in prompts)."),
    ] = None,
    forget_group: Annotated[
        list[str] | None, typer.Option(help="Only this group of --forget; the others are retained. Repeatable.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Names of attacks, separated by commas (default: all that the budget has time for).", metavar="NAMES"
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help="How much is tried: quick or full, which runs all attacks.")] = "quick",
    control: Annotated[
        str | None,
        typer.Option(help="A model that never knew, attacked alike (default: wrong answers to like questions)."),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try to bring back what was forgotten, and say what an attacker needs for it and what they get."""
    from lunar.attacking import attack_ledger

    with stages(as_json, quiet) as progress:
        content = attack_ledger(
            ledger,
            forget,
            retain=retain,
            groups=forget_group or (),
            only=only,
            control=control,
            budget=budget,
            seed=seed,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json({**content, "output": str(ledger)})
    elif quiet:
        typer.echo(content["verdict"])
    else:
        from lunar.report import terminal
        from lunar.report.attacked import attacked

        terminal.show(attacked(content, ledger))
