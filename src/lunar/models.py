"""Load a causal language model with its tokenizer, and find the matrix each decoder layer's MLP writes back with.

Sites are found by structure (a list of decoder layers, each with attention and an MLP that ends in one matrix writing
width d), not from a table of model families. A site says where a matrix is, not whether its output reaches the residual
stream unchanged: see `lunar.activations.writes_directly`. This module knows nothing of prompts, activations or edits.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from lunar.checkpoints import CONTEXT_SETTINGS, FULL_PRECISION, find_checkpoint, reason
from lunar.errors import LunarError

GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
DTYPES = ("auto", "bfloat16", "float16", "float32")
# Only decides between several matrices of the right width, for example where an MLP is as wide as the model.
WRITE_NAMES = ("down_proj", "dense_4h_to_h", "c_proj", "fc2", "fc_out", "w2", "wo", "linear_2", "proj_out", "output")
ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
NOT_A_DECODER = re.compile(r"encoder|vision|visual|audio", re.IGNORECASE)


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its tokenizer, and the name or folder it was loaded from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str


@dataclass(frozen=True)
class Site:
    """The matrix with which the MLP of decoder layer `layer` writes to the residual stream.

    `module_name` and `layer_name` are names as in `model.named_modules()`. The matrix maps `inner_width` (m) numbers to
    `width` (d). Its weight is stored as [d, m], or as [m, d] where `transposed` (transformers' `Conv1D`).
    """

    layer: int
    module_name: str
    layer_name: str
    width: int
    inner_width: int
    transposed: bool

    def module(self, model: PreTrainedModel) -> nn.Module:
        """The module that holds the matrix."""
        return model.get_submodule(self.module_name)

    def layer_module(self, model: PreTrainedModel) -> nn.Module:
        """The decoder layer the matrix belongs to."""
        return model.get_submodule(self.layer_name)


def load_model(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model and its tokenizer from `"tiny"` (the embedded model), a local folder or a name on the hub.

    `device` defaults to CUDA where there is one, else the CPU. `dtype` is one of `DTYPES` and defaults to float32 on
    the CPU, where 16 bits are slow, and to the checkpoint's own elsewhere. Only safetensors are read.

    Raises `LunarError` when there is no such model, it cannot be read, is incomplete, holds NaN or infinite weights,
    has no tokenizer, or brings its own code without `trust_remote_code`; never after minutes of retrying the hub.
    """
    place = _device(device)
    precision = _dtype(dtype, place)
    folder = find_checkpoint(str(source), trust_remote_code)
    with _quiet_transformers():
        model = _read_model(folder, str(source), place, precision, trust_remote_code)
        check_finite(model)
        tokenizer = _read_tokenizer(folder, str(source), trust_remote_code)
    return LoadedModel(model.eval(), tokenizer, str(source))


def check_finite(model: PreTrainedModel) -> None:
    """Raise a `LunarError` naming the first floating-point parameter that holds NaN or infinity."""
    for name, parameter in model.named_parameters():
        # 8-bit floats have no isfinite; a checkpoint that uses them keeps its scales in wider parameters.
        checkable = parameter.is_floating_point() and parameter.element_size() > 1
        if checkable and not bool(torch.isfinite(parameter).all()):
            raise LunarError(f"The model's weight {name} holds NaN or infinite values; the checkpoint is damaged.")


def context_length(model: PreTrainedModel) -> int | None:
    """The number of tokens the model was made for, or None where its configuration names no limit."""
    config = model.config.get_text_config(decoder=True)
    for name in CONTEXT_SETTINGS:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def find_sites(model: PreTrainedModel) -> tuple[Site, ...]:
    """The write-back matrix of every decoder layer, in order.

    Raises `LunarError` when the model has no list of decoder layers, or a layer has no single such matrix (a mixture of
    experts, for example).
    """
    name, layers = _decoder_layers(model)
    return tuple(_site(model, name, layers, index) for index in range(len(layers)))


def site_at(model: PreTrainedModel, layer: int) -> Site:
    """The write-back matrix of one decoder layer; negative numbers count from the end.

    Looks at that layer only, so a dense layer of a model whose other layers are mixtures of experts can be had.
    Raises `LunarError` when there is no such layer, or it has no single write-back matrix.
    """
    name, layers = _decoder_layers(model)
    count = len(layers)
    if not -count <= layer < count:
        raise LunarError(
            f"There is no decoder layer {layer}: the model has {count}, so give a number from {-count} to {count - 1}."
        )
    return _site(model, name, layers, layer % count)


# Reading it


def _read_model(
    folder: Path, source: str, device: torch.device, dtype: torch.dtype | str, trust_remote_code: bool
) -> PreTrainedModel:
    try:
        # Any: the stub does not know that output_loading_info makes it a pair.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            use_safetensors=True,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            device_map=None if device.type == "cpu" else {"": device},
        )
    except torch.OutOfMemoryError as error:
        raise LunarError(f"The model {source} does not fit into the memory of {device}.") from error
    except Exception as error:
        if _quantised(folder):
            raise LunarError(
                f"Weights of 16 or 32 bits were expected, but {source} is quantised, and such weights cannot be edited "
                f"({reason(error)}). {FULL_PRECISION}"
            ) from error
        # Damaged files, unknown architectures and wrong shapes arrive as five unrelated classes.
        raise LunarError(
            f"The model {source} cannot be loaded as a causal language model ({reason(error)})."
        ) from error
    model: PreTrainedModel
    report: dict[str, Any]
    model, report = loaded
    for key, fault in (("missing_keys", "lacks"), ("mismatched_keys", "has the wrong shape for")):
        names = sorted(str(name) for name in report.get(key) or ())
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise LunarError(f"The checkpoint {source} {fault} {names[0]}{more}, so it would be filled at random.")
    return model


