"""The command line: parses and calls, nothing else. Heavy imports happen inside the commands, so that --help is fast.

    lunar demo                                  watch a small embedded model forget someone
    lunar unlearn MODEL --forget FILE --output DIR
    lunar inspect MODEL --forget FILE           which layer it would take, and why
    lunar evaluate MODEL --edit DIR --forget FILE --retain FILE
    lunar ask MODEL --edit DIR "a question"
    lunar unlearn DIR --forget FILE             one more request; also lunar requests, undo, export and verify DIR
    lunar attack DIR --forget FILE              try to bring it back
    lunar prompts MODEL --about "NAME" --output FILE    questions to forget, from a name
    lunar chat DIR                              before and after side by side, in the terminal
    lunar ui DIR                                the same in the browser, and requests drafted before they are made
    lunar doctor                                what is installed, and what is missing
    lunar compare MODEL --forget FILE --retain FILE --output DIR    beside the methods of the literature
    lunar report DIR                            write the page again that these write

Results go to standard output, progress and messages to standard error. Bad input is one sentence and exit code 2.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lunar import cli_attack, cli_chat, cli_compare, cli_doctor, cli_prompts, cli_report, cli_requests, cli_ui
from lunar.errors import LunarError
from lunar.options import Device, Groups, Json, Model, Quiet, ShowForget, print_json, retain_beside, stages
from lunar.settings import Settings, preferred

if TYPE_CHECKING:
    from lunar.recipe import Recipe
    from lunar.workflow import Outcome


class _Group(TyperGroup):
    """Turns the library's one exception for bad input into one sentence and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LunarError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            typer.echo(
                "Interrupted; nothing is half written, and the same command again goes on or begins anew.", err=True
            )
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group, help="Make a language model forget, in closed form.", no_args_is_help=True,
    pretty_exceptions_enable=False,
)  # fmt: skip

app.add_typer(cli_requests.commands)
app.add_typer(cli_compare.commands)
app.add_typer(cli_attack.commands)
app.add_typer(cli_prompts.commands)
app.add_typer(cli_chat.commands)
app.add_typer(cli_ui.commands)
app.add_typer(cli_doctor.commands)
app.add_typer(cli_report.commands)

EditFolder = Annotated[Path | None, typer.Option("--edit", help="Output folder of `lunar unlearn`.")]


