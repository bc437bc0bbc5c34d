"""The files of a ledger folder, written so that a kill at any moment leaves the state before or the one after.

The manifest `ledger.json` names every file with its size and SHA-256, and replacing it is the moment at which a change
happens. What has a fixed name is first written as `.NAME.GENERATION` and takes its name after the manifest has been
replaced, and what a change drops is taken away then; whoever opens the folder next finishes that if it was cut off.
Kept files (`kept/…`) never change and are only added and, once no manifest names them, removed. Every file goes to a
temporary name in its own folder, is flushed to the disk, and is renamed. Knows neither torch nor what the files say.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lunar.errors import LunarError
from lunar.report import flush

MANIFEST, LOCK, KEPT = "ledger.json", ".lock", "kept"
FORMAT = 1
TEMPORARY = ".partial"
_UNFINISHED = re.compile(rf".+{re.escape(TEMPORARY)}|\.tmp[A-Za-z0-9]{{6}}")
"""Files that a killed process left: under this module's temporary names, and those safetensors writes under first."""
_STAGED = re.compile(r"\.(?P<name>[\w.-]+)\.(?P<generation>\d+)")

Writer = Callable[[Path], None]
"""Writes one file at the path it is given."""


def is_ledger(folder: Path | str) -> bool:
    """Whether a folder holds a ledger."""
    # os.path and not Path.is_file: the latter raises for names that are too long for the file system.
    return os.path.isfile(Path(folder) / MANIFEST)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Store:
    """One ledger folder.

    Attributes:
        folder: where it is.
        content: what the manifest says, apart from format, generation and files; to be given to `commit` anew.
        generation: how many changes were made to the folder.
        files: relative name to {"sha256", "bytes"} of every file that belongs to this generation.
        removed: the same of files with fixed names that this generation's change took away.
    """

    folder: Path
    content: dict[str, Any] = field(default_factory=dict)
    generation: int = 0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    removed: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | str) -> Store:
        """Read the manifest, for reading only. Raises LunarError where there is none or it was damaged."""
        folder = Path(folder)
        if not is_ledger(folder):
            raise LunarError(
                f"{folder} was expected to hold a ledger, but it has no {MANIFEST}: give a folder that "
                "`lunar unlearn --output` made."
            )
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
            body = json.loads(text)
            body.pop("sha256")
            if text != _manifest_text(body) or body["format"] != FORMAT:
                raise ValueError("not what was written")
            files, removed = (
                {str(name): dict(entry) for name, entry in body.get(part, {}).items()} for part in ("files", "removed")
            )
            return cls(folder, dict(body["content"]), int(body["generation"]), files, removed)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LunarError(
                f"The manifest {folder / MANIFEST} is damaged or was changed: restore the folder from a copy."
            ) from error

    @classmethod
    @contextlib.contextmanager
    def locked(cls, folder: Path | str) -> Iterator[Store]:
        """Open for writing: no other process can until the block ends, and what was cut off is finished first.

        Raises LunarError where another process works on the folder, or it cannot be written.
        """
        folder = Path(folder)
        cls.open(folder)
        with _lock(folder):
            store = cls.open(folder)  # again: it may have changed before the lock was had
            store._settle()
            yield store

    def path(self, name: str) -> Path:
        """Where the file of this generation is now; raises LunarError where it is missing or has another size."""
        entry = self.files.get(name)
        if entry is None:
            raise LunarError(f"The ledger {self.folder} has no file {name}: it was made by another version.")
        for place in (self._staged(name), self.folder / name):
            if place.is_file() and place.stat().st_size == entry["bytes"]:
                return place
        raise LunarError(f"The ledger's file {name} is missing or was changed: restore {self.folder} from a copy.")

    def checked(self, name: str) -> Path:
        """`path`, after a look at the file's hash."""
        place = self.path(name)
        if sha256(place) != self.files[name]["sha256"]:
            raise LunarError(f"The ledger's file {name} was changed or damaged: restore {self.folder} from a copy.")
        return place

    def commit(self, content: dict[str, Any], written: Mapping[str, Writer], dropped: tuple[str, ...] = ()) -> None:
        """Go on to the next generation: files written and dropped, and a new manifest, all or nothing.

        Only within `locked`, or on a folder that nobody else knows yet. Raises LunarError, with the folder as it was,
        where the disk is full or the folder cannot be written.
        """
        following = Store(self.folder, content, self.generation + 1, dict(self.files))
        try:
            for name, write in written.items():
                if name.startswith(f"{KEPT}/") and name in self.files:
                    raise LunarError(f"The ledger's file {name} is there already: give the request another name.")
                place = following._target(name)
                write_file(place, write)
                following.files[name] = {"sha256": sha256(place), "bytes": place.stat().st_size}
            for name in dropped:
                entry = following.files.pop(name, None)
                if entry is not None and not name.startswith(f"{KEPT}/"):
                    following.removed[name] = entry
            following._write_manifest()
        except BaseException as error:
            if not following._stands():
                if isinstance(error, OSError):
                    raise unwritable(self.folder, error) from error
                raise
            if not isinstance(error, OSError):
                raise
        self.content, self.generation = following.content, following.generation
        self.files, self.removed = following.files, following.removed
        # The change is made; what is left can be made up for by whoever opens the folder next.
        with contextlib.suppress(LunarError):
            self._settle()

    def faults(self) -> list[str]:
        """What is wrong with the files, in sentences; hashes of all of them are looked at."""
        found = []
        for name in self.files:
            try:
                self.checked(name)
            except LunarError as error:
                found.append(str(error))
            except OSError as error:
                found.append(f"The ledger's file {name} cannot be read ({error.strerror}).")
        # What another process is writing, or a killed one left, is removed by `settle`; anything else is somebody's.
        strange = [path.name for path in self._unnamed() if not _is_kept(path)]
        return found + [f"{KEPT}/{name} is no file of this ledger: take it away." for name in strange]

    # How it is done

    def _target(self, name: str) -> Path:
        return self.folder / name if name.startswith(f"{KEPT}/") else self._staged(name)

    def _staged(self, name: str) -> Path:
        return self.folder / f".{name}.{self.generation}"

    def _write_manifest(self) -> None:
        body = {"format": FORMAT, "generation": self.generation, "content": self.content, "files": self.files}
        if self.removed:
            body["removed"] = self.removed
        write_file(self.folder / MANIFEST, text_writer(_manifest_text(body)))

    def _stands(self) -> bool:
        """Whether this generation is the folder's, after a failure; what was staged for another is taken away."""
        try:
            now = Store.open(self.folder)
        except LunarError:  # a first generation, which no manifest names yet
            return False
        with contextlib.suppress(LunarError):
            now._settle()
        return now.generation == self.generation

    def _left_over(self) -> list[Path]:
        """Files that this generation's change took away and that are still there, byte for byte: no one else's."""
        places = {self.folder / name: entry["sha256"] for name, entry in self.removed.items()}
        return [place for place, hash in places.items() if place.is_file() and sha256(place) == hash]

    def _unnamed(self) -> list[Path]:
        """What lies among the kept files and is named by no manifest."""
        kept = self.folder / KEPT
        paths = sorted(kept.iterdir()) if kept.is_dir() else []
        return [path for path in paths if f"{KEPT}/{path.name}" not in self.files]

    def _settle(self) -> None:
        """Give staged files their names, and remove what no manifest names and this module made."""
        try:
            for name in self.files:
                staged = self._staged(name)
                if not name.startswith(f"{KEPT}/") and staged.is_file():
                    os.replace(staged, self.folder / name)
            for place in self._left_over():
                place.unlink()
            for path in self.folder.iterdir():
                # A staged file of this generation is gone by now, so whatever is left belongs to none.
                if path.is_file() and (_UNFINISHED.fullmatch(path.name) or _STAGED.fullmatch(path.name)):
                    path.unlink()
            for path in self._unnamed():
                if path.is_file() and _is_kept(path):
                    path.unlink()
            flush(self.folder)
        except OSError as error:
            raise unwritable(self.folder, error) from error