def _quantised(folder: Path) -> bool:
    """Whether a checkpoint's configuration says that its weights are quantised."""
    return bool(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config"))


def _read_tokenizer(folder: Path, source: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        # For some model types AutoTokenizer prefers a class that splits text in its own way, whatever the checkpoint
        # declares; one that declares the generic class means its tokenizer.json and nothing else.
        generic = _declared_tokenizer(folder) in GENERIC_TOKENIZERS and (folder / "tokenizer.json").is_file()
        reader: Any = PreTrainedTokenizerFast if generic else AutoTokenizer
        tokenizer = reader.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:
        raise LunarError(f"The tokenizer of {source} cannot be loaded ({reason(error)}).") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise LunarError(f"The tokenizer of {source} is empty: its vocabulary files are missing or damaged.")
    return tokenizer


def _declared_tokenizer(folder: Path) -> str | None:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return None if "auto_map" in settings else settings.get("tokenizer_class")


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:
        raise LunarError(f"The device {name!r} cannot be used here ({reason(error)}).") from error
    if device.type == "meta":
        raise LunarError("The device 'meta' holds no numbers: give 'cpu' or 'cuda'.")
    return device


def _dtype(name: str | None, device: torch.device) -> torch.dtype | str:
    if name is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if name not in DTYPES:
        raise LunarError(f"Unknown dtype {name!r}; available: {', '.join(DTYPES)}.")
    return name if name == "auto" else getattr(torch, name)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' log lines and progress bars off the terminal, then put them back as they were."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


# Where the write-back matrices are


def _decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder's list of layers: as long as the configuration says, else the longest that qualifies."""
    expected = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    decoder = getattr(model.config, "is_decoder", False)
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) > 0
        and len({type(layer) for layer in module}) == 1
        and (decoder or not NOT_A_DECODER.search(name))
        and all(_has_attention(layer) for layer in module)
    ]
    if not lists:
        raise LunarError(
            f"No place to edit was found in {type(model).__name__}: expected a list of decoder layers of one class, "
            "each with attention and an MLP that ends in one matrix writing the model's width."
        )
    return max(lists, key=lambda named: (len(named[1]) == expected, len(named[1])))


def _site(model: PreTrainedModel, list_name: str, layers: nn.ModuleList, index: int) -> Site:
    layer_name = f"{list_name}.{index}"
    layer, width = layers[index], _width(model)
    if _has_experts(layer):
        raise LunarError(
            f"The decoder layer {layer_name} is a mixture of experts, which has one write-back matrix per expert; only "
            "layers with a single one can be edited."
        )
    candidates = [(name, module) for name, module in _matrices(layer) if _shape(module)[0] == width]
    if len(candidates) > 1:
        named = [(name, module) for name, module in candidates if name.rpartition(".")[2] in WRITE_NAMES]
        candidates = named or candidates
    if len(candidates) != 1:
        found = ", ".join(name for name, _ in candidates) or "none"
        raise LunarError(
            f"The decoder layer {layer_name} was expected to have one matrix outside its attention that writes the "
            f"model's width of {width}, but the candidates are: {found}."
        )
    name, module = candidates[0]
    # 8-bit floats are quantised numbers as well: their scales stand elsewhere.
    if not module.weight.is_floating_point() or module.weight.element_size() < 2:
        raise LunarError(
            f"Weights of 16 or 32 bits were expected, but that of {layer_name}.{name} is quantised and cannot be "
            f"edited. {FULL_PRECISION}"
        )
    return Site(index, f"{layer_name}.{name}", layer_name, width, _shape(module)[1], isinstance(module, Conv1D))


def _width(model: PreTrainedModel) -> int:
    width = getattr(model.config.get_text_config(decoder=True), "hidden_size", None)
    if isinstance(width, int):
        return width
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[1])


def _shape(module: nn.Linear | Conv1D) -> tuple[int, int]:
    """(numbers written, numbers read), whichever way the weight is stored."""
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def _has_attention(layer: nn.Module) -> bool:
    # Matrices and not names alone: state space layers may have a norm called post_attention_layernorm.
    return len(_matrices(layer)) < sum(isinstance(module, nn.Linear | Conv1D) for module in layer.modules())


def _matrices(layer: nn.Module) -> list[tuple[str, nn.Linear | Conv1D]]:
    """The layer's matrices that are no part of its attention, by name within the layer."""
    attention = [
        name
        for name, module in layer.named_modules()
        if name and (ATTENTION.search(name.rpartition(".")[2]) or ATTENTION.search(type(module).__name__))
    ]
    return [
        (name, module)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and not any(name == part or name.startswith(f"{part}.") for part in attention)
    ]


def _has_experts(layer: nn.Module) -> bool:
    """Experts stand in modules of that name, or as one parameter with an axis of experts."""
    for name, module in layer.named_modules():
        if "expert" in name.lower():
            return True
        stacked = any(parameter.ndim > 2 for parameter in module.parameters(recurse=False))
        if stacked and not isinstance(module, nn.Conv1d | nn.Conv2d) and not ATTENTION.search(name):
            return True
    return False
