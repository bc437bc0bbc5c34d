"""Finished results as files, each with a key of all that decides it: what is there under its key is not run again.

Knows requests and settings; knows nothing of what the results say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from lunar.comparison.methods import method
from lunar.comparison.request import Request
from lunar.edit import fingerprint
from lunar.models import LoadedModel


def key_of_request(loaded: LoadedModel, request: Request) -> str:
    """What decides all cells of a comparison: the model's weights and the request."""
    sets = [request.forget, request.retain, request.reference, *request.splits.values()]
    content = [[asdict(record) for record in records] for records in sets]
    weights = [fingerprint(parameter.detach()) for parameter in loaded.model.parameters()]
    return key_of([weights, content, list(request.splits), request.seed, request.asked])


def key_of_cell(common: str, name: str, settings: Any) -> str:
    """What decides one cell: that, the method and its settings."""
    return key_of([common, name, plain(method(name).settings if settings is None else settings)])


def key_of(content: Any) -> str:
    """A hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read(path: Path, key: str) -> dict[str, Any] | None:
    """The result in a file, if it is the one that is wanted; None if it is another, damaged or not there."""
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cell if isinstance(cell, dict) and cell.get("key") == key else None


def write(path: Path, content: Mapping[str, Any]) -> None:
    """The result into its file, which is never half written."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.rename(path)


def plain(value: Any) -> Any:
    """The same content for JSON: data classes as their fields, a model by its name."""
    if isinstance(value, LoadedModel):
        return value.source
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
