"""The recipe of a run: everything that decides its result, as a TOML file that can be run again.

Knows which files were read and what they hashed to, not what they say; knows neither torch nor models. Paths stand in a
recipe as they were given; when it is run again they are looked for from the working directory, then from the recipe's
folder and the one above it, and the hash decides whether it is the right file.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lunar.errors import LunarError
from lunar.records import Record
from lunar.settings import Settings

RECIPE_FILE = "recipe.toml"
FORMAT = 1
_DATA = ("forget", "retain", "reference")


@dataclass(frozen=True)
class Recipe:
    """What `lunar unlearn` needs to know, and nothing else.

    Attributes:
        model: a folder, a Hub id, or "tiny".
        forget: file or Hub data set of the prompts to forget.
        retain: the same for what to leave alone; None uses the other groups of `forget`, or the built-in prompts.
        reference: "unverifiable", "refusal", a file or a Hub data set.
        forget_groups: the groups of `forget` that are to be forgotten; none means all of it.
        settings: how to edit.
        sha256: per source that is not built in, the hash of its bytes (of its records for a Hub data set).
        fingerprint: hash of the matrix that the edit was made for, by which the same base model is recognised.
    """

    model: str
    forget: str
    retain: str | None = None
    reference: str = "unverifiable"
    forget_groups: tuple[str, ...] = ()
    settings: Settings = Settings()  # noqa: RUF009 - frozen
    sha256: Mapping[str, str] | None = None
    fingerprint: str | None = None

    def sources(self) -> Iterator[tuple[str, str]]:
        """Names and sources of the data that are not built in."""
        for name in _DATA:
            source = getattr(self, name)
            if source is not None and source not in ("unverifiable", "refusal"):
                yield name, source


def digest(source: str, records: Sequence[Record]) -> str:
    """SHA-256 of a file's bytes; of the records where the source is a data set on the Hub."""
    path = Path(source).expanduser()
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps([asdict(record) for record in records]).encode()).hexdigest()


def recipe_text(recipe: Recipe, versions: Mapping[str, str]) -> str:
    """The content of `recipe.toml`; `recipe` has its hashes and resolved settings by now."""
    import tomli_w

    data: dict[str, Any] = {
        name: {"source": source, "sha256": (recipe.sha256 or {})[name]} for name, source in recipe.sources()
    }
    data.setdefault("reference", {"source": recipe.reference})
    if recipe.forget_groups:
        data["forget"]["groups"] = list(recipe.forget_groups)
    content = {
        "format": FORMAT,
        "model": {"source": recipe.model, "fingerprint": recipe.fingerprint or ""},
        "data": data,
        "settings": {key: value for key, value in recipe.settings.as_dict().items() if value not in (None, [])},
        "versions": dict(versions),
    }
    head = "# Run again:  lunar unlearn --from recipe.toml --output DIR\n\n"
    return head + tomli_w.dumps(content)


def without_forget(text: str) -> str:
    """A recipe without what it says of its forget data: for a ledger whose first request was taken back.

    An unkeyed hash of few prompts is one from which they can be guessed. Where groups of one file were forgotten, the
    file stays as what is retained; its hash does not, for it is of the forgotten groups too.
    """
    import tomli_w

    content = tomllib.loads(text)
    forget = content["data"].pop("forget", {})
    if forget.get("groups"):
        content["data"].setdefault("retain", {"source": forget["source"]})
    head = "# The request that this made was taken back, so it names no forget data and cannot be run again.\n\n"
    return head + tomli_w.dumps(content)


def read_recipe(path: Path) -> tuple[Recipe, dict[str, str]]:
    """The recipe in a file or an output folder, its paths resolved, and the versions that it was made with.

    Raises LunarError for what is no recipe, and for a data file that is missing or has other bytes than it had.
    """
    path = path / RECIPE_FILE if path.is_dir() else path
    if not path.is_file():
        raise LunarError(f"Expected a recipe, but there is no file {path}: give the recipe.toml of an output folder.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise LunarError(
                f"Expected a recipe of format {FORMAT}, but {path} has another: use the lunar it came from."
            )
        data, model = content["data"], content["model"]
        if "forget" not in data:
            raise LunarError(
                f"The recipe {path} cannot be run again, as its request was taken back and what it said of the forget "
                "data went with it: give the model and --forget instead."
            )
        settings = _settings(content["settings"], path)
        hashes = {name: str(entry["sha256"]) for name, entry in data.items() if "sha256" in entry}
        sources = {name: _found(str(entry["source"]), hashes.get(name), path) for name, entry in data.items()}
        recipe = Recipe(
            model=found_model(str(model["source"]), path),
            forget=sources["forget"],
            retain=sources.get("retain"),
            reference=sources["reference"],
            forget_groups=tuple(str(group) for group in data["forget"].get("groups", ())),
            settings=settings,
            sha256=hashes,
            fingerprint=str(model["fingerprint"]) or None,
        )
        return recipe, {str(name): str(version) for name, version in content["versions"].items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LunarError(f"The recipe {path} cannot be read: {error}.") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise LunarError(f"The recipe {path} is incomplete or changed ({error}): make it again.") from error


def retained_source(folder: Path) -> str | None:
    """Where the retain records of the recipe in an output folder are, as they can be opened now.

    Where groups of one file were forgotten that is this file; None for the built-in prompts. Raises LunarError for what
    is no recipe, and for a file that has other bytes than it had; the recipe's other sources are not looked at.
    """
    with _read_data(folder) as data:
        forget = data.get("forget", {})
        entry = data.get("retain") or (forget if forget.get("groups") else None)
        return None if entry is None else _found(str(entry["source"]), entry.get("sha256"), folder / RECIPE_FILE)


def reference_source(folder: Path) -> str:
    """The same for its reference prompts, or which of the built-in ones they are."""
    with _read_data(folder) as data:
        entry = data["reference"]
        return _found(str(entry["source"]), entry.get("sha256"), folder / RECIPE_FILE)


@contextmanager
def _read_data(folder: Path) -> Iterator[dict[str, Any]]:
    """What the recipe in an output folder says of its data; one sentence where it is not as it was written."""
    path = folder / RECIPE_FILE
    try:
        yield tomllib.loads(path.read_text(encoding="utf-8"))["data"]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise LunarError(f"The recipe {path} cannot be read ({type(error).__name__}): make it again.") from error


def _settings(table: Mapping[str, Any], path: Path) -> Settings:
    known = {entry.name for entry in fields(Settings)}
    unknown = sorted(set(table) - known)
    if unknown:
        raise LunarError(f"Unknown setting {unknown[0]!r} in {path}. Available: {', '.join(sorted(known))}.")
    return Settings.of(table)


def _found(source: str, sha256: str | None, recipe: Path) -> str:
    """A data source as it can be opened now. Raises LunarError if files of another content are all there is."""
    files = [place for place in _places(source, recipe) if place.is_file()]
    if sha256 is None or not files:
        return source  # built in, on the Hub, or missing: whoever reads it says so
    same = [place for place in files if digest(str(place), ()) == sha256]
    if not same:
        raise LunarError(f"The recipe was made with other contents of {source}: restore the file, or unlearn anew.")
    return str(same[0])


def found_model(source: str, recipe: Path) -> str:
    """A model that a recipe names, as it can be opened now; what is no folder anywhere is a name."""
    return str(next((place for place in _places(source, recipe) if place.is_dir()), source))


def _places(source: str, recipe: Path) -> tuple[Path, ...]:
    given, folder = Path(source).expanduser(), recipe.resolve().parent
    return given, folder / given, folder.parent / given, folder / given.name