def _is_kept(path: Path) -> bool:
    """Whether a name among the kept files is one that this module gives; what else lies there is somebody's."""
    return path.suffix == ".safetensors" or _UNFINISHED.fullmatch(path.name) is not None


def settle(folder: Path) -> None:
    """Finish what a killed process left half done; where that cannot be done now, whoever writes next does it."""
    if is_ledger(folder):
        store = Store.open(folder)
        staged = any(store._staged(name).is_file() for name in store.files)
        undone = any(map(_is_kept, store._unnamed()))
        if staged or undone or store._left_over():
            with contextlib.suppress(LunarError), Store.locked(folder):
                pass


def write_file(place: Path, write: Writer) -> None:
    """Write a file under a temporary name beside it, flush it to the disk, and give it its name. Mode 0600."""
    place.parent.mkdir(mode=0o700, exist_ok=True)
    partial = place.with_name(f".{place.name.lstrip('.')}{TEMPORARY}")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        write(partial)
        partial.chmod(0o600)
        flush(partial)
        os.replace(partial, place)
        flush(place.parent)
    except OSError:
        raise
    except Exception as error:
        # safetensors reports a full disk as an error of its own class.
        if "os error" in str(error).lower() or "no space" in str(error).lower():
            raise OSError(28, "No space left on device" if "28" in str(error) else str(error)[:80]) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def text_writer(text: str) -> Writer:
    """A writer of UTF-8 text."""
    return lambda path: _write_text(path, text)


def unwritable(folder: Path, error: OSError) -> LunarError:
    """The error for a folder that cannot be written."""
    return LunarError(
        f"The folder {folder} cannot be written ({error.strerror or type(error).__name__}), and nothing in it was "
        "changed: make room or get the right to write there, and try again."
    )


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError as error:  # pragma: no cover - not a POSIX system
        raise LunarError("A ledger can be changed only on a POSIX system: this one has no file locks.") from error
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise LunarError(f"Another process is at work on {folder}: wait until it is done, and try again.") from error
    try:
        yield
    finally:
        os.close(handle)  # which gives the lock back


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _manifest_text(body: Mapping[str, Any]) -> str:
    """The manifest as it is written; whoever reads it expects every character of it."""
    return json.dumps({**body, "sha256": _digest(body)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
