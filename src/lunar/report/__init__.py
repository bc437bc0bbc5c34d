"""The files of an output folder: `report.json` says what came of a run, and the folder appears whole or not at all.

Knows the results of `lunar.method` and `lunar.evaluation`; writes no prompt, no answer and no absolute path.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lunar.errors import LunarError

if TYPE_CHECKING:
    from lunar.method import Unlearned
    from lunar.settings import Settings

REPORT_FILE, ATTACKS_FILE = "report.json", "attacks.json"


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = {"lunar": "lunar-unlearn", "torch": "torch", "transformers": "transformers"}
    found = {name: metadata.version(package) for name, package in packages.items()}
    return found | {"python": platform.python_version()}


def build_report(
    unlearned: Unlearned,
    summary: Mapping[str, Any],
    settings: Settings | None = None,
    *,
    seconds: Mapping[str, float] | None = None,
    sources: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        unlearned: what `lunar.method.unlearn` found.
        summary: what `lunar.evaluation.summary` made of the answers.
        settings: as asked for; the layer and tail that were chosen are filled in.
        seconds: time of stages beyond those of the method, such as loading and answering.
        sources: what the model and the data are called, as the report is to say it (`short_name`: no paths).
    """
    from dataclasses import asdict

    resolved = {**(asdict(settings) if settings else {}), **unlearned.edit.settings}
    site = unlearned.site
    return finite(
        {
            **summary,
            "counts": dict(unlearned.counts),
            "retain_source": "built-in prompts" if unlearned.builtin_retain else "file",
            "sources": dict(sources or {}),
            "matrix": {
                "module_name": site.module_name,
                "layer": site.layer,
                "shape": [site.width, site.inner_width],
                "rank": unlearned.edit.rank,
                "stored_numbers": unlearned.edit.stored_numbers,
            },
            "gate": {
                "values": _statistics(unlearned.gate.values.tolist()),
                "leave_one_out": _statistics(unlearned.gate.leave_one_out.tolist()),
            },
            "choice": unlearned.choice.as_dict() if unlearned.choice else None,
            "settings": resolved,
            "seed": resolved.get("seed"),
            "seconds": {name: round(value, 3) for name, value in {**unlearned.seconds, **(seconds or {})}.items()},
            "versions": versions(),
        }
    )


def _statistics(values: Sequence[float]) -> dict[str, float]:
    """Minimum and median, and the share below a half: prompts that the edit would hardly redirect."""
    return {
        "minimum": min(values),
        "median": statistics.median(values),
        "share_below_half": sum(value < 0.5 for value in values) / len(values),
    }


def short_name(source: str) -> str:
    """The last part of a path; a Hub id or the name of a built-in set as it is."""
    return Path(source).name if Path(source).expanduser().exists() else source


def finite(value: Any) -> Any:
    """The same content with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(content: Mapping[str, Any]) -> str:
    """JSON as the library writes it: readable, one document, a newline at its end."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def check_output(folder: Path) -> None:
    """Raise LunarError unless `folder` is free to be made: it does not exist or is an empty folder."""
    try:
        if folder.is_dir() and not any(folder.iterdir()):
            return
        if folder.exists() or folder.is_symlink():
            kind = "is not empty" if folder.is_dir() else "is a file"
            raise LunarError(f"The output folder must be new or empty, but {folder} {kind}: choose another one.")
        parent = next((place for place in folder.absolute().parents if place.exists()), Path("/"))
    except OSError as error:
        raise LunarError(
            f"The output folder {folder} cannot be used ({error.strerror}): choose another one."
        ) from error
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise LunarError(f"The output folder {folder} cannot be made in {parent}: choose a place you may write to.")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to write into; it takes that name at the end, and vanishes after a failure."""
    check_output(folder)
    folder = folder.absolute()
    partial = folder.parent / f".{folder.name}.partial-{uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        yield partial
        # An empty folder of that name is replaced; one that was filled meanwhile makes this fail.
        os.replace(partial, folder)
    except OSError as error:
        raise LunarError(
            f"The output folder {folder} cannot be written ({error.strerror}): choose another one."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
