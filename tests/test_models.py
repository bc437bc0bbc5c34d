"""Loading refuses what cannot be used, at once and in one sentence; sites are found by structure."""

import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import CONTEXT, HIDDEN, INNER, LAYERS, tiny_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM
from transformers.utils import logging as transformers_logging

import lunar.hub
from lunar.errors import LunarError
from lunar.models import check_finite, context_length, find_sites, load_model, site_at

DOWN = "model.layers.1.mlp.down_proj.weight"
WRITES = {
    "llama": "model.layers.{}.mlp.down_proj",
    "qwen2": "model.layers.{}.mlp.down_proj",
    "gemma": "model.layers.{}.mlp.down_proj",
    "mistral": "model.layers.{}.mlp.down_proj",
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "opt": "model.decoder.layers.{}.fc2",
    "bloom": "transformer.h.{}.mlp.dense_4h_to_h",
}


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """A change of the tensors in a folder's checkpoint."""

    def run(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return run


def refusal(source: str | Path, seconds: float = 2.0, **settings: object) -> str:
    """The message with which `load_model` refuses: one short line, soon."""
    start = time.monotonic()
    with pytest.raises(LunarError) as caught:
        load_model(source, **settings)
    message = str(caught.value)
    assert time.monotonic() - start < seconds
    assert "\n" not in message
    assert len(message) < 600
    assert message.endswith(".")
    return message


def chatter() -> tuple[int, bool]:
    """How much transformers says."""
    return transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()


@pytest.mark.parametrize("architecture", sorted(WRITES))
def test_sites_are_found_in_every_architecture(architecture: str) -> None:
    model = tiny_model(architecture)
    sites = find_sites(model)
    assert [site.module_name for site in sites] == [WRITES[architecture].format(layer) for layer in range(LAYERS)]
    for number, site in enumerate(sites):
        assert site.layer == number
        assert site.width == HIDDEN
        assert site.inner_width == (4 * HIDDEN if architecture in ("gpt2", "bloom") else INNER)
        assert site.transposed == (architecture == "gpt2")
        shape = (site.inner_width, site.width) if site.transposed else (site.width, site.inner_width)
        assert site.module(model).weight.shape == shape
        assert any(module is site.module(model) for module in site.layer_module(model).modules())


def test_a_layer_is_counted_from_either_end() -> None:
    model = tiny_model("llama")
    assert site_at(model, -1) == site_at(model, LAYERS - 1) == find_sites(model)[-1]
    for layer in (LAYERS, -LAYERS - 1):
        with pytest.raises(LunarError, match=f"from -{LAYERS} to {LAYERS - 1}"):
            site_at(model, layer)


def test_names_decide_where_the_mlp_is_as_wide_as_the_model() -> None:
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.gate_proj = torch.nn.Linear(HIDDEN, HIDDEN, bias=False)
        layer.mlp.up_proj = torch.nn.Linear(HIDDEN, HIDDEN, bias=False)
        layer.mlp.down_proj = torch.nn.Linear(HIDDEN, HIDDEN, bias=False)
    assert site_at(model, 0).module_name == "model.layers.0.mlp.down_proj"


def test_a_mixture_of_experts_is_edited_where_a_single_matrix_writes() -> None:
    model = tiny_model("mixtral")
    assert [site.module_name for site in find_sites(model)] == [
        f"model.layers.{layer}.self_attn.o_proj" for layer in range(LAYERS)
    ]
    assert {site.part for site in find_sites(model)} == {"attention output"}
    shared = torch.nn.ModuleDict({"down_proj": torch.nn.Linear(INNER, HIDDEN)})
    model.model.layers[1].mlp.shared_expert = shared
    assert site_at(model, 1).module_name.endswith("mlp.shared_expert.down_proj")
    assert site_at(model, 1).part == "shared expert"
    model.model.layers[1].mlp.shared_expert_gate = torch.nn.Linear(HIDDEN, 1)
    assert site_at(model, 1).part == "attention output", "how much a token gets of that expert differs"


def test_a_layer_without_a_single_matrix_is_refused_by_name() -> None:
    model = tiny_model("mixtral")
    del model.model.layers[2].self_attn.o_proj
    with pytest.raises(LunarError, match=r"model\.layers\.2 was expected to have one matrix that writes"):
        find_sites(model)


def test_models_without_decoder_layers_are_refused() -> None:
    small = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2}
    encoder = BertLMHeadModel(BertConfig(**small, num_attention_heads=2, intermediate_size=24))
    for model in (encoder, MambaForCausalLM(MambaConfig(**small))):
        with pytest.raises(LunarError, match="expected a list of decoder layers"):
            find_sites(model)


def test_context_length_is_read_where_there_is_one() -> None:
    assert context_length(tiny_model("llama")) == context_length(tiny_model("gpt2")) == CONTEXT
    assert context_length(tiny_model("bloom")) is None


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_a_saved_model_comes_back_as_it_was(checkpoint: Callable[[str], Path], architecture: str) -> None:
    before = chatter()
    loaded = load_model(str(checkpoint(architecture)), device="cpu")
    assert loaded.source == str(checkpoint(architecture))
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("who is the company")) == "who is the company"
    expected = tiny_model(architecture).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())
    assert chatter() == before


