"""An edit as a LoRA adapter in the form of PEFT: ΔW = lora_B · lora_A, with alpha equal to the rank.

vLLM reads one rank and one alpha for all matrices, at most 512, and its `max_lora_rank` is one of few values. So all
matrices get the same rank, the smallest of these that holds the largest, filled up with zeros, and no pattern per
matrix is needed. Modules are called by their full names, the last part of which is what vLLM looks at. Source: PEFT's
checkpoint format (huggingface.co/docs/peft, "PEFT checkpoint format") and vLLM's `LoRAConfig`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from lunar.edit import Edit, Factors
from lunar.errors import LunarError
from lunar.layers import ATTENTION
from lunar.solve import Solution, thin

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of vLLM's `max_lora_rank` that all of its versions with LoRA take."""
KEY = "base_model.model.{module}.{factor}.weight"
TOLERANCE = 0.005
"""Of the way to the reference mean, by which compression may change what a redirected token gets."""

Rows = Mapping[str, tuple[Tensor, Tensor]]
"""Module name to write-back inputs [rows, m] and, for each, how far it was to be moved [rows]."""


def compressed(edit: Edit, rows: Rows | None = None) -> Edit:
    """The edit with the smallest ranks by which it does the same.

    Args:
        edit: any.
        rows: the redirected rows, where they are known: no one's change may differ by more than `TOLERANCE` of the way
            it was to be moved. Without them only what is rounding noise is left out.
    """
    return replace(edit, factors=tuple(_compressed(part, (rows or {}).get(part.module_name)) for part in edit.factors))


def _compressed(part: Factors, rows: tuple[Tensor, Tensor] | None) -> Factors:
    if part.read.shape[0] == 0:
        return part
    found = thin(part.write.double(), part.read.double())
    rank = found.rank if rows is None else _rank(found, *rows)
    write, read = found.write[:, :rank].float().contiguous(), found.read[:rank].float().contiguous()
    return replace(part, write=write, read=read)


def _rank(found: Solution, inner: Float[Tensor, "rows m"], distance: Float[Tensor, " rows"]) -> int:
    """The smallest rank at which no row's change differs by more than the tolerance; singular values are in order."""
    parts = inner.double() @ found.read.T
    for rank in range(1, found.rank):
        missing = (parts[:, rank:] @ found.write[:, rank:].T).norm(dim=1)
        if bool((missing <= TOLERANCE * distance).all()):
            return rank
    return found.rank


def common_rank(edit: Edit) -> int:
    """The rank of the adapter: the first of `RANKS` that holds the edit's. Raises LunarError where none does."""
    if edit.rank == 0:
        raise LunarError(
            "An edit that changes something was expected, but this one changes nothing: ask for a request."
        )
    fitting = [rank for rank in RANKS if rank >= edit.rank]
    if not fitting:
        raise LunarError(
            f"An edit of rank up to {RANKS[-1]} was expected, but this one has rank {edit.rank}, which no server of "
            "adapters takes: export it with --merged."
        )
    return fitting[0]


def adapter_files(edit: Edit, base: str, *, mixture: bool = False) -> dict[str, bytes]:
    """The content of an adapter's files by name.

    Args:
        edit: of any number of matrices; compress it before.
        base: what the model is called, for `base_model_name_or_path`.
        mixture: whether the model has layers of experts. Where PEFT sees an MLP's name in such a model, it takes it for
            the experts' stacked weights; so matrices outside of the attention are named as parameters there.
    """
    rank = common_rank(edit)
    tensors: dict[str, Tensor] = {}
    for part in edit.factors:
        own = part.read.shape[0]
        read, write = torch.zeros(rank, part.read.shape[1]), torch.zeros(part.write.shape[0], rank)
        read[:own], write[:, :own] = part.read, part.write
        tensors[KEY.format(module=part.module_name, factor="lora_A")] = read
        tensors[KEY.format(module=part.module_name, factor="lora_B")] = write
    transposed = {part.transposed for part in edit.factors}
    if len(transposed) > 1:
        raise LunarError(
            "An adapter's matrices are all stored one way or all the other: export this edit with --merged."
        )
    names = [part.module_name for part in edit.factors]
    parameters = [f"{name}.weight" for name in names if mixture and not ATTENTION.search(name)]
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": [name for name in names if f"{name}.weight" not in parameters],
        **({"target_parameters": parameters} if parameters else {}),
        "fan_in_fan_out": transposed.pop(),
        "bias": "none",
        "inference_mode": True,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
    return {
        WEIGHTS_FILE: save(tensors, {"format": "pt"}),
        CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode(),
        "README.md": _card(base, rank).encode(),
    }


def write_adapter(folder: Path, edit: Edit, base: str, *, mixture: bool = False) -> None:
    """Write an adapter's files into a folder that exists; arguments as `adapter_files` has them."""
    for name, content in adapter_files(edit, base, mixture=mixture).items():
        (folder / name).write_bytes(content)


def redirected_rows(parts: Sequence[tuple[str, Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """`Rows` from (module name, inputs, distances) of several requests."""
    names = {name for name, _, _ in parts}
    return {
        name: (
            torch.cat([inner for own, inner, _ in parts if own == name]),
            torch.cat([distance for own, _, distance in parts if own == name]),
        )
        for name in names
    }


def _card(base: str, rank: int) -> str:
    return f"""---
base_model: {base}
library_name: peft
---

A LoRA adapter of rank {rank} that keeps the model from answering what was asked to be forgotten. It suppresses answers
and erases nothing: without the adapter the model answers as before.

    PeftModel.from_pretrained(model, FOLDER)
    vllm serve MODEL --enable-lora --max-lora-rank {rank} --lora-modules forgotten=FOLDER

Served as an adapter it acts on requests that name it and on no others: give the base model's name to nobody.
"""