def _print_version(wanted: bool) -> bool:
    if wanted:
        from lunar import __version__

        typer.echo(f"lunar {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    output: Annotated[
        Path | None, typer.Option(help="New or empty folder (default: lunar-demo, or the next free name).")
    ] = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Watch the embedded model forget one person, and see what it still knows."""
    from lunar import demo as lunar_demo

    with stages(as_json, quiet) as progress:
        outcome = lunar_demo.demo(output, device=device, progress=progress)
    if as_json:
        print_json({**outcome.report, "output": str(outcome.folder)})
    elif quiet:
        typer.echo(outcome.folder)
    else:
        from lunar.report import terminal

        rows = lunar_demo.examples(outcome)
        terminal.show(f"The model has forgotten {lunar_demo.PERSON}, given only as questions.")
        terminal.show(terminal.examples_table(rows), terminal.unlearned(outcome.report, outcome.folder, "tiny"))


@app.command()
def unlearn(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A folder, a Hub id, or `tiny`; or an output folder, to add a request. Needed without --from.",
            show_default=False,
        ),
    ] = None,
    forget: Annotated[
        str | None, typer.Option(help="What to forget: a file or a Hub data set; needed without --from.")
    ] = None,
    retain: Annotated[
        str | None, typer.Option(help="What to leave alone: a file or Hub data set (default: built-in prompts).")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Whose answers to take on: unverifiable (default), refusal, or a file of prompts."),
    ] = None,
    forget_group: Groups = None,
    prefer: Annotated[
        str | None,
        typer.Option(help="sparing (default): lose nothing else; or robust: stand against who holds the weights."),
    ] = None,
    harden: Annotated[
        bool, typer.Option("--harden", help="Resist more of the attacks of `lunar attack`: one request, four matrices.")
    ] = False,
    target: Annotated[str | None, typer.Option(help="shift, collapse or split, instead of --prefer.")] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="auto (default: searched for), paper (its selector), or a number, negative from the end."),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="1 moves all the way, 0 not at all (default: the smallest that redirects).")
    ] = None,
    ridge: Annotated[float | None, typer.Option(help="Larger: smaller, less exact edits (default: 0.0001).")] = None,
    seed: Annotated[int | None, typer.Option(help="For whatever draws random numbers (default: 0).")] = None,
    recipe: Annotated[
        Path | None, typer.Option("--from", help="Run a recipe.toml again, instead of everything above.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="New or empty folder for the edit; needed for the first request.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the request, such as ticket-12 (default: request-N).")] = None,
    forget_moments: Annotated[
        bool, typer.Option("--forget-moments", help="Keep nothing of the request but its change: no undo.")
    ] = False,
    show_forget: ShowForget = False,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a model forget prompts: find the edit, measure it, write it into a folder that explains itself.

    Given such a folder instead of a model, the prompts become one more request in it.
    """
    from lunar.recipe import Recipe
    from lunar.report import check_output
    from lunar.requests.store import is_ledger
    from lunar.workflow import unlearn_files

    if model is not None and is_ledger(model):
        decided = {
            "reference": reference,
            "prefer": prefer,
            "harden": harden or None,
            "target": target,
            "layer": layer,
            "strength": strength,
            "ridge": ridge,
        }
        cli_requests.refuse_beside_ledger(decided | {"seed": seed, "from": recipe, "output": output})
        cli_requests.add(
            Path(model),
            forget,
            retain,
            forget_group or (),
            name,
            forget_moments,
            device,
            show_forget=show_forget,
            as_json=as_json,
            quiet=quiet,
        )
        return
    if output is None:
        raise typer.BadParameter("Missing option '--output'.")
    if is_ledger(output):
        raise LunarError(
            f"The output folder must be new or empty, but {output} holds requests: to add one, give that folder "
            "instead of a model and leave out --output."
        )
    check_output(output)
    if prefer is not None or harden:
        target = preferred(prefer, target, harden)
    asked = {"target": target, "layer": _layer(layer), "strength": strength, "ridge": ridge, "seed": seed}
    knobs: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    groups = tuple(forget_group or ())
    if recipe is not None:
        others = {"model": model, "forget": forget, "retain": retain, "reference": reference, "group": forget_group}
        _refuse_beside_recipe([*(name for name, value in others.items() if value), *knobs])
        wanted = _again(recipe, silent=quiet)
    elif model is None or forget is None:
        raise typer.BadParameter(f"Missing {'argument MODEL' if model is None else 'option --forget'}.")
    else:
        if retain is None:
            retain = retain_beside(forget, groups, silent=as_json or quiet)
        wanted = Recipe(model, forget, retain, reference or Recipe.reference, groups, Settings(**knobs))
    with stages(as_json, quiet or os.environ.get("RANK", "0") != "0") as progress:
        outcome = unlearn_files(
            wanted,
            output,
            name=name,
            forget_moments=forget_moments,
            show_forget=show_forget,
            device=device,
            progress=progress,
        )
    if outcome is not None:  # of several processes the first says what came of it
        _say_unlearned(outcome, wanted.model, as_json=as_json, quiet=quiet)


