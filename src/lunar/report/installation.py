"""What `lunar doctor` says to people. Prints only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

MAIN = ("torch", "transformers", "tokenizers", "safetensors", "datasets")


def examined(found: Mapping[str, Any]) -> RenderableType:
    """Everything that was found, then what is missing, then what is broken."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("lunar", f"{found['lunar']}, Python {found['python']}, {found['system']}")
    versions = [f"{name} {found['packages'].get(name) or 'missing'}" for name in MAIN]
    table.add_row("packages", f"{', '.join(versions)} (all: --json)")
    for one in found["devices"]:
        table.add_row("device", _device(one))
    memory, cache = found["memory"], found["cache"]
    table.add_row("memory", f"{_size(memory['available'])} of {_size(memory['total'])} free")
    offline = "; offline, as HF_HUB_OFFLINE says" if cache["offline"] else ""
    note = "" if cache["writable"] else "; not writable"
    table.add_row("cache", f"{cache['folder']}: {cache['models']} models, {_size(cache['free'])} free{note}{offline}")
    for name, one in found["extras"].items():
        table.add_row(f"[{name}]".replace("[", r"\["), _extra(name, one))
    good = "Everything that is required is there and works."
    faults = [Text(fault) for fault in found["faults"]]
    return Group(table, *(faults or [Text(good)]))


def _device(one: Mapping[str, Any]) -> str:
    if "total" in one:
        return f"{one['device']}: {one['name']}, {_size(one['free'])} of {_size(one['total'])} free"
    return f"{one['device']}: {one['name']}, {one['cores']} cores, {one['threads']} threads"


def _extra(name: str, one: Mapping[str, Any]) -> str:
    if not one["missing"]:
        return f"{one['for']}: there"
    return f"{one['for']}: lacks {', '.join(one['missing'])} (pip install 'lunar-unlearn[{name}]')".replace("[", r"\[")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
