"""A ledger's edit exported: compressed, written, loaded again, compared, and noted in its record."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lunar.edit import Edit
from lunar.errors import LunarError
from lunar.export.adapter import common_rank, compressed, redirected_rows, write_adapter
from lunar.export.effect import adapter_effect, merged_effect
from lunar.export.merged import merged_faults, write_merged
from lunar.layers import is_mixture
from lunar.models import LoadedModel
from lunar.report import new_folder
from lunar.requests.ledger import Ledger
from lunar.requests.parts import Joint
from lunar.requests.record import stale_exports
from lunar.requests.store import Store, sha256


def export_adapter(ledger: Ledger, loaded: LoadedModel, output: Path) -> dict[str, Any]:
    """Write a PEFT adapter of the smallest rank that does the same at every kept row, and note it in the record.

    Returns ranks, hashes and effect. Within `ledger.locked()`. Raises LunarError, and leaves nothing, where the adapter
    has no effect when it is loaded again.
    """
    edit, joint = ledger.edit(), ledger.state().joint
    # Of a request that was not kept the rows are unknown, so that nothing may be left out.
    small = compressed(edit, None if joint.frozen else _rows(joint, edit))
    with new_folder(output) as folder:
        write_adapter(folder, small, loaded.source, mixture=is_mixture(loaded.model))
        # Against what was to be written: directions that no kept row misses were left out on purpose.
        effect = adapter_effect(loaded, small, folder).check("adapter")
        said = {
            "rank": common_rank(small),
            "ranks": {part.module_name: part.read.shape[0] for part in small.factors},
            "effect": asdict(effect),
            "files": _hashes(folder),
        }
    _note(ledger, "export adapter", said, output)
    return said


def export_merged(ledger: Ledger, loaded: LoadedModel, source: Path, output: Path) -> dict[str, Any]:
    """Write the source's checkpoint with the edit in it, and note it in the record.

    Returns hashes, effect, and the share of the change that is left after rounding. Within `ledger.locked()`. Raises
    LunarError, and leaves nothing, where anything else differs from the source or the checkpoint has no effect.
    """
    edit = ledger.edit()
    with new_folder(output) as folder:
        realised = write_merged(source, folder, edit)
        faults = merged_faults(source, folder, edit)
        if faults:
            raise LunarError(faults[0])
        effect = merged_effect(loaded, edit, folder).check("merged checkpoint")
        said = {"realised": realised, "effect": asdict(effect), "files": _hashes(folder)}
    _note(ledger, "export merged", said, output)
    return said


def _note(ledger: Ledger, action: str, said: dict[str, Any], output: Path) -> None:
    """Note an export in the record; one that cannot be noted is removed again, for no export is kept unrecorded."""
    before = Store.open(ledger.folder).content["record"]
    try:
        ledger.note(action, said)
    except BaseException:
        # An interruption may have come after the entry was written.
        if Store.open(ledger.folder).content["record"] == before:
            shutil.rmtree(output, ignore_errors=True)
        raise


def _rows(joint: Joint, edit: Edit) -> dict[str, Any]:
    """The redirected rows of all requests, and how far the edit moves each."""
    inner, _ = joint.rows()
    part = edit.factors[0]
    distance = (inner.double() @ part.read.double().T @ part.write.double().T).norm(dim=1)
    return redirected_rows([(part.module_name, inner, distance)])


def exported_before(ledger: Ledger, folder: Path) -> str | None:
    """When a merged checkpoint of exactly these files was exported, where the edit has become another since."""
    stale = stale_exports(ledger.entries(), ledger.edit_hash())
    made = [entry for entry in stale if entry["action"] == "export merged"]
    # Reading a whole checkpoint once more only where there is one that it could be.
    now = _hashes(folder) if made else {}
    return next((entry["time"] for entry in reversed(made) if entry["files"] == now), None)


def _hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
