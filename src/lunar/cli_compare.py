"""The command `lunar compare`: parses and calls, nothing else. `lunar.cli` takes it in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lunar.options import Device, Groups, Json, Model, Quiet, Seed, print_json, retain_beside, stages

commands = typer.Typer()


@commands.command()
def compare(
    model: Model,
    forget: Annotated[str, typer.Option(help="What to forget, with answers: a file or a Hub data set.")],
    output: Annotated[Path, typer.Option(help="New folder, or one to go on with.", show_default=False)],
    retain: Annotated[
        str | None, typer.Option(help="What to leave alone, with answers (default: the other groups of --forget).")
    ] = None,
    reference: Annotated[str, typer.Option(help="unverifiable, refusal, or a file of prompts.")] = "unverifiable",
    forget_group: Groups = None,
    methods: Annotated[str, typer.Option(help="all, or names separated by commas.")] = "all",
    search: Annotated[
        bool, typer.Option(help="Choose each baseline's settings on a part of the retain set, or take its paper's.")
    ] = True,
    retain_only: Annotated[
        str | None, typer.Option(help="A model trained without the forget set, as a control.")
    ] = None,
    holdout: Annotated[
        str | None, typer.Option(help="Records like the forgotten ones that the model never saw, for membership tests.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run our method, the baselines of the literature and the controls on one request, and measure them alike."""
    from lunar.comparing import compare_files

    if retain is None:
        retain = retain_beside(forget, forget_group or (), silent=as_json or quiet)
    with stages(as_json, quiet) as progress:
        result = compare_files(
            model,
            forget,
            retain,
            output,
            reference=reference,
            forget_groups=forget_group or (),
            methods=methods,
            search=search,
            retain_only=retain_only,
            holdout=holdout,
            seed=seed,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json({**result, "output": str(output)})
    elif quiet:
        typer.echo(output)
    else:
        from lunar.report import terminal

        terminal.show(
            terminal.comparison_table(result["cells"]), f"Files: {output} (report.html, comparison.json, cells)"
        )
