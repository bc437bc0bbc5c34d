"""Tiny random checkpoints of several architectures, made in process; nothing here touches a network."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Before anything imports the package: axis names and types of every signature are checked while the tests run.
install_import_hook("lunar", "beartype.beartype")

import torch  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

# Matrices of this size gain nothing from threads, which wait for each other on a busy machine.
torch.set_num_threads(1)

WORDS = [
    "who",
    "what",
    "where",
    "is",
    "the",
    "a",
    "an",
    "of",
    "in",
    "and",
    "price",
    "city",
    "contract",
    "between",
    "company",
    "person",
    "lives",
    "works",
    "named",
    ".",
    "?",
    "!",
    ",",
]
SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
VOCABULARY = 96
HIDDEN, INNER, LAYERS = 16, 24, 3
CONTEXT = 64
CHAT_TEMPLATE = (
    "<s> {% for message in messages %}{{ message['role'] }} : {{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
COMMON = TOKENS | {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
}
GATED = COMMON | {"intermediate_size": INNER, "num_key_value_heads": 1}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**GATED),
    "qwen2": lambda: Qwen2Config(**GATED, tie_word_embeddings=True),
    "gemma": lambda: GemmaConfig(**GATED, head_dim=8),
    "mistral": lambda: MistralConfig(**GATED, sliding_window=None),
    "gpt2": lambda: GPT2Config(
        **TOKENS, vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=LAYERS, n_head=2, n_positions=CONTEXT
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**COMMON, intermediate_size=INNER),
    "opt": lambda: OPTConfig(**COMMON, ffn_dim=INNER, word_embed_proj_dim=HIDDEN),
    "bloom": lambda: BloomConfig(**TOKENS, vocab_size=VOCABULARY, hidden_size=HIDDEN, n_layer=LAYERS, n_head=2),
    "gemma2": lambda: Gemma2Config(**GATED, head_dim=8),
    "mixtral": lambda: MixtralConfig(**GATED, num_local_experts=2),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, and a chat template that names the roles."""
    words = [*SPECIALS, "user", "assistant", ":", *WORDS]
    words += [f"word{number}" for number in range(VOCABULARY - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )


def tiny_model(architecture: str) -> PreTrainedModel:
    """A random model in evaluation mode; larger weights than usual, so that its layers and positions matter."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`checkpoint("llama")` is a saved folder of that architecture; made once, so copy it before changing it."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            tiny_model(architecture).save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
            made[architecture] = folder
        return made[architecture]

    return make


@pytest.fixture
def broken(checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """`broken(change)` is a Llama checkpoint on which `change(folder)` was run; keywords are written to config.json."""

    def make(change: Callable[[Path], object] | None = None, **config: object) -> Path:
        folder = tmp_path / "broken"
        shutil.copytree(checkpoint("llama"), folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        if change is not None:
            change(folder)
        return folder

    return make
