"""Retain prompts by which trials are judged, kept apart from those by which trial edits are made."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lunar.records import Record


def hold_out(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """The retain prompts that the trials may use, and about a fifth of them to judge trials by.

    Groups of at most a tenth of the prompts are held out whole, so that trials are judged on what they have seen
    nothing of; of the others, single prompts. With fewer than two prompts, both parts are all of them.
    """
    if len(records) < 2:
        return list(records), list(records)
    rng = random.Random(seed)
    sizes: dict[str, int] = {}
    for record in records:
        if record.group is not None:
            sizes[record.group] = sizes.get(record.group, 0) + 1
    small = sorted(group for group, size in sizes.items() if size <= len(records) / 10)
    rng.shuffle(small)
    wanted, chosen, count = sum(sizes[group] for group in small) / 5, set(), 0
    for group in small:
        if count + sizes[group] / 2 <= wanted:
            chosen.add(group)
            count += sizes[group]
    single = [index for index, record in enumerate(records) if record.group is None or record.group not in small]
    picked = set(rng.sample(single, round(len(single) / 5)))
    if not picked and not chosen:
        picked = {rng.randrange(len(records))}
    held = [record for index, record in enumerate(records) if record.group in chosen or index in picked]
    kept = [record for index, record in enumerate(records) if record.group not in chosen and index not in picked]
    return kept, held
