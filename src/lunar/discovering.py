"""What `lunar prompts` does: from a name to two files, what the model knows about it and what must stay known.

As `lunar.workflow`, it refuses what it can before torch is imported. The files are for a person to look through;
nothing of what they say is in messages or results.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from lunar import preflight
from lunar.errors import LunarError
from lunar.progress import Progress
from lunar.prompts import default_retain_records
from lunar.records import RETAIN_FIELD, Record
from lunar.report import versions
from lunar.workflow import load


def write_prompts(
    model: str,
    name: str,
    output: Path,
    retain_output: Path | None = None,
    *,
    neighbours: Sequence[str] = (),
    seed: int = 0,
    device: str | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Ask a model about a name and write what it knows to `output`, and what is nearby to `retain_output`.

    The second is `NAME-neighbours.jsonl` beside a first `NAME.jsonl` unless it is named. It ends with the built-in
    prompts, which it stands in for as retain data. Returns counts and no text.

    Raises LunarError as `lunar.discovery.discover` does, and where a file is there already or cannot be written.
    """
    retain_output = retain_output or output.with_name(f"{output.stem}-neighbours.jsonl")
    _check_files({"--output": output, "--retain-output": retain_output})
    record = Record.of(name) if name.strip() else None
    preflight.check_model(model, None, {"name": [record]} if record else {}, device=device)
    from lunar.discovery import discover

    loaded = load(model, device, progress)
    found = discover(loaded, name, neighbours=neighbours, seed=seed, progress=progress)
    forget: list[dict[str, Any]] = [
        {"question": one.question, "answer": one.answer, "evidence": round(one.evidence, 1)} for one in found.findings
    ]
    beside = output.absolute().parent == retain_output.absolute().parent
    if beside:
        # So that the first file is enough for `lunar unlearn`: forgotten alone, it takes people of like names with it.
        forget = [{**one, RETAIN_FIELD: retain_output.name} for one in forget]
    retain = [{"question": one.prompt, "answer": one.answer, "group": one.group} for one in found.retain]
    general = [{"question": one.prompt} for one in default_retain_records(found.forget)]
    _write({output: forget, retain_output: [*retain, *general]})
    return {
        "kind": found.kind,
        "asked": found.asked,
        "kept": len(forget),
        "answers": len({one.answer for one in found.findings}),
        "neighbours": len(retain),
        "neighbour_names": len({one.group for one in found.retain}),
        "general": len(general),
        "output": str(output),
        "retain_output": str(retain_output),
        "retain_is_named": beside,
        "seed": seed,
        "versions": versions(),
    }


def _check_files(paths: Mapping[str, Path]) -> None:
    if len({path.absolute() for path in paths.values()}) < len(paths):
        raise LunarError("Two files were expected, but both have one name: give --retain-output another.")
    for option, path in paths.items():
        if path.suffix.lower() != ".jsonl":
            raise LunarError(f"A .jsonl file was expected, but {path} came: give a name such as forget.jsonl.")
        if path.exists() or path.is_symlink():
            raise LunarError(
                f"A new file was expected, but {path} is there already: move it away, or name another with {option}."
            )
        if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK | os.X_OK):
            raise LunarError(f"The file {path} cannot be made there: choose a folder that you may write to.")


def _write(files: dict[Path, list[dict[str, Any]]]) -> None:
    """Both files or none: each is written under another name and takes its own when all are there."""
    partial = {path: path.with_name(f".{path.name}.{uuid4().hex[:8]}") for path in files}
    try:
        for path, rows in files.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            with partial[path].open("x", encoding="utf-8") as file:
                os.chmod(file.fileno(), 0o600)
                file.write(text)
        for path, other in partial.items():
            os.replace(other, path)
    except OSError as error:
        raise LunarError(f"The files cannot be written ({error.strerror}): choose another folder.") from error
    finally:
        for other in partial.values():
            other.unlink(missing_ok=True)
