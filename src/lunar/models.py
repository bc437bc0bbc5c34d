"""Load a causal language model with its tokenizer, and find the matrix each decoder layer's MLP writes back with.

Sites are found by structure (`lunar.layers`), not from a table of model families. A site says where a matrix is, not
how its output reaches the residual stream: see `lunar.passage`. This module knows nothing of prompts, activations or
edits.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from lunar.checkpoints import CONTEXT_SETTINGS, FULL_PRECISION, find_checkpoint, reason
from lunar.errors import LunarError
from lunar.layers import (
    Matrix,
    attention_matrices,
    decoder_layers,
    has_experts,
    matrix_shape,
    model_width,
    other_matrices,
    shared_matrices,
)
from lunar.weights import all_parameters

GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
AUTO = "auto"
DTYPES = ("auto", "bfloat16", "float16", "float32")
# Only decides between several matrices of the right width, for example where an MLP is as wide as the model.
WRITE_NAMES = ("down_proj", "dense_4h_to_h", "c_proj", "fc2", "fc_out", "w2", "wo", "linear_2", "proj_out", "output")
ATTENTION_WRITE_NAMES = ("o_proj", "out_proj", "c_proj", "dense", "wo", "proj_out")
MLP, SHARED_EXPERT, ATTENTION_OUTPUT = "MLP", "shared expert", "attention output"
"""What a site's matrix ends: the MLP; where a layer is a mixture of experts, the expert that all tokens pass, or else
the attention, whose output projection is the one dense matrix of the layer that writes to the residual stream."""


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
    `width` (d). Its weight is stored as [d, m], or as [m, d] where `transposed` (transformers' `Conv1D`). `part` is
    `MLP`, or in a mixture of experts `SHARED_EXPERT` or `ATTENTION_OUTPUT`.
    """

    layer: int
    module_name: str
    layer_name: str
    width: int
    inner_width: int
    transposed: bool
    part: str = MLP

    @property
    def before_mlp(self) -> bool:
        """Whether the matrix writes before the layer's MLP reads; its residual is then taken between the two."""
        return self.part == ATTENTION_OUTPUT

    def module(self, model: PreTrainedModel) -> nn.Module:
        """The module that holds the matrix."""
        return model.get_submodule(self.module_name)

    def layer_module(self, model: PreTrainedModel) -> nn.Module:
        """The decoder layer the matrix belongs to."""
        return model.get_submodule(self.layer_name)

    def residual_module(self, model: PreTrainedModel) -> nn.Module:
        """The module whose output, if something is added to it, adds it to the residual stream behind the matrix."""
        return self.module(model) if self.before_mlp else self.layer_module(model)

    def at_layer_output(self) -> "Site":
        """The same matrix with the residual taken from its layer's output."""
        return replace(self, part=MLP)


