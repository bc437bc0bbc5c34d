"""What a request costs as the retain data grow: starting a ledger reads them, adding to it does not.

    python experiments/growth.py [--sizes 250,500,1000,2000] [--output FILE]

On the embedded model with records of its own world: seconds of processor time by size of the retain set, and the
prompts that ran through the model while a request was added.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lunar.collect import Work
from lunar.models import load_model
from lunar.records import Record
from lunar.requests.ledger import Ledger
from lunar.settings import Settings
from lunar.tiny import world

QUESTIONS = ("Where was {} born?", "What does {} do for a living?", "Which instrument does {} play?")


def retained(size: int, forgotten: Sequence[str]) -> list[Record]:
    """So many records of the embedded world about others."""
    everything = world.build()
    facts = [fact for person, own in everything.people.items() if person not in forgotten for fact in own]
    records = [record for fact in facts for record in fact.records(held_out=False)]
    return records[:size]


def measured(size: int, folder: Path) -> dict[str, Any]:
    """Processor seconds of the start and of one more request, and what the latter ran through the model."""
    loaded = load_model("tiny", device="cpu")
    first, second = list(world.build().people)[:2]
    requests = [[Record.of(question.format(person)) for question in QUESTIONS] for person in (first, second)]
    retain = retained(size, (first, second))
    started = time.process_time()
    ledger = Ledger.start(folder, loaded, requests[0], retain=retain, settings=Settings(layer=0))
    start = time.process_time() - started
    started = time.process_time()
    request = ledger.add(loaded, requests[1])
    return {
        "retain_prompts": len(retain),
        "start_seconds": start,
        "add_seconds": time.process_time() - started,
        "add_prompts": request.prompts + request.neighbours,
        "retain_tokens": Work(loaded).tokens(retain),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="250,500,1000,2000")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for size in map(int, arguments.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(size, Path(folder) / "ledger"))
        row = rows[-1]
        print(
            f"{row['retain_prompts']:6d} retain prompts: start {row['start_seconds']:6.1f} s, one more request "
            f"{row['add_seconds']:5.1f} s ({row['add_prompts']} prompts read)",
            flush=True,
        )
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
