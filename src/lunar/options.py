"""What several commands of the command line share: options, progress, and results for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lunar.report.progress import Stages

Model = Annotated[str, typer.Argument(help="A folder, a Hub id, or `tiny` (the embedded model).", show_default=False)]
Device = Annotated[str | None, typer.Option(help="Where the model runs: cpu, cuda, … (default: cuda if there is one)")]
Groups = Annotated[
    list[str] | None,
    typer.Option("--forget-group", help="Forget this group of --forget; the others are retained. Repeatable."),
]
Seed = Annotated[int, typer.Option(help="For whatever draws random numbers.")]
ShowForget = Annotated[
    bool, typer.Option("--show-forget", help="Let report.html show example answers about what was forgotten.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, and only the result itself.")]


def stages(as_json: bool, quiet: bool) -> Stages:
    """Progress for whoever watches a terminal."""
    from lunar.report.progress import Stages

    return Stages(shown=not (as_json or quiet))


def print_json(content: dict[str, Any]) -> None:
    """One document on standard output."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def retain_beside(forget: str, groups: Sequence[str], *, silent: bool) -> str | None:
    """The retain data that a file of `lunar prompts` names, and a line that says so; groups are retain data enough."""
    from lunar import records

    found = None if groups else records.retain_beside(forget)
    if found is not None and not silent:
        typer.echo(f"What to leave alone: {found}, which the forget file names.", err=True)
    return found