def test_loading_is_silent(checkpoint: Callable[[str], Path], capfd: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint("qwen2")
    capfd.readouterr()
    load_model(folder, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_dtype_and_device_are_checked(checkpoint: Callable[[str], Path]) -> None:
    assert load_model(checkpoint("llama"), device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    assert "available: auto, bfloat16" in refusal(checkpoint("llama"), dtype="int3")
    for device in ("gpu", "cuda:99", "meta", ""):
        assert "device" in refusal(checkpoint("llama"), device=device)


@pytest.mark.parametrize(
    "source",
    ["/no/such/model", "./model", "~/no/such", "a/b/c", "..\\model", "two words", "x" * 5000, "", " ", "a/", "\0"],
)
def test_what_cannot_be_a_hub_name_never_asks_the_hub(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lunar.hub, "hub_reachable", lambda: pytest.fail("asked the hub"))
    refusal(source)


@pytest.mark.parametrize("source", ["no-such-model", "no-such-organisation/no-such-model"])
def test_without_the_hub_only_the_cache_is_asked(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lunar.hub, "hub_reachable", lambda: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert "give a local folder" in refusal(source)


def test_hub_errors_become_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("The door is shut. Try:\n  knocking")

    monkeypatch.setattr(lunar.hub, "hub_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert "(The door is shut)" in refusal("some/model")
    monkeypatch.undo()
    monkeypatch.setattr(lunar.hub, "hub_reachable", lambda: True)
    assert "some..model" in refusal("some..model")


def test_a_hub_model_is_read_from_its_download(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lunar.hub, "hub_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(checkpoint("llama")))
    loaded = load_model("some/llama", device="cpu")
    assert loaded.source == "some/llama"


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, broken: Callable[..., Path]) -> None:
    assert "no config.json" in refusal(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "adapter" in refusal(tmp_path)
    assert "is a file" in refusal(tmp_path / "adapter_config.json")
    folder = broken(lambda folder: (folder / "model.safetensors").unlink())
    assert "has no *.safetensors" in refusal(folder)


def test_pickled_weights_are_refused(broken: Callable[..., Path]) -> None:
    folder = broken(lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"))
    assert "only safetensors are read" in refusal(folder)


def test_code_in_a_checkpoint_is_refused(broken: Callable[..., Path]) -> None:
    assert "trust_remote_code" in refusal(broken(auto_map={"AutoModelForCausalLM": "code.Model"}))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": "nonsense"}', '{"model_type": "t5"}'])
def test_a_useless_configuration_is_refused(broken: Callable[..., Path], text: str) -> None:
    refusal(broken(lambda folder: (folder / "config.json").write_text(text)), seconds=10)


@pytest.mark.parametrize("kept", [0, 2, 500, 5000])
def test_damaged_weights_are_refused(broken: Callable[..., Path], kept: int) -> None:
    def cut(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:kept])

    assert "are damaged" in refusal(broken(cut))


def test_missing_weights_are_never_filled_at_random(broken: Callable[..., Path]) -> None:
    assert f"lacks {DOWN}," in refusal(broken(weights(lambda tensors: tensors.pop(DOWN))))


def test_weights_of_the_wrong_shape_are_refused(broken: Callable[..., Path]) -> None:
    refusal(broken(weights(lambda tensors: tensors.update({DOWN: torch.zeros(3, 3)}))))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(broken: Callable[..., Path], value: float) -> None:
    assert f"{DOWN} holds NaN or infinite" in refusal(
        broken(weights(lambda tensors: tensors[DOWN][0, 0:1].fill_(value)))
    )


def test_check_finite_accepts_a_sound_model() -> None:
    check_finite(tiny_model("gpt2"))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_missing_tokenizer_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path, architecture: str) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint(architecture) / name).read_bytes())
    assert "no tokenizer" in refusal(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "tokenizer" in refusal(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_a_quantised_matrix_is_refused_and_the_sentence_says_what_to_do(
    checkpoint: Callable[[str], Path], dtype: torch.dtype
) -> None:
    model = load_model(checkpoint("llama")).model
    module = model.get_submodule("model.layers.1.mlp.down_proj")
    module.weight = torch.nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)
    with pytest.raises(LunarError, match="from the full-precision checkpoint and export an adapter"):
        site_at(model, 1)


def test_a_quantised_checkpoint_that_cannot_be_loaded_is_refused_as_such(
    broken: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(*_: object, **__: object) -> None:
        raise ImportError("Using `bitsandbytes` 8-bit quantization requires bitsandbytes: `pip install bitsandbytes`")

    folder = broken(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    monkeypatch.setattr("lunar.models.AutoModelForCausalLM.from_pretrained", not_installed)
    message = refusal(folder)
    assert "is quantised" in message
    assert "from the full-precision checkpoint and export an adapter" in message
