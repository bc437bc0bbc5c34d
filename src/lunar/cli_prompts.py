"""The command `lunar prompts`: parses and calls, nothing else. `lunar.cli` takes it in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lunar.options import Device, Json, Quiet, Seed, print_json, stages

commands = typer.Typer()


@commands.command()
def prompts(
    model: Annotated[str, typer.Argument(help="A folder, a Hub id, or `tiny`.", show_default=False)],
    about: Annotated[str, typer.Option(help="A person, a company, a thing, or the two parties of a contract.")],
    output: Annotated[Path, typer.Option(help="New .jsonl file for what is to be forgotten.", show_default=False)],
    retain_output: Annotated[
        Path | None,
        typer.Option(help="New .jsonl file for what must stay known (default: OUTPUT's name with -neighbours)."),
    ] = None,
    neighbour: Annotated[
        list[str] | None,
        typer.Option(help="A name that must stay known; names like it are looked for anyway. Repeatable."),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find out what a model knows about a name: questions to forget, and questions nearby to leave alone."""
    from lunar.discovering import write_prompts

    with stages(as_json, quiet) as progress:
        result = write_prompts(
            model, about, output, retain_output, neighbours=neighbour or (), seed=seed, device=device, progress=progress
        )
    if as_json:
        print_json(result)
    elif quiet:
        typer.echo(output)
    else:
        from lunar.report import terminal

        terminal.show(terminal.prompts_written(result, model))
