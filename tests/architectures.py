"""Small random models of the architectures that people use, by name: their configuration and where they are edited."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from conftest import COMMON, CONTEXT, GATED, HIDDEN, INNER, LAYERS, TOKENS, VOCABULARY
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

MLP, SHARED, ATTENTION = "MLP", "shared expert", "attention output"
DOWN, OUT, LAYER = "model.layers.{}.mlp.down_proj", "model.layers.{}.self_attn.o_proj", 1
WIDE = GATED | {"head_dim": 8}
EXPERTS = {"moe_intermediate_size": 12, "num_experts_per_tok": 2}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
BLOCKS = TOKENS | {"vocab_size": VOCABULARY, "hidden_size": HIDDEN}


@dataclass(frozen=True)
class Architecture:
    """One model: its configuration class with settings, and what is known of its layers without running them.

    `norm` is the name within a layer of a norm that what is written passes on its way to the residual stream, with what
    is added to its weight; `factor` a number by which it is multiplied.
    """

    config: str
    settings: dict[str, Any]
    name: str = DOWN
    part: str = MLP
    norm: tuple[str, float] | None = None
    factor: float = 1.0
    layer: int = LAYER


POST, GEMMA = "post_feedforward_layernorm", 1.0
ARCHITECTURES = {
    "llama": Architecture("Llama", GATED | {"mlp_bias": True}),
    "mistral": Architecture("Mistral", GATED | {"sliding_window": None}),
    "qwen2": Architecture("Qwen2", GATED | {"tie_word_embeddings": True}),
    "qwen3": Architecture("Qwen3", WIDE),
    "gemma": Architecture("Gemma", WIDE),
    "gemma2": Architecture("Gemma2", WIDE | {"final_logit_softcapping": 5.0}, norm=(POST, GEMMA)),
    "gemma3": Architecture("Gemma3Text", WIDE, norm=(POST, GEMMA)),
    "phi3": Architecture("Phi3", GATED),
    "olmo2": Architecture("Olmo2", GATED, norm=(POST, 0.0)),
    "granite": Architecture("Granite", GATED | {"residual_multiplier": 0.22, "logits_scaling": 2.0}, factor=0.22),
    "cohere": Architecture("Cohere", GATED),
    "stablelm": Architecture("StableLm", GATED | {"use_qkv_bias": True}),
    "gpt2": Architecture(
        "GPT2",
        TOKENS | {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 2, "n_positions": CONTEXT},
        "transformer.h.{}.mlp.c_proj",
    ),
    "gpt_neox": Architecture("GPTNeoX", COMMON | {"intermediate_size": INNER}, "gpt_neox.layers.{}.mlp.dense_4h_to_h"),
    "opt": Architecture(
        "OPT", COMMON | {"ffn_dim": INNER, "word_embed_proj_dim": HIDDEN}, "model.decoder.layers.{}.fc2"
    ),
    "bloom": Architecture("Bloom", BLOCKS | {"n_layer": LAYERS, "n_head": 2}, "transformer.h.{}.mlp.dense_4h_to_h"),
    "falcon": Architecture(
        "Falcon", BLOCKS | {"num_hidden_layers": LAYERS, "num_attention_heads": 2}, "transformer.h.{}.mlp.dense_4h_to_h"
    ),
    "mpt": Architecture(
        "Mpt",
        TOKENS
        | {"vocab_size": VOCABULARY, "d_model": HIDDEN, "n_layers": LAYERS, "n_heads": 2, "max_seq_len": CONTEXT},
        "transformer.blocks.{}.ffn.down_proj",
    ),
    "mixtral": Architecture("Mixtral", GATED | {"num_local_experts": 2}, OUT, ATTENTION),
    "qwen3_moe": Architecture("Qwen3Moe", WIDE | EXPERTS | {"num_experts": 3}, OUT, ATTENTION),
    "gpt_oss": Architecture(
        "GptOss",
        WIDE
        | {
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        OUT,
        ATTENTION,
    ),
    "deepseek_v3": Architecture(
        "DeepseekV3",
        GATED
        | EXPERTS
        | {"num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
        | {
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "n_shared_experts": 1,
        },
        "model.layers.{}.mlp.shared_experts.down_proj",
        SHARED,
    ),
    "gemma3_vision": Architecture(
        "Gemma3",
        {"text_config": WIDE, "vision_config": VISION | {"image_size": 28, "patch_size": 14}, "mm_tokens_per_image": 4}
        | {"image_token_index": 90, "boi_token_index": 91, "eoi_token_index": 92},
        "model.language_model.layers.{}.mlp.down_proj",
        norm=(POST, GEMMA),
    ),
    "qwen2_vision": Architecture(
        "Qwen2VL",
        {
            "text_config": GATED
            | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
            "vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": HIDDEN, "num_heads": 2, "patch_size": 14},
        }
        | {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93},
        "model.language_model.layers.{}.mlp.down_proj",
    ),
}
INSTALLED = [name for name, one in ARCHITECTURES.items() if hasattr(transformers, f"{one.config}Config")]


def random_model(name: str) -> PreTrainedModel:
    """A model of the architecture in evaluation mode, its norms and biases random as well."""
    one = ARCHITECTURES[name]
    torch.manual_seed(1)
    make: Callable[[], Any] = partial(getattr(transformers, f"{one.config}Config"), **one.settings)
    pictures = "vision_config" in one.settings
    model = (AutoModelForImageTextToText if pictures else AutoModelForCausalLM).from_config(make()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model
