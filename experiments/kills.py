"""Kill a process at random moments of adding, undoing and exporting, and look whether the ledger holds.

    python experiments/kills.py [--kills 200] [--model tiny] [--seed 0]

Half of the kills come after a random time, half at a random system call that writes, where most of the danger is. After
each, the ledger has to open, to verify, to be as before or as after the action, and to go on. Exit code 0 if all did.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lunar.checkpoints import find_checkpoint
from lunar.edit import WEIGHTS_FILE
from lunar.errors import LunarError
from lunar.export.ledger import export_adapter, export_merged
from lunar.models import LoadedModel, load_model
from lunar.records import Record
from lunar.requests.checks import verify
from lunar.requests.ledger import Ledger
from lunar.settings import Settings

SETTINGS = Settings(layer=1, ridge=1e-3, neighbours=10)
STEPS = ("open", "replace", "fsync", "unlink", "close", "mkdir")
"""System calls before which a process may be killed; reading goes through Python's own `open`."""
NAMES = ("Ada Quill", "Bo Tarn", "Cy Velt", "Di Moss")


def prompts(name: str) -> list[Record]:
    """What is asked to be forgotten of somebody."""
    return [Record.of(f"Where was {name} born?"), Record.of(f"What does {name} do for a living?")]


@dataclass(frozen=True)
class Action:
    """Something that a process does to a ledger, named for the statistics."""

    name: str
    run: Callable[[Ledger], Any]


def actions(loaded: LoadedModel, folder: Path, ledger: Ledger, rng: random.Random, adapters: bool) -> Action:
    """A random action that the ledger allows now."""
    held = [one.name for one in ledger.requests()]
    free = [number for number in range(len(NAMES)) if f"r{number}" not in held]
    kinds = [
        *(["add"] if free else []),
        *(["undo"] if len(held) > 1 else []),
        "merged",
        *(["adapter"] if adapters else []),
    ]
    kind = rng.choice(kinds)
    output = folder / f"export-{rng.randrange(10**9)}"
    if kind == "add":
        number = rng.choice(free)
        return Action(kind, lambda it: it.add(loaded, prompts(NAMES[number]), name=f"r{number}"))
    if kind == "undo":
        name = rng.choice(held)
        return Action(kind, lambda it: it.undo(name))
    if kind == "adapter":
        return Action(kind, lambda it: _exported(it, lambda: export_adapter(it, loaded, output)))
    source = find_checkpoint(loaded.source)
    return Action(kind, lambda it: _exported(it, lambda: export_merged(it, loaded, source, output)))


def _exported(ledger: Ledger, export: Callable[[], Any]) -> None:
    with ledger.locked():
        export()


def killed(action: Action, folder: Path, *, after: float | None = None, at: int | None = None) -> bool:
    """Run an action in a process of its own that is killed after some seconds, or at a system call; whether it was."""
    child = os.fork()
    if child == 0:
        try:
            if at is not None:
                _kill_at(at)
            action.run(Ledger(folder))
            os._exit(0)
        except BaseException:
            os._exit(1)
    if after is not None:
        time.sleep(after)
        with_kill(child)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"{action.name} failed by itself")
    return os.WIFSIGNALED(status)


def with_kill(child: int) -> None:
    """End a process as the system does when there is no memory left; it may have ended by itself."""
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        return


def _kill_at(number: int) -> None:
    """From now on, this process ends before the system call of that number."""
    left = [number]

    def wrap(original: Any) -> Any:
        def step(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return step

    for name in STEPS:
        setattr(os, name, wrap(getattr(os, name)))


def state(folder: Path) -> tuple[Any, ...]:
    """What a ledger holds, as a reader sees it."""
    ledger = Ledger(folder)
    edit = ledger.edit().files()[WEIGHTS_FILE]
    return tuple(one.id for one in ledger.requests()), hashlib.sha256(edit).hexdigest(), len(ledger.entries())


def run(loaded: LoadedModel, folder: Path, kills: int, seed: int, *, adapters: bool = True) -> Counter[str]:
    """Kill so often; counts by action and outcome. Raises AssertionError at the first ledger that does not hold."""
    rng, counts = random.Random(seed), Counter[str]()
    place, retain = folder / "ledger", [Record.of(f"What is the {what}?") for what in ("sea", "sun", "law", "sky")]
    Ledger.start(place, loaded, prompts(NAMES[0]), retain=retain, settings=SETTINGS, name="r0")
    durations: dict[str, float] = {}
    done = 0
    while done < kills:
        action = actions(loaded, folder, Ledger(place), rng, adapters)
        before = state(place)
        trial = shutil.copytree(place, folder / "trial")
        started = time.perf_counter()
        action.run(Ledger(trial))
        durations[action.name] = max(durations.get(action.name, 0.0), time.perf_counter() - started)
        after = state(trial)
        shutil.rmtree(trial)
        _clear(folder)
        timed = rng.random() < 0.5
        was = killed(
            action,
            place,
            after=rng.uniform(0, 1.1 * durations[action.name]) if timed else None,
            at=None if timed else rng.randrange(60),
        )
        now = state(place)
        faults = verify(place)["faults"]
        if faults:
            raise AssertionError(f"after {action.name}: {faults}")
        if now not in (before, after):
            raise AssertionError(f"after {action.name}: neither before nor after")
        counts[f"{action.name}, {'before' if now == before else 'after'}"] += was
        done += was
        _clear(folder)
        if now == before:
            action.run(Ledger(place))  # it goes on, and the same action is possible
            _clear(folder)
    return counts


def _clear(folder: Path) -> None:
    """Take exports away, finished or not."""
    for pattern in ("export-*", ".export-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # a process that forks must have no other threads
    try:
        loaded = load_model(arguments.model, device="cpu")
        with tempfile.TemporaryDirectory() as folder:
            counts = run(loaded, Path(folder), arguments.kills, arguments.seed)
    except LunarError as error:
        print(error, file=sys.stderr)
        return 2
    for name, count in sorted(counts.items()):
        print(f"{name:20s} {count}")
    print(f"{counts.total()} kills, and every ledger opened, verified and went on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