def load_model(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model and its tokenizer from `"tiny"` (the embedded model), a local folder or a name on the hub.

    `device` defaults to CUDA where there is one, else the CPU; "auto" leaves it to accelerate, which spreads the model
    over all GPUs, and what does not fit over main memory. `dtype` is one of `DTYPES` and defaults to float32 on the
    CPU, where 16 bits are slow, and to the checkpoint's own elsewhere. Only safetensors are read.

    Raises `LunarError` when there is no such model, it cannot be read, is incomplete, holds NaN or infinite weights,
    has no tokenizer, or brings its own code without `trust_remote_code`; never after minutes of retrying the hub.
    """
    if device == AUTO and find_spec("accelerate") is None:
        raise LunarError("The device 'auto' needs accelerate, which is not installed: pip install accelerate.")
    place = _device(None if device == AUTO else device)
    precision = _dtype(dtype, place)
    folder = find_checkpoint(str(source), trust_remote_code)
    with _quiet_transformers():
        spread = AUTO if device == AUTO else None if place.type == "cpu" else {"": place}
        model = _read_model(folder, str(source), spread, precision, trust_remote_code)
        check_finite(model)
        tokenizer = _read_tokenizer(folder, str(source), trust_remote_code)
    return LoadedModel(model.eval(), tokenizer, str(source))


def check_finite(model: PreTrainedModel) -> None:
    """Raise a `LunarError` naming the first floating-point parameter that holds NaN or infinity."""
    known = all_parameters(model)
    for name, _ in model.named_parameters():
        parameter = known[name]
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

    Raises `LunarError` when the model has no list of decoder layers, or a layer has no single such matrix.
    """
    name, layers = decoder_layers(model)
    return tuple(_site(model, name, layers, index) for index in range(len(layers)))


def site_at(model: PreTrainedModel, layer: int) -> Site:
    """The write-back matrix of one decoder layer; negative numbers count from the end.

    Raises `LunarError` when there is no such layer, or it has no single write-back matrix.
    """
    name, layers = decoder_layers(model)
    count = len(layers)
    if not -count <= layer < count:
        raise LunarError(
            f"There is no decoder layer {layer}: the model has {count}, so give a number from {-count} to {count - 1}."
        )
    return _site(model, name, layers, layer % count)


# Reading it


def _read_model(
    folder: Path, source: str, spread: Any, dtype: torch.dtype | str, trust_remote_code: bool
) -> PreTrainedModel:
    try:
        # Any: the stub does not know that output_loading_info makes it a pair.
        loaded: Any = _reader(folder, trust_remote_code).from_pretrained(
            str(folder),
            use_safetensors=True,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            device_map=spread,
        )
    except torch.OutOfMemoryError as error:
        raise LunarError(f"The model {source} does not fit into memory.") from error
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


def _reader(folder: Path, trust_remote_code: bool) -> Any:
    """The class that reads a checkpoint: of text, or of text and images, of which the language part can be edited."""
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    mappings: Any = (AutoModelForCausalLM, AutoModelForImageTextToText)
    known = [mapping for mapping in mappings if type(config) in mapping._model_mapping]
    return known[0] if known else AutoModelForCausalLM


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


def _site(model: PreTrainedModel, list_name: str, layers: nn.ModuleList, index: int) -> Site:
    layer_name = f"{list_name}.{index}"
    layer, width = layers[index], model_width(model)
    part, name, module = _matrix(layer, layer_name, width)
    # 8-bit floats are quantised numbers as well: their scales stand elsewhere.
    if not module.weight.is_floating_point() or module.weight.element_size() < 2:
        raise LunarError(
            f"Weights of 16 or 32 bits were expected, but that of {layer_name}.{name} is quantised and cannot be "
            f"edited. {FULL_PRECISION}"
        )
    inner = matrix_shape(module)[1]
    return Site(index, f"{layer_name}.{name}", layer_name, width, inner, isinstance(module, Conv1D), part)


def _matrix(layer: nn.Module, layer_name: str, width: int) -> tuple[str, str, Matrix]:
    """What kind of matrix a layer is edited at, its name within the layer, and the matrix.

    A layer of experts has one write-back matrix per expert. All tokens pass its shared expert, where it has one, and
    its attention; what these write with is a single matrix.
    """
    writing: list[tuple[str, list[tuple[str, Matrix]], tuple[str, ...]]] = [(MLP, other_matrices(layer), WRITE_NAMES)]
    if has_experts(layer):
        writing = [
            (SHARED_EXPERT, shared_matrices(layer), WRITE_NAMES),
            (ATTENTION_OUTPUT, attention_matrices(layer), ATTENTION_WRITE_NAMES),
        ]
    found = []
    for part, matrices, names in writing:
        candidates = [(name, module) for name, module in matrices if matrix_shape(module)[0] == width]
        named = [(name, module) for name, module in candidates if name.rpartition(".")[2] in names]
        if part == ATTENTION_OUTPUT:
            candidates = named  # what makes the queries often has the model's width as well
        elif len(candidates) > 1:
            candidates = named or candidates
        if len(candidates) == 1:
            return (part, *candidates[0])
        found.append(f"as {part} {', '.join(name for name, _ in candidates) or 'none'}")
    raise LunarError(
        f"The decoder layer {layer_name} was expected to have one matrix that writes the model's width of {width}, but "
        f"the candidates are: {'; '.join(found)}."
    )
