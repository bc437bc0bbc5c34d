"""What can be said of a model and an edit without torch: a wrong one is refused in a moment, not after an import.

Reads configurations and the headers of weights, and of small checkpoints all numbers. Whatever passes here is checked
again, and completely, by `lunar.models` and `lunar.prompts`; what is unusual is left to them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lunar.checkpoints import CONTEXT_SETTINGS, find_checkpoint
from lunar.errors import LunarError
from lunar.prompts import encode
from lunar.records import Record
from lunar.safety import weight_files
from lunar.settings import HARDENED, Settings

LAYER_SETTINGS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
SMALL = 256 * 2**20
"""Bytes of weights up to which every number is looked at; reading more would cost more than it saves."""
TEMPLATE_BYTES = 2048
"""What a chat template may add to a prompt; a default system prompt is the most of it."""
ATTENTION_WEIGHT = re.compile(r"\.\d+\..*(attn|attention)", re.IGNORECASE)
_EXPONENTS = {"BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00), "F32": ("<u4", 0x7F800000)}


def check_ledger(settings: Settings, forget_moments: bool = False) -> None:
    """Raise LunarError for settings whose edits a ledger cannot hold."""
    if settings.target == "gated":
        raise LunarError(
            "A ledger solves all of its requests together, which a gated edit cannot be: take shift, collapse, split "
            "or, for a single request, hardened; or make a gated edit in Python (lunar.unlearn)."
        )
    if settings.target == HARDENED and forget_moments:
        raise LunarError(
            "A hardened edit is solved from what is kept of its request, which --forget-moments throws away: leave "
            "out one of the two."
        )


def check_peft() -> None:
    """Raise LunarError where PEFT is not installed."""
    if find_spec("peft") is None:
        raise LunarError(
            "An adapter is loaded again with PEFT, which is not installed: pip install 'lunar-unlearn[export]'."
        )


def check_model(
    source: str, layer: int | None, sets: Mapping[str, Sequence[Record]], device: str | None = None
) -> None:
    """Raise LunarError for a model that cannot be used with this layer and these records, where that shows cheaply.

    Args:
        source: a folder, a Hub id (downloaded if need be) or "tiny".
        layer: the decoder layer asked for, None for any.
        sets: records by role; their prompts must fit the model's context.
        device: where it is to run, as it was asked for.
    """
    _check_device(device)
    folder = find_checkpoint(source)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config")
    config = {**config, **text} if isinstance(text, dict) else config
    _check_layers(config, layer)
    _check_attention(folder)
    _check_numbers(folder)
    limit = _whole_number(config, CONTEXT_SETTINGS)
    if limit:
        _check_lengths(folder, limit, sets)


def check_edit(folder: Path) -> None:
    """Raise LunarError unless a folder holds the two files of an edit."""
    for name in ("edit.json", "edit.safetensors"):
        if not (folder / name).is_file():
            raise LunarError(
                f"{folder} was expected to hold an edit, but it has no {name}: give the output folder of "
                "`lunar unlearn`."
            )


def _whole_number(config: Mapping[str, Any], names: Sequence[str]) -> int | None:
    return next((config[name] for name in names if type(config.get(name)) is int), None)


def _check_device(device: str | None) -> None:
    """Refuse a GPU where torch is built without support for any, as its version says; the rest is torch's to say."""
    built = version("torch")
    if device is not None and device.startswith("cuda") and built.endswith("+cpu"):
        raise LunarError(
            f"The device {device!r} cannot be used here, as torch {built} is built without CUDA: leave --device out, "
            "or install another build."
        )


def _check_layers(config: Mapping[str, Any], layer: int | None) -> None:
    count = _whole_number(config, LAYER_SETTINGS)
    if count is not None and count < 1:
        raise LunarError(f"The model has no decoder layers to edit: its config.json says {count}.")
    if count is not None and layer is not None and not -count <= layer < count:
        raise LunarError(
            f"There is no decoder layer {layer}: the model has {count}, so give a number from {-count} to {count - 1}."
        )


def _check_attention(folder: Path) -> None:
    """Refuse a checkpoint without a numbered layer that has attention weights: the site to edit is found by them."""
    names = [name for shard in weight_files(folder) for name in _header(folder / shard)]
    if names and not any(ATTENTION_WEIGHT.search(name) for name in names):
        raise LunarError(
            "The model has no decoder layers with attention, which is what can be edited: none of its weights is "
            "called attn or attention."
        )


def _header(path: Path) -> dict[str, Any]:
    """Name to type, shape and place of the tensors of a safetensors file; empty for a damaged one."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, path.stat().st_size)))
        except (ValueError, RecursionError):
            return {}
    return {name: entry for name, entry in header.items() if name != "__metadata__"} if type(header) is dict else {}


def _check_numbers(folder: Path) -> None:
    """Refuse NaN and infinity in small checkpoints. A damaged file is left to the loader, which says what is wrong."""
    import numpy as np

    paths = [folder / name for name in weight_files(folder)]
    if sum(path.stat().st_size for path in paths) > SMALL:
        return
    for path in paths:
        for name, kind, content in _tensors(path):
            number, exponent = _EXPONENTS[kind]
            values = np.frombuffer(content, dtype=number, count=len(content) // int(number[-1]))
            if bool(((values & exponent) == exponent).any()):
                raise LunarError(f"The model's weight {name} holds NaN or infinite values; the checkpoint is damaged.")


def _tensors(path: Path) -> Iterator[tuple[str, str, memoryview]]:
    """Name, type and bytes of the floating-point tensors of a safetensors file; nothing for a damaged one."""
    content = memoryview(path.read_bytes())
    first = 8 + int.from_bytes(content[:8], "little")
    try:
        for name, entry in _header(path).items():
            start, end = (first + int(offset) for offset in entry["data_offsets"])
            if entry["dtype"] in _EXPONENTS and end <= len(content):
                yield name, entry["dtype"], content[start:end]
    except (ValueError, KeyError, TypeError, AttributeError):
        return


def _check_lengths(folder: Path, limit: int, sets: Mapping[str, Sequence[Record]]) -> None:
    """Refuse prompts that are longer than the context, counted by the model's own tokenizer and chat template."""
    # A token is at least one byte, so that short prompts need no tokenizer.
    long = [
        (name, number, record)
        for name, records in sets.items()
        for number, record in enumerate(records, 1)
        if sum(len(content.encode()) for _, content in record.messages) + TEMPLATE_BYTES > limit
    ]
    if not long or not (folder / "tokenizer.json").is_file():
        return
    # This class, unlike the automatic one, does not import torch.
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception:  # the library raises bare Exception; a damaged tokenizer is for the loader to report
        return
    for name, number, record in long:
        encode(tokenizer, record, with_answer=False, context_length=limit, name=name, number=number)
