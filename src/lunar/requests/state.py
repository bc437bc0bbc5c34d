"""What a ledger is, as it is read and as a change of it is handed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lunar.edit import Edit
from lunar.errors import LunarError
from lunar.method import Unlearned
from lunar.models import Site
from lunar.records import Record
from lunar.requests.parts import Joint
from lunar.requests.store import KEPT, Writer
from lunar.settings import Settings


@dataclass(frozen=True)
class Request:
    """One request of a ledger.

    Attributes:
        id: by which the record and the kept file name it; no other request of the ledger ever has the same.
        name: by which it is taken back.
        time: when it came, UTC.
        prompts: how many.
        neighbours: how many prompts like them were pinned.
        kept: whether its activations are there, so that it can be taken back.
        asked: keyed hash of its prompts, by which the same ones are recognised.
    """

    id: str
    name: str
    time: str
    prompts: int
    neighbours: int
    kept: bool = True
    asked: str = ""

    def __post_init__(self) -> None:
        # In ledgers of versions before there was `asked`, the id was this hash.
        object.__setattr__(self, "asked", self.asked or self.id)

    @property
    def file(self) -> str:
        """Where its activations, or its frozen change, are."""
        return f"{KEPT}/{self.id}.safetensors" if self.kept else f"{KEPT}/{self.id}-frozen.safetensors"


@dataclass(frozen=True)
class Shared:
    """What a ledger's requests share besides the kept sums; stands in the manifest.

    Attributes:
        source: the model as it was given.
        hashes: of its checkpoint's files; None for a model that was in none.
        site: the matrix that is edited.
        fingerprint: of that matrix.
        settings: with the layer and the strength that were found.
        builtin_retain: whether the built-in prompts are what is retained.
        asked: how many requests were ever made.
        searched: whether the layer was searched for, so that a request that cannot be met is refused; where a layer was
            named instead, that is a warning.
        raises: whether every prompt has a strength of its own, those of further requests too.
    """

    source: str
    hashes: dict[str, str] | None
    site: Site
    fingerprint: str
    settings: Settings
    builtin_retain: bool
    asked: int = 0
    searched: bool = True
    raises: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self) | {"settings": self.settings.as_dict()}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Shared:
        """From the manifest."""
        # Strengths of single prompts are kept with their request.
        settings = Settings.of({**content["settings"], "strengths": ()})
        return cls(**{**content, "site": Site(**content["site"]), "settings": settings})


@dataclass(frozen=True)
class Change:
    """What a verb would make of a ledger.

    Attributes:
        action: "start", "add" or "undo".
        request: the one it is about.
        requests: all that hold after it.
        shared: of the ledger.
        edit: of all requests that hold.
        entry: what the record will say.
        written: kept files to write, by name.
        dropped: kept files to remove.
        beside: the neighbours that were pinned, for whoever measures; they are not kept.
        found: the change for a report; None after an undo.
        warnings: what gives cause for doubt, in sentences.
    """

    action: str
    request: Request
    requests: tuple[Request, ...]
    shared: Shared
    edit: Edit
    entry: dict[str, Any]
    written: Mapping[str, Writer] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    beside: tuple[Record, ...] = ()
    found: Unlearned | None = None
    warnings: tuple[str, ...] = ()

    def unlearned(self) -> Unlearned:
        """`found`; raises LunarError after an undo, which finds nothing new."""
        if self.found is None:
            raise LunarError(f"A request that came was expected, but the change is: {self.action}.")
        return self.found


@dataclass(frozen=True)
class State:
    """A ledger as it was read, for the functions below."""

    shared: Shared
    requests: tuple[Request, ...]
    joint: Joint
    key: bytes
