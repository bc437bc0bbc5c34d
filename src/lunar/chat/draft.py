"""A request that is tried before it is made: what it would do to its own questions, and to those near them.

Trying writes nothing; `commit` does. Knows no terminal and no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lunar.discovery import discover
from lunar.errors import LunarError
from lunar.evaluation import Comparison, compare_edits
from lunar.ledgers import add_records, retained_records
from lunar.models import LoadedModel
from lunar.neighbours import neighbours
from lunar.progress import Progress
from lunar.prompts import default_retain_records
from lunar.records import Record, deduplicate, sample
from lunar.report import short_name
from lunar.requests import changes
from lunar.requests.ledger import Ledger

MOST = 20
"""Questions of each kind of neighbour that are asked: enough to see harm, and few enough to wait for."""
ASKED, NEAR = "asked", "near"


@dataclass(frozen=True)
class Draft:
    """What a request would do to a ledger.

    Attributes:
        records: the drafted questions.
        generation: of the ledger that it was tried on.
        asked: the drafted questions, answered with the ledger's requests and with this one too.
        near: questions near them, the same way: those found about others, the same questions about other names (none
            of which the solve pinned), and general ones.
    """

    records: tuple[Record, ...]
    generation: int
    asked: Comparison
    near: Comparison

    @property
    def changed(self) -> list[tuple[str, str, str]]:
        """The questions nearby that are answered otherwise: question, before, after."""
        rows = zip(self.near.records, self.near.before, self.near.after, strict=True)
        return [(record.prompt, before, after) for record, before, after in rows if before != after]

    @property
    def kept(self) -> float | None:
        """The share of the questions nearby that are answered word for word as before; None without any."""
        count = len(self.near.records)
        return 1 - len(self.changed) / count if count else None


def questions_of(text: str) -> list[Record]:
    """The questions of a text, one per line. Raises LunarError where there is none."""
    lines = [line.strip() for line in text.splitlines()]
    records = deduplicate([Record.of(line) for line in lines if line])
    if not records:
        raise LunarError("Questions to forget were expected, one per line, but none came: write some, or give a name.")
    return records


def candidates(loaded: LoadedModel, name: str, progress: Progress) -> tuple[list[str], list[Record]]:
    """From a name: the questions that the model answers about it, and those nearby that must stay answered.

    Raises LunarError as `lunar.discovery.discover` does.
    """
    if not any(letter.isalpha() for letter in name):
        raise LunarError("A name was expected, but none came: write whom or what the questions shall be about.")
    found = discover(loaded, name, progress=progress)
    return [one.question for one in found.findings], list(found.retain)


def try_out(
    folder: Path, loaded: LoadedModel, records: Sequence[Record], nearby: Sequence[Record] = (), *, progress: Progress
) -> Draft:
    """Solve the questions together with the requests of a ledger, and ask before and after; nothing is written.

    `nearby` are questions that must stay answered, as `candidates` finds them. Raises LunarError as
    `lunar.requests.changes.add` does.
    """
    ledger = Ledger(folder)
    state, before = ledger.state(), ledger.edit()
    pool = _pool(folder, ledger, records)
    change = changes.add(state, loaded, records, retain=pool, progress=progress)
    near = _near(records, nearby, pool, {one.prompt for one in change.beside}, state.shared.settings.seed)
    splits = {ASKED: list(records), NEAR: near}
    found = compare_edits(loaded, before, change.edit, splits, progress=progress)
    return Draft(tuple(records), ledger.generation, found[ASKED], found[NEAR])


def commit(folder: Path, loaded: LoadedModel, draft: Draft, name: str | None, *, progress: Progress) -> str:
    """Add a drafted request to the ledger, with its report; the name that it has there.

    Raises LunarError where the ledger was changed since the draft was tried, and as `lunar.requests.changes.add` does.
    """
    ledger = Ledger(folder)
    with ledger.locked():
        if ledger.generation != draft.generation:
            raise LunarError(
                "The ledger was expected to be as it was when the draft was tried, but it was changed since: try again."
            )
        report = add_records(
            ledger,
            loaded,
            draft.records,
            sources={"model": short_name(ledger.shared.source), "forget": "drafted questions"},
            pool=retained_records(folder),
            name=name,
            progress=progress,
        )
    return report["request"]["name"]


def _pool(folder: Path, ledger: Ledger, records: Sequence[Record]) -> Sequence[Record]:
    """Where names of neighbours come from, as `lunar unlearn LEDGER` has them."""
    found = retained_records(folder)
    return ledger.names(records) if found is None else found


def _near(
    records: Sequence[Record], nearby: Sequence[Record], pool: Sequence[Record], pinned: set[str], seed: int
) -> list[Record]:
    """Some of what was found nearby, of the same questions about others that were not pinned, and of general ones."""
    own = {record.prompt for record in records}
    about = [one for one in nearby if one.prompt not in own]
    # Another seed than the solve's: what it pinned says little about what it did not see.
    like = [one for one in neighbours(records, pool, 4 * MOST, seed + 1) if one.prompt not in pinned | own]
    general = default_retain_records(records)
    chosen = [one for rows in (about, like, general) for one in sample(rows, MOST, seed)]
    return deduplicate(chosen)
