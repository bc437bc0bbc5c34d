"""Which model was changed and what of it: hashes of the checkpoint's files and of the weights in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from lunar.checkpoints import TOKENIZER_FILES, find_checkpoint
from lunar.edit import Edit, Factors, fingerprint
from lunar.errors import LunarError
from lunar.models import LoadedModel
from lunar.requests.store import sha256
from lunar.weights import all_parameters, parameter_of

TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "*.jinja", "merges.txt")


def hashes_of(source: str) -> dict[str, str] | None:
    """`checkpoint_hashes` of a model that is loaded; None where it came from no folder."""
    try:
        return checkpoint_hashes(find_checkpoint(source))
    except LunarError:
        return None


def checkpoint_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's weights, configuration and tokenizer."""
    return {
        "weights": _files(folder, ("*.safetensors",)),
        "config": _files(folder, ("config.json", "generation_config.json")),
        "tokenizer": _files(folder, (*TOKENIZER_FILES, *TOKENIZER_SETTINGS)),
    }


def _files(folder: Path, patterns: tuple[str, ...]) -> str:
    """One hash of all files of some names: of the lines "hash  name", in the order of the names."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return hashlib.sha256("".join(f"{sha256(path)}  {path.name}\n" for path in paths).encode()).hexdigest()


def proof(loaded: LoadedModel, edit: Edit) -> dict[str, Any]:
    """What an edit does to a model: the tensors it changes, and a hash of all others without and with it."""
    before, own_before = _others(loaded, edit), _fingerprints(loaded, edit)
    with edit.applied(loaded.model):
        after, own_after = _others(loaded, edit), _fingerprints(loaded, edit)
    if after != before:
        raise LunarError(
            "Tensors beside the edited one were expected to stay as they are, but the edit changed others: the model "
            "shares weights between modules, and cannot be edited at this layer."
        )
    edited = changes(edit)
    for entry, first, second in zip(edited, own_before, own_after, strict=True):
        entry["before"], entry["after"] = first, second
    return {"edited": edited, "others": {**before, "after": after["before"]}}


def changes(edit: Edit) -> list[dict[str, Any]]:
    """Name, rank and size (Frobenius norm) of the change of every matrix."""
    return [
        {"tensor": f"{part.module_name}.weight", "rank": part.read.shape[0], "norm": norm(part)}
        for part in edit.factors
    ]


def norm(part: Factors) -> float:
    """The Frobenius norm of ΔW: √trace((WᵀW)(RRᵀ)), without making ΔW."""
    write, read = part.write.double(), part.read.double()
    return float(((write.T @ write) * (read @ read.T)).sum().clamp_min(0).sqrt())


def _fingerprints(loaded: LoadedModel, edit: Edit) -> list[str]:
    return [fingerprint(parameter_of(loaded.model.get_submodule(part.module_name))) for part in edit.factors]


def _others(loaded: LoadedModel, edit: Edit) -> dict[str, Any]:
    """How many tensors the edit does not name, and one SHA-256 of their names and bytes."""
    edited = {f"{part.module_name}.weight" for part in edit.factors}
    state = all_parameters(loaded.model)
    names = sorted(set(state) - edited)
    digest = hashlib.sha256()
    for name in names:
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return {"tensors": len(names), "before": digest.hexdigest()}
