"""What this installation has and lacks: versions, devices, memory, the cache of models, and optional parts.

Reads the requirements that the package itself declares, so that nothing has to be listed twice. Knows no model but the
embedded one, whose files it checks.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement

from lunar.checkpoints import reason

DISTRIBUTION = "lunar-unlearn"
PURPOSES = {
    "embedding": "scores by likeness of meaning",
    "quantise": "the attack that rounds the weights",
    "export": "exports as a PEFT adapter",
    "plot": "plots of the layers",
    "ui": "the page of lunar ui",
    "docs": "the documentation as a site",
    "experiments": "the plots of the experiments",
    "dev": "the tests",
}
EMBEDDED = Path(__file__).parent / "tiny" / "weights"


def examine() -> dict[str, Any]:
    """Everything that `lunar doctor` says; `faults` are sentences about what is required and broken."""
    faults: list[str] = []
    return {
        "lunar": metadata.version(DISTRIBUTION),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": _required(faults),
        "devices": _devices(faults),
        "memory": _memory(),
        "cache": _cache(),
        "embedded_model": _embedded(faults),
        "extras": _extras(),
        "faults": faults,
    }


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]


def _required(faults: list[str]) -> dict[str, str | None]:
    """Versions of what the package needs; None for what is missing."""
    found: dict[str, str | None] = {}
    for one in _requirements():
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        found[one.name] = version = _version(one.name)
        if version is None or not one.specifier.contains(version, prereleases=True):
            came = "it is missing" if version is None else f"{version} is installed"
            faults.append(f"{one.name}{one.specifier} is required, but {came}: pip install '{one.name}{one.specifier}'")
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> dict[str, dict[str, Any]]:
    """What each optional part is for and which of its packages are missing."""
    found: dict[str, dict[str, Any]] = {}
    for extra in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ():
        wanted = [one for one in _requirements() if one.marker is not None and one.marker.evaluate({"extra": extra})]
        wanted = [one for one in wanted if not one.marker.evaluate({"extra": ""})]  # type: ignore[union-attr]
        missing = [one.name for one in wanted if not _fits(one)]
        found[extra] = {"for": PURPOSES.get(extra, "see pyproject.toml"), "missing": missing}
    return found


def _fits(one: Requirement) -> bool:
    version = _version(one.name)
    return version is not None and one.specifier.contains(version, prereleases=True)


def _devices(faults: list[str]) -> list[dict[str, Any]]:
    """Where models can run, the best first; bytes of memory where the device has its own."""
    found: list[dict[str, Any]] = []
    try:
        torch: Any = import_module("torch")
        for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            found.append({"device": f"cuda:{number}", "name": name, "free": free, "total": total})
        threads = torch.get_num_threads()
    except Exception as error:  # a broken installation of torch, or of a driver, raises almost anything
        faults.append(f"torch cannot be used here ({reason(error)}): install it again.")
        threads = None
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else psutil.cpu_count()
    return [*found, {"device": "cpu", "name": platform.processor() or platform.machine(), "cores": cores,
                     "threads": threads}]  # fmt: skip


def _memory() -> dict[str, int]:
    memory = psutil.virtual_memory()
    return {"available": memory.available, "total": memory.total}


def _cache() -> dict[str, Any]:
    """The folder that models from the Hub are kept in, and whether the Hub may be asked."""
    from huggingface_hub import constants

    from lunar.hub import hub_offline

    folder = Path(constants.HF_HUB_CACHE)
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))
    models = sorted(folder.glob("models--*")) if folder.is_dir() else []
    return {
        "folder": str(folder),
        "writable": os.access(there, os.W_OK),
        "models": len(models),
        "free": shutil.disk_usage(there).free,
        "offline": hub_offline(),
    }


def _embedded(faults: list[str]) -> bool:
    """Whether the embedded model's files are as they were published."""
    try:
        lines = (EMBEDDED / "SHA256SUMS").read_text(encoding="utf-8").split("\n")
        pairs = [line.split() for line in lines if line.strip()]
        whole = all(hashlib.sha256((EMBEDDED / name).read_bytes()).hexdigest() == known for known, name in pairs)
    except OSError:
        whole = False
    if not whole:
        faults.append("The embedded model `tiny` is damaged or missing: install the package again.")
    return whole
