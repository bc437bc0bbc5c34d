"""The commands for requests over time: parses and calls, nothing else. `lunar.cli` takes them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from lunar.options import Device, Json, Quiet, print_json, stages

commands = typer.Typer()

Folder = Annotated[Path, typer.Argument(metavar="LEDGER", help="Output folder of `lunar unlearn`.", show_default=False)]


def add(
    ledger: Path,
    forget: str | None,
    retain: str | None,
    groups: Sequence[str],
    name: str | None,
    forget_moments: bool,
    device: str | None,
    *,
    show_forget: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """`lunar unlearn` with a ledger in the place of the model."""
    from lunar.ledgers import add_files

    if forget is None:
        raise typer.BadParameter("Missing option --forget.")
    with stages(as_json, quiet) as progress:
        report = add_files(
            ledger,
            forget,
            groups=groups,
            name=name,
            retain=retain,
            forget_moments=forget_moments,
            show_forget=show_forget,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json({**report, "output": str(ledger)})
    elif quiet:
        typer.echo(report["request"]["name"])
    else:
        from lunar.report import terminal

        terminal.show(terminal.added(report, ledger))


def refuse_beside_ledger(given: Mapping[str, Any]) -> None:
    """The ledger's first request decided how to edit, so whatever else would is refused."""
    names = [f"--{name}" for name, value in given.items() if value is not None]
    if names:
        raise typer.BadParameter(f"The ledger's first request decided how to edit, so leave out: {', '.join(names)}.")


def warn_of_requests(recipe: Path) -> None:
    """A ledger's recipe is that of its first request."""
    from lunar.requests.store import Store, is_ledger

    folder = recipe if recipe.is_dir() else recipe.parent
    if is_ledger(folder) and Store.open(folder).content["shared"]["asked"] > 1:
        typer.echo("The recipe makes the first request of its ledger again, and none of the others.", err=True)


@commands.command()
def requests(ledger: Folder, as_json: Json = False, quiet: Quiet = False) -> None:
    """List what was asked to be forgotten and still is."""
    from lunar.ledgers import list_requests

    found = list_requests(ledger)
    if as_json:
        print_json({"requests": found})
    elif quiet:
        typer.echo("\n".join(one["name"] for one in found))
    else:
        from lunar.report import terminal

        terminal.show(terminal.requests_table(found))


@commands.command()
def undo(
    ledger: Folder,
    name: Annotated[str, typer.Argument(help="Of the request, as `lunar requests` lists it.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take a request back, as if it had never come: the model answers again what it was to forget."""
    from lunar.ledgers import undo_request

    result = undo_request(ledger, name)
    if as_json:
        print_json(result)
    elif quiet:
        typer.echo(ledger)
    else:
        from lunar.report import terminal

        lines = [f"Undone: {name}.", *terminal.stale_exports(result["stale_exports"], len(result["requests"]))]
        if result["recipe_shortened"]:
            lines.append(
                "recipe.toml made the ledger's first request, which does not hold any more: what it said of the forget "
                "data was removed, and --from cannot run it again."
            )
        terminal.show(*map(Text, lines), terminal.requests_table(result["requests"]))


@commands.command()
def export(
    ledger: Folder,
    adapter: Annotated[Path | None, typer.Option(help="New folder for a PEFT adapter, which vLLM takes too.")] = None,
    merged: Annotated[Path | None, typer.Option(help="New folder for the whole model with the edit in it.")] = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the edit as others can load it, load it again, and show that it does what it should."""
    from lunar.ledgers import export_ledger

    with stages(as_json, quiet) as progress:
        result = export_ledger(ledger, adapter=adapter, merged=merged, device=device, progress=progress)
    if as_json:
        print_json(result)
    elif quiet:
        typer.echo("\n".join(str(folder) for folder in (adapter, merged) if folder is not None))
    else:
        from lunar.report import terminal

        folders = {"adapter": adapter, "merged": merged}
        terminal.show(*(terminal.exported(name, folders[name], said) for name, said in result.items()))


@commands.command()
def verify(
    ledger: Folder,
    merged: Annotated[
        Path | None, typer.Option(help="A checkpoint that `lunar export --merged` made, to be compared byte by byte.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a ledger's files, its record and its edit against each other; exit code 1 where something was changed."""
    from lunar.ledgers import verify_ledger

    result = verify_ledger(ledger, merged)
    if as_json:
        print_json(result)
    else:
        for fault in result["faults"]:
            # As it is, not wrapped to the terminal's width: a log takes one line each.
            typer.echo(fault, err=quiet)
        if not (quiet or result["faults"]):
            from lunar.report import terminal

            terminal.show(terminal.verified(result, ledger, merged))
    if result["faults"]:
        raise typer.Exit(1)
