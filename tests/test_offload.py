"""A model whose weights accelerate keeps elsewhere is edited as one that is in memory, and its files are left alone."""

import hashlib
import json
from pathlib import Path

import accelerate
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from lunar.errors import LunarError
from lunar.method import unlearn
from lunar.models import LoadedModel, load_model
from lunar.records import Record
from lunar.requests.ledger import Ledger
from lunar.settings import Settings
from lunar.weights import all_parameters, device_of, parameter_of, replace_weight

FORGET = [Record.of("where is word11 ?"), Record.of("who is the word11 ?")]
RETAIN = [Record.of(f"who is word{n} ?", f"word{n + 1}") for n in range(40, 50)]
REFERENCE = [Record.of("who is word30 ?"), Record.of("what is the word31 of word32 ?")]
SETTINGS = Settings("collapse", 1, tail=2, neighbours=0)
SETS = {"retain": RETAIN, "reference": REFERENCE}


def offloaded(architecture: str, folder: Path | None):
    """A tiny model in main memory, or on disk in a folder, with nothing in its modules."""
    model = tiny_model(architecture)
    if folder is None:
        return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    return accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 30, 31, 7]])).logits


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_the_edit_is_the_same_and_comes_off_again(architecture: str, disk: bool, tmp_path: Path) -> None:
    plain = LoadedModel(tiny_model(architecture), tiny_tokenizer(), "base")
    model = offloaded(architecture, tmp_path / "disk" if disk else None)
    loaded, before = LoadedModel(model, tiny_tokenizer(), "base"), hashes(tmp_path)
    expected = unlearn(plain, FORGET, settings=SETTINGS, **SETS).edit
    found = unlearn(loaded, FORGET, settings=SETTINGS, **SETS).edit
    assert found.factors[0].fingerprint == expected.factors[0].fingerprint
    torch.testing.assert_close(found.factors[0].change(), expected.factors[0].change(), rtol=1e-6, atol=1e-9)
    original = logits(model)
    with found.applied(model), expected.applied(plain.model):
        torch.testing.assert_close(logits(model), logits(plain.model), rtol=1e-5, atol=1e-5)
        assert (logits(model) - original).abs().max() > 1e-3
    assert torch.equal(logits(model), original)
    for name, tensor in all_parameters(model).items():
        assert torch.equal(tensor, plain.model.state_dict()[name]), name
    assert hashes(tmp_path) == before


def test_a_ledger_proves_that_no_other_weight_changed(tmp_path: Path) -> None:
    loaded = LoadedModel(offloaded("qwen2", None), tiny_tokenizer(), "base")
    ledger = Ledger.start(tmp_path / "ledger", loaded, FORGET, settings=SETTINGS, **SETS)
    entry = json.loads((tmp_path / "ledger" / "record.jsonl").read_text().splitlines()[-1])
    assert "others" in json.dumps(entry)
    ledger.add(loaded, [Record.of("what is the price of word50 ?")])


def test_a_model_that_fits_is_loaded_by_accelerate_as_it_is(checkpoint, monkeypatch) -> None:
    loaded = load_model(checkpoint("llama"), device="auto")
    module = loaded.model.get_submodule("model.layers.1.mlp.down_proj")
    assert torch.equal(
        parameter_of(module), load_model(checkpoint("llama")).model.get_submodule("model.layers.1.mlp.down_proj").weight
    )
    assert device_of(module).type in ("cpu", "cuda")
    monkeypatch.setattr("lunar.models.find_spec", lambda _: None)
    with pytest.raises(LunarError, match="needs accelerate"):
        load_model(checkpoint("llama"), device="auto")


def test_what_accelerate_keeps_is_laid_over_and_not_overwritten() -> None:
    model = offloaded("llama", None)
    module = model.get_submodule("model.layers.1.mlp.down_proj")
    kept = parameter_of(module)
    copy = kept.clone()
    for _ in range(2):
        replace_weight(module, torch.zeros_like(kept), original=False)
        assert not parameter_of(module).any()
        assert torch.equal(kept, copy)
        replace_weight(module, copy, original=True)
        assert parameter_of(module) is kept
