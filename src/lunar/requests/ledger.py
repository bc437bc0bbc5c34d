"""A ledger folder: requests to forget that come one after another, each of which can be taken back.

    ledger = Ledger.start("ledger", loaded, forget, retain=retain)
    ledger.add(loaded, more, name="ticket-12")
    ledger.undo("ticket-12")
    ledger.edit().apply(loaded.model)

Every verb locks the folder, prepares a change (`lunar.requests.changes`) and writes it, all or nothing. The command
line does the same with reports beside (`lunar.ledgers`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file

from lunar.collect import tail_of
from lunar.edit import CARD_FILE, WEIGHTS_FILE, Edit
from lunar.errors import LunarError
from lunar.interrupted import saved_sums
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.prompts import default_retain_records
from lunar.recipe import RECIPE_FILE, without_forget
from lunar.records import Record
from lunar.report import ATTACKS_FILE, EXAMPLES_FILE, PAGE_FILE, new_folder, versions
from lunar.requests import changes
from lunar.requests.changes import BASE_FILE
from lunar.requests.parts import Base, Joint, Part
from lunar.requests.record import (
    EXPORTS,
    KEY_FILE,
    RECORD_FILE,
    appended,
    read_key,
    read_record,
    stale_exports,
    unknown_request,
)
from lunar.requests.state import Change, Request, Shared, State
from lunar.requests.store import Store, Writer, settle, text_writer
from lunar.settings import Settings
from lunar.solve import Solution

Read = TypeVar("Read")
Texts = Mapping[str, str | Callable[[str], str]]
"""Texts by fixed name; a function makes one of them from the record as it will be."""
OF_ONE_EDIT = (ATTACKS_FILE, EXAMPLES_FILE, PAGE_FILE)
"""What holds for the edit that it was made with: dropped by a change that does not bring it anew."""


class Ledger:
    """A ledger folder. Reading it needs no lock; every change takes one and gives it back."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        settle(self.folder)
        self._store = Store.open(self.folder)

    @classmethod
    def start(
        cls,
        folder: Path | str,
        loaded: LoadedModel,
        forget: Sequence[Record],
        *,
        retain: Sequence[Record] | None = None,
        reference: Sequence[Record] | str = "unverifiable",
        settings: Settings | None = None,
        name: str | None = None,
        forget_moments: bool = False,
        progress: Progress | None = None,
    ) -> Ledger:
        """Make a ledger in a new folder by its first request; see `lunar.requests.changes.start`.

        Where that was cut off before, sums that were left beside the folder are taken up.
        """
        saved = saved_sums(Path(folder))
        change = changes.start(
            loaded,
            forget,
            retain=retain,
            reference=reference,
            settings=settings,
            name=name,
            forget_moments=forget_moments,
            progress=progress,
            saved=saved,
        )
        with new_folder(Path(folder)) as place:
            write_first(place, change)
        saved.remove()
        return cls(folder)

    def add(
        self,
        loaded: LoadedModel,
        forget: Sequence[Record],
        *,
        retain: Sequence[Record] | None = None,
        name: str | None = None,
        forget_moments: bool = False,
        progress: Progress | None = None,
    ) -> Request:
        """Add a request; see `lunar.requests.changes.add`.

        `retain` are the records that the ledger was started with as such; those about the same as the request are let
        go. Without them nothing is, and names come from the built-in prompts where the ledger retains these,
        else they are invented.
        """
        with self.locked():
            change = changes.add(
                self.state(),
                loaded,
                forget,
                retain=self.names(forget) if retain is None else retain,
                name=name,
                forget_moments=forget_moments,
                progress=progress,
            )
            self.commit(change)
        return change.request

    def undo(self, name: str) -> Request:
        """Take a request back; see `lunar.requests.changes.undo`."""
        with self.locked():
            change = changes.undo(self.state(), self.request(name).name)
            self.commit(change)
        return change.request

    def requests(self) -> tuple[Request, ...]:
        """The requests that hold, oldest first."""
        return tuple(Request(**entry) for entry in self._store.content["requests"])

    def request(self, name: str) -> Request:
        """The request of a name; raises LunarError for one that does not hold, or does not hold any more."""
        known = {one.name: one for one in self.requests()}
        if name not in known:
            raise unknown_request(name, list(known), self.entries(), read_key(self._store.checked(KEY_FILE)))
        return known[name]

    @property
    def generation(self) -> int:
        """How many changes were made to the folder as it was read."""
        return self._store.generation

    def edit(self) -> Edit:
        """The edit of all requests that hold; without any it changes nothing. Raises LunarError if it was damaged."""
        # The very files that were checked: after a kill they may not have their names yet.
        return self._steady(lambda: Edit.read(self._store.checked(CARD_FILE), self._store.checked(WEIGHTS_FILE)))

    def edit_hash(self) -> str | None:
        """The SHA-256 of the edit's weights, by which the record names it."""
        return _edit_hash(self._store)

    def entries(self) -> list[dict[str, Any]]:
        """The record. Raises LunarError where an entry was changed, added, removed or moved."""
        return self._steady(self._entries)

    def stale_exports(self) -> dict[str, int]:
        """How many adapters and merged checkpoints were exported while the edit was another than now; no zeros."""
        stale = [entry["action"] for entry in stale_exports(self.entries(), self.edit_hash())]
        return {action.removeprefix("export "): stale.count(action) for action in EXPORTS if action in stale}

    def _entries(self) -> list[dict[str, Any]]:
        entries = read_record(self._store.checked(RECORD_FILE).read_text(encoding="utf-8"))
        stated = self._store.content["record"]
        if [len(entries), entries[-1]["hash"] if entries else None] != [stated["entries"], stated["head"]]:
            raise LunarError("The record does not end as the manifest says: entries were added or removed.")
        return entries

    def _steady(self, read: Callable[[], Read]) -> Read:
        """What is read of one generation; once more where another process has changed the folder meanwhile."""
        while True:
            try:
                return read()
            except (LunarError, OSError):
                now = Store.open(self.folder)
                if now.generation == self._store.generation:
                    raise
                self._store = now

    # For those who change it, in a block of `locked`

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other process can change the folder within the block; what it changed before is read first."""
        with Store.locked(self.folder) as store:
            self._store = store
            yield

    @property
    def shared(self) -> Shared:
        """What all requests have in common."""
        return Shared.of(self._store.content["shared"])

    def state(self) -> State:
        """All that is kept, after a look at the hashes of its files."""
        base, shared = Base.load(self._store.checked(BASE_FILE)), self.shared
        parts = {one.id: Part.load(self._store.checked(one.file)) for one in self.requests() if one.kept}
        frozen = [Solution(**load_file(self._store.checked(one.file))) for one in self.requests() if not one.kept]
        joint = Joint(base, parts, shared.settings, tail_of(shared.settings), tuple(frozen))
        return State(shared, self.requests(), joint, read_key(self._store.checked(KEY_FILE)))

    def names(self, forget: Sequence[Record]) -> Sequence[Record]:
        """Where the names of neighbours come from where nobody says."""
        return default_retain_records(forget) if self.shared.builtin_retain else ()

    def commit(self, change: Change, files: Texts | None = None, entry: Mapping[str, Any] | None = None) -> None:
        """Write a change. `files` are texts by fixed name (report.json), `entry` is added to the record's entry."""
        recipe = self.recipe_after(change.requests)
        changed = {} if recipe is None or recipe == self.text(RECIPE_FILE) else {RECIPE_FILE: recipe}
        _commit(self._store, change, {**changed, **(files or {})}, entry or {})

    def note(self, action: str, entry: Mapping[str, Any], files: Texts | None = None) -> None:
        """Add an entry to the record and change no request. `files` are texts by fixed name, written along with it."""
        text = appended(_record_text(self._store), action, {"versions": versions(), **entry})
        content = {**self._store.content, "record": _head(text)}
        self._store.commit(content, _writers(files or {}, text))

    def text(self, name: str) -> str | None:
        """A file of the ledger, after a look at its hash; None where the ledger has none of that name."""
        return self._store.checked(name).read_text(encoding="utf-8") if name in self._store.files else None

    def recipe_after(self, requests: Sequence[Request]) -> str | None:
        """recipe.toml where these requests hold; None where the ledger has none.

        It makes the first request of the ledger, and says nothing of its data any more where that one does not hold.
        """
        text = self.text(RECIPE_FILE)
        first = self.entries()[0]["request"]
        return text if text is None or any(one.id == first for one in requests) else without_forget(text)

    def faults(self) -> list[str]:
        """What is wrong with the folder's files and its record, in sentences; see `lunar.requests.checks`."""
        found = self._store.faults()
        try:
            self.entries()
        except LunarError as error:
            found.append(str(error))
        return list(dict.fromkeys(found))


