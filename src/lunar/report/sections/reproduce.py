"""How to make it again: the recipe, the versions and the hashes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lunar.report.contents import Contents
from lunar.report.elements import Section, Table, readable


def reproduce(contents: Contents) -> Section | None:
    """Everything that decides the result, without paths."""
    tables = [table for table in (_data(contents), _settings(contents), _versions(contents)) if table.rows]
    if not tables:
        return None
    lead = []
    if contents.recipe and "forget" not in contents.recipe.get("data", {}):
        lead.append("The ledger's first request was taken back, and what its recipe said of the data went with it.")
    elif contents.recipe:
        lead.append("The same inputs give the same bytes: lunar unlearn --from recipe.toml --output DIR.")
        if len(contents.record) > 1:
            lead.append("The recipe makes the ledger's first request again, and none of the others.")
    if contents.comparison:
        lead.append(f"The comparison drew its samples with seed {contents.comparison.get('seed')}.")
    return Section("reproduce", "How to reproduce it", lead, tables=tables[:1], folded=tables[1:])


def last_part(source: str) -> str:
    """What a source is called: of a path the last part, of a name on the Hub all of it."""
    path = source.startswith(("/", ".", "~")) or source.count("/") > 1 or "\\" in source
    return source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if path else source


def _data(contents: Contents) -> Table:
    recipe: Mapping[str, Any] = contents.recipe
    data = dict(recipe.get("data", {}))
    rows = [
        [name, last_part(str(one["source"])), str(one.get("sha256", "built in" if name == "reference" else "not kept"))]
        for name, one in data.items()
        if "source" in one
    ]
    model = recipe.get("model", {})
    if model:
        rows.insert(0, ["model", last_part(str(model["source"])), f"{model.get('fingerprint', '')} (edited matrix)"])
    if not rows:
        rows = [[name, last_part(str(source)), ""] for name, source in contents.sources.items()]
    last = contents.last
    for name, value in (last.get("model") or {}).items():
        rows.append([f"model {name}", "", str(value)])
    edit = (last.get("edit") or {}).get("after")
    if edit:
        rows.append(["edit", "edit.safetensors", str(edit)])
    if last.get("hash"):
        rows.append(["record", "record.jsonl, last entry", str(last["hash"])])
    columns = ["what", "name", "SHA-256"]
    if not any(row[2] for row in rows):
        columns, rows = columns[:2], [row[:2] for row in rows]
    return Table("What went in and what came out", columns, rows, frozenset({0, 1, 2}))


def _settings(contents: Contents) -> Table:
    settings = contents.report.get("settings") or contents.recipe.get("settings") or {}
    rows = [[readable(name), "–" if value is None else f"{value}"] for name, value in settings.items()]
    return Table("Settings", ["setting", "value"], rows, frozenset({0}))


def _versions(contents: Contents) -> Table:
    rows = [[str(name), str(version)] for name, version in contents.versions.items()]
    commit = contents.last.get("git_commit")
    if commit:
        rows.append(["git commit of lunar", str(commit)])
    return Table("Versions", ["package", "version"], rows, frozenset({0, 1}))