@app.command()
def inspect(
    model: Model,
    forget: Annotated[str, typer.Option(help="What would be forgotten: a file of prompts or a Hub data set.")],
    retain: Annotated[
        str | None, typer.Option(help="What to leave alone: a file or Hub data set (default: built-in prompts).")
    ] = None,
    reference: Annotated[str, typer.Option(help="unverifiable, refusal, or a file of prompts.")] = "unverifiable",
    forget_group: Groups = None,
    target: Annotated[str, typer.Option(help="shift, collapse, split, gated or hardened.")] = "shift",
    trials: Annotated[int, typer.Option(min=1, help="How many of the best separated layers are tried.")] = 3,
    plot: Annotated[Path | None, typer.Option(help="Draw the layers into this .svg or .png file.")] = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show how every layer would do, and which one `unlearn` would take and why. Changes and writes nothing else."""
    from lunar.recipe import Recipe
    from lunar.workflow import inspect_files

    groups = tuple(forget_group or ())
    if retain is None:
        retain = retain_beside(forget, groups, silent=as_json or quiet)
    wanted = Recipe(model, forget, retain, reference, groups, Settings(target=target))
    with stages(as_json, quiet) as progress:
        result = inspect_files(wanted, most=trials, plot=plot, device=device, progress=progress)
    if as_json:
        print_json(result)
    elif quiet:
        typer.echo(result["choice"]["layer"])
    else:
        from lunar.report import terminal

        terminal.show(terminal.inspected(result["choice"], plot))


@app.command()
def evaluate(
    model: Model,
    forget: Annotated[str, typer.Option(help="Prompts that are to be forgotten, with answers.", show_default=False)],
    retain: Annotated[str, typer.Option(help="Prompts that are to be retained, with answers.", show_default=False)],
    edit: EditFolder = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on what it is to forget and to retain, before and after an edit."""
    from lunar.workflow import evaluate_files

    model, edit = _opened(model, edit)
    with stages(as_json, quiet) as progress:
        result = evaluate_files(model, edit, forget, retain, device=device, progress=progress)
    if as_json:
        print_json(result)
    else:
        from lunar.report import terminal

        terminal.show(terminal.scores_table(result), terminal.deviation_line(result))


@app.command()
def ask(
    model: Model,
    question: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
    edit: EditFolder = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask a question, and see the answers before and after an edit side by side."""
    from lunar import workflow

    model, edit = _opened(model, edit)
    with stages(as_json, quiet) as progress:
        before, after = workflow.ask(model, edit, question, device=device, progress=progress)
    if as_json:
        print_json({"question": question, "before": before} | ({} if after is None else {"after": after}))
    elif quiet:
        typer.echo(before if after is None else after)
    else:
        from lunar.report import terminal

        terminal.show(terminal.side_by_side(question, before, after))


def _again(recipe: Path, *, silent: bool) -> Recipe:
    """A recipe that was written before, and warnings of what may have changed since."""
    from lunar.recipe import read_recipe

    wanted, made_with = read_recipe(recipe)
    _warn_of_versions(made_with, silent=silent)
    if not silent:
        cli_requests.warn_of_requests(recipe)
    return wanted


def _say_unlearned(outcome: Outcome, model: str, *, as_json: bool, quiet: bool) -> None:
    """What `unlearn` did, for people, for machines, or only where it is."""
    if outcome.report["scores"]["forget"]["rouge1"]["before"] is None and not (as_json or quiet):
        typer.echo("The forget prompts have no answers, so ROUGE-1 was not measured for them.", err=True)
    if as_json:
        print_json({**outcome.report, "output": str(outcome.folder)})
    elif quiet:
        typer.echo(outcome.folder)
    else:
        from lunar.report import terminal

        terminal.show(terminal.unlearned(outcome.report, outcome.folder, model))


def _opened(model: str, edit: Path | None) -> tuple[str, Path | None]:
    """A ledger given as the model stands for the model that it was started with, and its edit."""
    from lunar.requests.store import is_ledger

    if edit is not None or not is_ledger(model):
        return model, edit
    from lunar.ledgers import model_of

    return model_of(Path(model)), Path(model)


def _layer(text: str | None) -> int | str | None:
    """A layer as `Settings` takes it, which refuses what is neither a number nor a selector."""
    return int(text) if text is not None and text.strip().removeprefix("-").isdecimal() else text


def _refuse_beside_recipe(given: list[str]) -> None:
    """A recipe decides everything, so whatever else would decide something is refused beside it."""
    if given:
        raise typer.BadParameter(f"--from takes everything from the recipe, so leave out: {', '.join(given)}.")


def _warn_of_versions(made_with: dict[str, str], *, silent: bool) -> None:
    from lunar.report import versions

    changed = [name for name, value in versions().items() if made_with.get(name) != value]
    if changed and not silent:
        typer.echo(f"Made with other versions of {', '.join(changed)}: the bytes may differ.", err=True)


def main() -> None:
    """The entry point `lunar`."""
    # transformers imports torchao where it is installed, which tells of kernels that other machines have.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    app()
