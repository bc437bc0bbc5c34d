"""The files of an output folder: `report.json` says what came of a run, and the folder appears whole or not at all.

Knows the results of `lunar.method` and `lunar.evaluation`; writes no prompt, no answer and no absolute path.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
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
PAGE_FILE, EXAMPLES_FILE, COMPARISON_FILE = "report.html", "examples.json", "comparison.json"

SHOWN = 100
"""Gate values per set of prompts that report.json keeps."""


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
    intervals: Mapping[str, Any] | None = None,
    recognised: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        unlearned: what `lunar.method.unlearn` found.
        summary: what `lunar.evaluation.summary` made of the answers.
        settings: as asked for; the layer and tail that were chosen are filled in.
        seconds: time of stages beyond those of the method, such as loading and answering.
        sources: what the model and the data are called, as the report is to say it (`short_name`: no paths).
        intervals: of the scores, as `lunar.evaluation.scores_with_intervals` gives them.
        recognised: gate values by set of prompts.
    """
    resolved = {**(settings.as_dict() if settings else {}), **unlearned.edit.settings}
    site = unlearned.site
    return finite(
        {
            **summary,
            "intervals": _ends(intervals or {}),
            "counts": dict(unlearned.counts),
            "retain_source": "built-in prompts" if unlearned.builtin_retain else "file",
            "sources": dict(sources or {}),
            "matrix": {
                "module_name": site.module_name,
                "part": site.part,
                "layer": site.layer,
                "shape": [site.width, site.inner_width],
                "rank": unlearned.edit.rank,
                "stored_numbers": unlearned.edit.stored_numbers,
                "others": [part.module_name for part in unlearned.edit.factors if part.module_name != site.module_name],
            },
            "gate": {
                "values": _statistics(unlearned.gate.values.tolist()),
                "leave_one_out": _statistics(unlearned.gate.leave_one_out.tolist()),
                "distributions": {name: _distribution(values) for name, values in (recognised or {}).items() if values},
            },
            "choice": unlearned.choice.as_dict() if unlearned.choice else None,
            "resumed": dict(unlearned.resumed),
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


def _distribution(values: Sequence[float]) -> dict[str, Any]:
    """At most `SHOWN` of the values, spread evenly over their order."""
    ordered, shown = sorted(values), min(SHOWN, len(values))
    places = [round(index * (len(ordered) - 1) / max(1, shown - 1)) for index in range(shown)]
    return {
        "count": len(ordered),
        "above_half": sum(value > 0.5 for value in ordered) / len(ordered),
        "values": [round(ordered[place], 3) for place in places],
    }


def _ends(intervals: Mapping[str, Any]) -> dict[str, Any]:
    """Lower and upper end by split, metric and moment."""
    return {
        split: {
            metric: {moment: [score["low"], score["high"]] for moment, score in moments.items()}
            for metric, moments in metrics.items()
        }
        for split, metrics in intervals.items()
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


def check_exports(outputs: Sequence[Path], ledger: Path) -> None:
    """Raise LunarError where folders to be made lie in each other or in the ledger that they are exported from."""
    real = [Path(os.path.realpath(folder)) for folder in outputs]
    for number, folder in enumerate(real):
        if folder.is_relative_to(os.path.realpath(ledger)):
            raise LunarError(
                f"An export was expected to go outside the ledger, but {outputs[number]} lies in {ledger}, whose files "
                "are not to be given away: choose another folder."
            )
        if any(folder.is_relative_to(other) for place, other in enumerate(real) if place != number):
            raise LunarError(
                f"Every export was expected to get a folder of its own, but {outputs[number]} is or lies in another "
                "one's: choose another folder."
            )


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to write into; it takes that name at the end, and vanishes after a failure.

    Everything in it is on the disk before it takes the name. What killed processes left of the same name is removed.
    """
    check_output(folder)
    folder = folder.absolute()
    with contextlib.ExitStack() as stack:
        try:
            parents = [folder.parent, *(place.parent for place in folder.parents if not place.exists())]
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            partial = stack.enter_context(_claimed(folder))
            yield partial
            for place, _, names in os.walk(partial, topdown=False):
                for name in names:
                    flush(Path(place, name))
                flush(Path(place))
            # An empty folder of that name is replaced; one that was filled meanwhile makes this fail.
            os.replace(partial, folder)
            _flush_name(folder, parents)
        except OSError as error:
            raise LunarError(
                f"The output folder {folder} cannot be written ({error.strerror}): choose another one."
            ) from error


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` with a lock that says that somebody is at work; removed if it is still there."""
    while True:
        partial = folder.parent / f".{folder.name}.partial-{uuid4().hex[:8]}"
        partial.mkdir()
        lock = os.open(partial, os.O_RDONLY)
        try:
            _lock(lock, wait=True)
            # Another process may have taken it for a dead one's before it had its lock.
            if partial.is_dir():
                yield partial
                return
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left of `folder`: what `_claimed` calls so and nobody holds the lock of."""
    called = re.compile(rf"\.{re.escape(folder.name)}\.partial-[0-9a-f]{{8}}")
    found: list[Path] = []
    # What cannot be listed, opened or removed stays: it is in nobody's way.
    with contextlib.suppress(OSError):
        found = [path for path in folder.parent.iterdir() if called.fullmatch(path.name)]
    for path in found:
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if _lock(lock, wait=False):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _flush_name(folder: Path, parents: Sequence[Path]) -> None:
    """Have the name that a folder was just given on the disk; where the disk refuses, nothing is kept."""
    try:
        for place in parents:
            # A folder that may be written but not listed cannot be opened.
            if os.access(place, os.R_OK):
                flush(place)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _lock(handle: int, *, wait: bool) -> bool:
    """Lock an open folder until it is closed; False where somebody else has the lock, or there are no locks here."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


def flush(path: Path) -> None:
    """Have a file or a folder on the disk, not only in memory. Raises OSError where the disk refuses."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