def write_first(
    folder: Path, change: Change, files: Texts | None = None, entry: Mapping[str, Any] | None = None
) -> None:
    """Write the ledger that a change starts into an empty folder that nobody else knows yet."""
    _commit(Store(folder), change, files or {}, entry or {})


def _commit(store: Store, change: Change, files: Texts, entry: Mapping[str, Any]) -> None:
    edit = change.edit.files()
    hashes = {"before": _edit_hash(store), "after": hashlib.sha256(edit[WEIGHTS_FILE]).hexdigest()}
    said = {"versions": versions(), **change.entry, "edit": hashes, **entry}
    text = appended(_record_text(store), change.action, said)
    written: dict[str, Writer] = dict(change.written)
    written |= {name: _bytes_writer(content) for name, content in edit.items()}
    written |= _writers(files, text)
    content = {
        "shared": change.shared.as_dict(),
        "requests": [asdict(one) for one in change.requests],
        "record": _head(text),
    }
    store.commit(content, written, (*change.dropped, *(name for name in OF_ONE_EDIT if name not in files)))


def _writers(files: Texts, record: str) -> dict[str, Writer]:
    """Writers of the texts, and of the record."""
    texts = {name: text if isinstance(text, str) else text(record) for name, text in files.items()}
    return {name: text_writer(text) for name, text in {**texts, RECORD_FILE: record}.items()}


def _record_text(store: Store) -> str:
    return store.checked(RECORD_FILE).read_text(encoding="utf-8") if RECORD_FILE in store.files else ""


def _head(text: str) -> dict[str, Any]:
    last = json.loads(text.splitlines()[-1])
    return {"entries": last["number"], "head": last["hash"]}


def _edit_hash(store: Store) -> str | None:
    return store.files[WEIGHTS_FILE]["sha256"] if WEIGHTS_FILE in store.files else None


def _bytes_writer(content: bytes) -> Writer:
    return lambda path: _write(path, content)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
