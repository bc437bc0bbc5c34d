"""What a decoder layer consists of, found by structure and not from a table of model families.

A model has a list of decoder layers of one class, each with attention and something behind it; a layer has matrices
within its attention and outside of it. Knows nothing of what is done with them.
"""

import re
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lunar.errors import LunarError

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
NOT_A_DECODER = re.compile(r"encoder|vision|visual|audio", re.IGNORECASE)
SHARED = re.compile(r"shared", re.IGNORECASE)

Matrix = nn.Linear | Conv1D


def decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Name and content of the decoder's list of layers: as long as the configuration says, else the longest there is.

    Raises `LunarError` where no list qualifies.
    """
    expected = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    decoder = getattr(model.config, "is_decoder", False)
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) > 0
        and len({type(layer) for layer in module}) == 1
        and (decoder or not NOT_A_DECODER.search(name))
        and all(attention_matrices(layer) for layer in module)
    ]
    if not lists:
        raise LunarError(
            f"No place to edit was found in {type(model).__name__}: expected a list of decoder layers of one class, "
            "each with attention and an MLP that ends in one matrix writing the model's width."
        )
    return max(lists, key=lambda named: (len(named[1]) == expected, len(named[1])))


def model_width(model: PreTrainedModel) -> int:
    """d, the width of the residual stream."""
    width = getattr(model.config.get_text_config(decoder=True), "hidden_size", None)
    if isinstance(width, int):
        return width
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[1])


def matrix_shape(module: Matrix) -> tuple[int, int]:
    """(numbers written, numbers read), whichever way the weight is stored."""
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def attention_matrices(layer: nn.Module) -> list[tuple[str, Matrix]]:
    """The matrices of a layer's attention, by name within the layer.

    Matrices and not names alone: state space layers may have a norm called post_attention_layernorm.
    """
    outside = {name for name, _ in other_matrices(layer)}
    return [(name, module) for name, module in _matrices(layer) if name not in outside]


def other_matrices(layer: nn.Module) -> list[tuple[str, Matrix]]:
    """The layer's matrices that are no part of its attention, by name within the layer."""
    attention = [
        name
        for name, module in layer.named_modules()
        if name and (ATTENTION.search(name.rpartition(".")[2]) or ATTENTION.search(type(module).__name__))
    ]
    return [
        (name, module)
        for name, module in _matrices(layer)
        if not any(name == part or name.startswith(f"{part}.") for part in attention)
    ]


def has_experts(layer: nn.Module) -> bool:
    """Experts stand in modules of that name, or as one parameter with an axis of experts."""
    for name, module in layer.named_modules():
        if "expert" in name.lower():
            return True
        stacked = any(parameter.ndim > 2 for parameter in module.parameters(recurse=False))
        if stacked and not isinstance(module, nn.Conv1d | nn.Conv2d) and not ATTENTION.search(name):
            return True
    return False


def is_mixture(model: PreTrainedModel) -> bool:
    """Whether any decoder layer is a mixture of experts."""
    return any(has_experts(layer) for layer in decoder_layers(model)[1])


def shared_matrices(layer: nn.Module) -> list[tuple[str, Matrix]]:
    """The matrices of an expert that all tokens pass; none where a gate decides how much of it each token gets."""
    found = [(name, module) for name, module in other_matrices(layer) if SHARED.search(name)]
    return [] if any(matrix_shape(module)[0] == 1 for _, module in found) else found


def _matrices(layer: nn.Module) -> list[tuple[str, Matrix]]:
    return [(name, module) for name, module in layer.named_modules() if isinstance(module, Matrix)]
