"""Two processes beside one that has a single core: seconds of the same edit, and how far the two edits are apart.

    python benchmarks/processes.py                     # five repetitions on a model of 33 million parameters
    python benchmarks/processes.py --width 1024 --inner 4096 --layers 8 --layer 5 --retain 800 --output processes.md

The model and the prompts are those of `speed.py`. Every process has one thread; every repetition runs one process and
then two, so that the ratios are within one run. Shown are the seconds of `unlearn` without start-up, which every run of
Python has, and of the stage that is shared, the pass over the retain prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import speed
import torch

from lunar import Edit, Settings, unlearn
from lunar.processes import joined, place

SHAPE = {"width": 512, "inner": 2048, "layers": 8, "layer": 5, "forget": 20, "retain": 600}
PROCESSES = 2


def work_of(arguments: argparse.Namespace) -> None:
    """What every process does; the first one writes the edit and how long it took."""
    torch.set_num_threads(1)
    work = speed.made(arguments)
    with joined():
        settings = Settings(layer=work.site.layer, neighbours=0)
        started = time.perf_counter()
        found = unlearn(work.loaded, work.forget, retain=work.retain, reference=work.reference, settings=settings)
        total = time.perf_counter() - started
        if place()[0] == 0:
            found.edit.save(arguments.edit)
            print(json.dumps({"total": total, "retain": found.seconds["retain"]}))


def run(arguments: argparse.Namespace, count: int, edit: Path) -> dict[str, float]:
    """So many processes of this file, each with one thread."""
    sizes = [f"--{name}={getattr(arguments, name)}" for name in (*SHAPE, "words", "tokenizer", "device", "dtype")]
    launcher = [] if count == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [sys.executable, *launcher, __file__, *sizes, "--edit", str(edit)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    return dict(json.loads(line))


def apart(edits: Sequence[Path]) -> float:
    """The difference of two edits relative to the first."""
    one, two = (Edit.load(folder).factors[0].change() for folder in edits)
    return float(torch.linalg.matrix_norm(two - one) / torch.linalg.matrix_norm(one))


def table(arguments: argparse.Namespace, runs: Sequence[Sequence[dict[str, float]]], differences: list[float]) -> str:
    """Markdown: seconds of both and their ratio, in all and of the shared stage."""
    shape = ", ".join(f"{name} {getattr(arguments, name)}" for name in SHAPE)
    lines = [
        f"{shape}; one thread each, torch {torch.__version__}; medians of {len(runs)} repetitions [least, most]; "
        f"edits apart by at most {max(differences):.1e}.",
        "",
        "| seconds | one process | two processes | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for stage in ("total", "retain"):
        alone, together = ([pair[place][stage] for pair in runs] for place in range(2))
        ratios = [one / two for one, two in zip(alone, together, strict=True)]
        lines.append(f"| {stage} | {' | '.join(map(speed.spread, (alone, together, ratios)))} |")
    return "\n".join(lines) + "\n"


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = speed.options(__doc__, SHAPE, 5, "cpu")
    parser.add_argument("--edit", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.epochs, arguments.data = speed.EPOCHS, None
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    if arguments.edit is not None:
        work_of(arguments)
        return 0
    runs, differences = [], []
    for _ in range(arguments.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            edits = [Path(folder) / str(count) for count in (1, PROCESSES)]
            runs.append([run(arguments, int(edit.name), edit) for edit in edits])
            differences.append(apart(edits))
    speed.shown(table(arguments, runs, differences), arguments.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
