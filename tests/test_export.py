"""Exports load in other programs and do what the edit does; nothing else of the model is another bit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from safetensors.torch import load_file, safe_open
from test_cli import here, run, tree, unlearn, write_lines  # noqa: F401
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from lunar.checkpoints import find_checkpoint
from lunar.edit import Edit, Factors, fingerprint
from lunar.errors import LunarError
from lunar.export.adapter import RANKS, adapter_files, compressed, write_adapter
from lunar.export.effect import DIRECTIONS, _directions, adapter_effect, merged_effect
from lunar.export.merged import merged_faults, write_merged
from lunar.models import find_sites, load_model
from lunar.requests.ledger import Ledger
from lunar.solve import Solution

ARCHITECTURES = ("llama", "qwen2", "gemma", "mistral", "gpt2")
TOKENS = torch.tensor([[1, 4, 9, 30, 41, 12]])


def edit_of(loaded, *layers, rank=1, size=0.3):
    """An edit of some layers' write-back matrices with random factors."""
    parts = []
    for layer in layers:
        site = find_sites(loaded.model)[layer]
        generator = torch.Generator().manual_seed(layer)
        write = torch.randn(site.width, rank, generator=generator, dtype=torch.float64)
        read = torch.randn(rank, site.inner_width, generator=generator, dtype=torch.float64)
        weight = site.module(loaded.model).weight
        parts.append(Factors.of(site.module_name, Solution(size * write, read), site.transposed, fingerprint(weight)))
    return Edit(tuple(parts))


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits.double()


def sharded(architecture: str, folder: Path, dtype=torch.float32) -> Path:
    """A checkpoint of several shards, with a file that no loader reads."""
    tiny_model(architecture).to(dtype).save_pretrained(folder, max_shard_size="8KB")
    tiny_tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"max_new_tokens": 7}')
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapter_and_merged_checkpoint_give_the_same_logits(checkpoint, tmp_path, architecture, rank):
    source = checkpoint(architecture)
    loaded = load_model(str(source))
    edit = edit_of(loaded, 1, rank=rank)
    before = logits(loaded.model)
    with edit.applied(loaded.model):
        edited = logits(loaded.model)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "merged").mkdir()
    write_adapter(tmp_path / "adapter", edit, "base")
    write_merged(source, tmp_path / "merged", edit)
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    wrapped = peft.PeftModel.from_pretrained(loaded.model, str(tmp_path / "adapter"))
    adapted = logits(wrapped)
    assert float((edited - before).abs().max()) > 0.1, "an edit that does nothing would agree with everything"
    torch.testing.assert_close(merged, edited, rtol=0, atol=1e-4)
    torch.testing.assert_close(adapted, merged, rtol=0, atol=1e-4)
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), before)
    assert torch.equal(logits(wrapped.unload()), before)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_adapter_of_several_matrices_has_one_rank_that_servers_take(checkpoint, tmp_path, architecture):
    loaded = load_model(str(checkpoint(architecture)))
    edit = Edit((*edit_of(loaded, 0, rank=1).factors, *edit_of(loaded, 2, rank=9).factors))
    write_adapter(tmp_path, edit, "base")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 16)
    assert config["fan_in_fan_out"] is (architecture == "gpt2")
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items()}
    assert {shape[0] for name, shape in shapes.items() if "lora_A" in name} == {16}
    assert {shape[1] for name, shape in shapes.items() if "lora_B" in name} == {16}
    assert all(name.startswith("base_model.model.") for name in shapes)
    with edit.applied(loaded.model):
        edited = logits(loaded.model)
    adapted = logits(peft.PeftModel.from_pretrained(loaded.model, str(tmp_path)))
    torch.testing.assert_close(adapted, edited, rtol=0, atol=1e-4)


def test_a_rank_beyond_what_servers_take_and_an_edit_that_is_none_are_refused():
    def of_rank(rank):
        return Edit((Factors("layer", torch.ones(4, rank), torch.ones(rank, 5)),))

    assert [json.loads(adapter_files(of_rank(r), "b")["adapter_config.json"])["r"] for r in (1, 8, 9, 300)] == [
        8,
        8,
        16,
        320,
    ]
    for rank, words in ((RANKS[-1] + 1, "--merged"), (0, "changes nothing")):
        with pytest.raises(LunarError, match=words):
            adapter_files(of_rank(rank), "base")


def test_compression_leaves_out_what_no_row_misses_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(20, 4, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(30, 4, generator=generator, dtype=torch.float64))
    values = torch.tensor([10.0, 3.0, 1e-3, 1e-12], dtype=torch.float64)
    edit = Edit((Factors("layer", (left * values).float(), right.T.float()),))
    rows = torch.randn(12, 30, generator=generator, dtype=torch.float64) @ right @ right.T
    distance = (rows @ edit.factors[0].change().T).norm(dim=1)
    assert compressed(edit).rank == 3
    small = compressed(edit, {"layer": (rows, distance)})
    assert small.rank == 2
    missing = (rows @ (edit.factors[0].change() - small.factors[0].change()).T).norm(dim=1)
    assert bool((missing <= 0.005 * distance).all())
    # A row that only the second direction serves keeps it; one along the first alone lets it go.
    along = right[:, :1].T.repeat(2, 1)
    assert compressed(edit, {"layer": (along, torch.full((2,), 10.0, dtype=torch.float64))}).rank == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_merged_checkpoint_differs_in_the_edited_tensor_and_in_nothing_else(tmp_path, architecture, dtype):
    source, output = sharded(architecture, tmp_path / "source", dtype), tmp_path / "merged"
    (source / "pytorch_model.bin").write_bytes(b"old weights")
    (source / "consolidated.safetensors").write_bytes(
        (source / "model-00001-of-00005.safetensors").read_bytes()
        if (source / "model-00001-of-00005.safetensors").exists()
        else b""
    )
    edit = edit_of(load_model(str(source)), 1)
    output.mkdir()
    realised = write_merged(source, output, edit)
    assert realised[edit.factors[0].module_name] == pytest.approx(1, abs=1e-6 if dtype == torch.float32 else 0.05)
    assert merged_faults(source, output, edit) == []
    names = {path.name for path in output.iterdir()}
    assert names == {path.name for path in source.iterdir()} - {"pytorch_model.bin", "consolidated.safetensors"}
    changed = [name for name in names if (output / name).read_bytes() != (source / name).read_bytes()]
    assert len(changed) == 1
    tensor = f"{edit.factors[0].module_name}.weight"
    with safe_open(source / changed[0], "pt") as old, safe_open(output / changed[0], "pt") as new:
        assert old.metadata() == new.metadata()
        for name in old.keys():  # noqa: SIM118 - not a mapping
            same = torch.equal(old.get_tensor(name), new.get_tensor(name))
            assert same is (name != tensor), name
            assert new.get_tensor(name).dtype == dtype


@pytest.mark.parametrize(
    "how",
    [
        *("other tensor", "other shard", "missing", "extra", "edited tensor", "config"),
        *("template", "extra template", "lost template", "subfolder", "link"),
    ],
)
def test_faults_of_a_merged_checkpoint_show(tmp_path, how):
    source, output = sharded("llama", tmp_path / "source"), tmp_path / "merged"
    templates = "additional_chat_templates"
    (source / templates).mkdir()
    (source / templates / "tools.jinja").write_text("tools")
    edit = edit_of(load_model(str(source)), 1)
    output.mkdir()
    write_merged(source, output, edit)
    assert load_model(output).tokenizer.chat_template["tools"] == "tools"
    assert merged_faults(source, output, edit) == []
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    mine = index[f"{edit.factors[0].module_name}.weight"]
    other = next(name for name in index.values() if name != mine)
    if how == "missing":
        (output / other).unlink()
    elif how == "extra":
        (output / "code.py").write_text("")
    elif how in ("template", "extra template"):
        (output / templates / ("tools.jinja" if how == "template" else "evil.jinja")).write_text("evil")
    elif how == "lost template":
        (output / templates / "tools.jinja").unlink()
    elif how == "subfolder":
        (output / "sub").mkdir()
    elif how == "link":
        (output / "more").symlink_to("nowhere")
    elif how == "config":
        (output / "config.json").write_text("{}")
    elif how == "edited tensor":
        (output / mine).write_bytes((source / mine).read_bytes())
    else:
        path = output / (mine if how == "other tensor" else other)
        content = bytearray(path.read_bytes())
        if how == "other tensor":
            content[10] ^= 1
        else:
            content[-1] ^= 1
        path.write_bytes(content)
    assert len(merged_faults(source, output, edit)) == 1


@pytest.mark.parametrize("package", ["torchao", "bitsandbytes"])
def test_an_adapter_made_from_full_precision_works_over_a_copy_in_8_bits(tmp_path, package):
    quantisation = pytest.importorskip(package)
    if package == "torchao":
        settings = TorchAoConfig(quantisation.quantization.Int8WeightOnlyConfig())
    else:
        settings = BitsAndBytesConfig(load_in_8bit=True)
    loaded = load_model("tiny")
    edit, before = edit_of(loaded, 3), logits(loaded.model)
    with edit.applied(loaded.model):
        wanted = logits(loaded.model) - before
    write_adapter(tmp_path, edit, "base")
    quantised = AutoModelForCausalLM.from_pretrained(
        find_checkpoint("tiny"), quantization_config=settings, dtype=torch.float32, device_map="cpu"
    )
    before = logits(quantised)
    moved = logits(peft.PeftModel.from_pretrained(quantised, str(tmp_path))) - before
    assert float((moved - wanted).norm() / wanted.norm()) < 0.2


def test_names_in_a_checkpoint_may_lack_the_models_prefix(checkpoint, tmp_path):
    from safetensors.torch import save_file

    source = shutil.copytree(checkpoint("gpt2"), tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items() if "lm_head" not in name}
    save_file(bare, source / "model.safetensors", {"format": "pt"})
    loaded = load_model(str(source))
    edit = edit_of(loaded, 1)
    (tmp_path / "merged").mkdir()
    write_merged(source, tmp_path / "merged", edit)
    with edit.applied(loaded.model):
        torch.testing.assert_close(
            logits(load_model(tmp_path / "merged").model), logits(loaded.model), atol=1e-4, rtol=0
        )


def test_an_export_for_another_model_is_refused(checkpoint, tmp_path):
    edit = edit_of(load_model(str(checkpoint("llama"))), 1)
    other = Edit((replace(edit.factors[0], fingerprint="0" * 64),))
    with pytest.raises(LunarError, match="other values"):
        write_merged(checkpoint("llama"), tmp_path, other)
    with pytest.raises(LunarError, match=r"plain numbers.*full-precision checkpoint"):
        write_merged(checkpoint("gpt2"), tmp_path, edit)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")
def test_an_export_without_effect_is_an_error(checkpoint, tmp_path):
    source = checkpoint("llama")
    loaded = load_model(str(source))
    edit = edit_of(loaded, 1)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    cases = {
        "right": (edit, None),
        "zero": (edit.scaled(0.0), "no effect"),
        "half": (edit.scaled(0.5), "something else"),
    }
    for name, (written, words) in cases.items():
        for kind in ("adapter", "merged"):
            folder = tmp_path / f"{name}-{kind}"
            folder.mkdir()
            if kind == "adapter":
                write_adapter(folder, written, "base")
                effect = adapter_effect(loaded, edit, folder)
            else:
                write_merged(source, folder, written)
                effect = merged_effect(loaded, edit, folder)
            if words is None:
                assert effect.check(kind).moved > 1e-3
                assert effect.difference < 1e-4
            else:
                with pytest.raises(LunarError, match=words):
                    effect.check(kind)
    # Keys that no module has: the adapter loads and does nothing.
    folder = tmp_path / "keys"
    folder.mkdir()
    write_adapter(folder, edit, "base")
    tensors = load_file(folder / "adapter_model.safetensors")
    from safetensors.torch import save_file

    save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(LunarError, match="no effect"):
        adapter_effect(loaded, edit, folder).check("adapter")
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())


def test_directions_beyond_the_bound_are_not_probed():
    assert _directions(Factors("layer", torch.randn(80, 70), torch.randn(70, 90))).shape == (DIRECTIONS, 90)
    assert _directions(Factors("layer", torch.zeros(8, 2), torch.zeros(2, 9))).shape == (0, 9)
    assert _directions(Factors("layer", torch.zeros(8, 0), torch.zeros(0, 9))).shape == (0, 9)


@pytest.mark.parametrize("rank", [2, 12])
def test_an_adapter_that_lost_any_one_direction_is_an_error(checkpoint, tmp_path, rank):
    loaded = load_model(str(checkpoint("llama")))
    (part,) = edit_of(loaded, 1, rank=rank, size=0.01).factors
    whole = compressed(Edit((part,)))
    (part,) = whole.factors
    for name, lost in (("right", None), ("last", rank - 1), ("second", 1), ("first", 0)):
        folder = tmp_path / name
        folder.mkdir()
        kept = [one for one in range(rank) if one != lost]
        write_adapter(folder, Edit((replace(part, write=part.write[:, kept], read=part.read[kept]),)), "base")
        effect = adapter_effect(loaded, whole, folder)
        if lost is None:
            assert effect.check("adapter").difference < 1e-3
        else:
            with pytest.raises(LunarError, match="something else"):
                effect.check("adapter")


def test_an_adapter_that_lost_a_direction_ten_times_weaker_than_the_strongest_is_an_error(checkpoint, tmp_path):
    loaded = load_model(str(checkpoint("llama")))
    (part,) = edit_of(loaded, 1, rank=2).factors
    whole = Edit((replace(part, write=part.write * torch.tensor([1.0, 0.1])),))
    (first, *_) = compressed(whole).factors
    write_adapter(tmp_path, Edit((replace(first, write=first.write[:, :1], read=first.read[:1]),)), "base")
    with pytest.raises(LunarError, match="something else"):
        adapter_effect(loaded, whole, tmp_path).check("adapter")


@pytest.mark.parametrize("target", ["shift", "collapse"])
def test_a_ledger_is_exported_and_its_record_and_verify_say_so(here, tmp_path, target):  # noqa: F811
    source = sharded("llama", here / "model")
    assert unlearn(Path("model"), "--layer", 1, "--target", target, "--strength", 2).exit_code == 0
    result = run("export", "edit", "--adapter", "adapter", "--merged", "merged", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["adapter"]["effect"]["moved"] > 1e-4
    assert said["adapter"]["effect"]["difference"] < 1e-3
    assert said["merged"]["effect"]["difference"] < 1e-3
    actions = [json.loads(line)["action"] for line in Path("edit/record.jsonl").read_text().splitlines()]
    assert actions == ["start", "export adapter", "export merged"]
    verified = run("verify", "edit", "--merged", "merged")
    assert (verified.exit_code, "every byte is as expected" in " ".join(verified.stdout.split())) == (0, True)
    edited = logits(load_model("merged").model)
    wrapped = peft.PeftModel.from_pretrained(load_model("model").model, "adapter")
    torch.testing.assert_close(logits(wrapped), edited, atol=1e-2, rtol=0)
    content = bytearray(Path("merged/config.json").read_bytes())
    content[5] ^= 1
    Path("merged/config.json").write_bytes(content + b" ")
    assert run("verify", "edit", "--merged", "merged").exit_code in (1, 2)
    before = tree(here)
    for arguments, words in (
        (("export", "edit"), "--adapter"),
        (("export", "edit", "--adapter", "adapter"), "not empty"),
        (("export", "edit", "--adapter", "new", "--merged", "new"), "a folder of its own"),
        (("export", "edit", "--merged", "edit/kept/new"), "outside the ledger"),
        (("export", source, "--adapter", "new"), "ledger.json"),
    ):
        refused = run(*arguments)
        assert refused.exit_code == 2
        assert words in refused.stderr
    assert run("undo", "edit", "request-1").exit_code == 0
    refused = run("export", "edit", "--merged", "new")
    assert (refused.exit_code, "no request" in refused.stderr) == (2, True)
    left = {path for path in before if not path.startswith("edit/kept/") or "retain" in path}
    left -= {"edit/examples.json"}  # they were of an edit that is gone
    assert tree(here) == left | {"edit/.lock"}


def test_exports_of_an_edit_that_is_another_by_now_are_told_of(here):  # noqa: F811
    sharded("llama", here / "model")
    assert unlearn(Path("model"), "--layer", 1).exit_code == 0
    write_lines(here / "second.jsonl", [{"question": "where is the contract of word14 ?"}])
    assert run("export", "edit", "--adapter", "adapter", "--merged", "merged", "--quiet").exit_code == 0
    added = run("unlearn", "edit", "--forget", "second.jsonl", "--name", "two")
    told = "another edit than when 1 adapter and 1 merged checkpoint were exported: export again"
    assert told in " ".join(added.stdout.split())
    assert run("export", "edit", "--merged", "both", "--quiet").exit_code == 0
    for folder, fault in (("both", None), ("merged", "but the ledger has changed since: export it again.")):
        found = json.loads(run("verify", "edit", "--merged", folder, "--json").stdout)
        assert (found.get("merged"), found["faults"]) == (None, [found["faults"][0]]) if fault else ("as expected", [])
        assert fault is None or found["faults"][0].endswith(fault)
    # What differs from every export is no export of another edit.
    path = Path("merged/generation_config.json")
    path.write_text(path.read_text().replace("7", "8"))
    assert "is not the source's" in run("verify", "edit", "--merged", "merged").stdout
    # The first edit is back, and with it what was exported of it.
    assert json.loads(run("undo", "edit", "two", "--json").stdout)["stale_exports"] == {"merged": 1}
    undone = " ".join(run("undo", "edit", "request-1").stdout.split())
    assert "1 adapter and 2 merged checkpoints were exported: use the original model" in undone


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_an_export_that_cannot_be_recorded_is_not_kept(here, monkeypatch, kind):  # noqa: F811
    sharded("llama", here / "model")
    assert unlearn(Path("model"), "--layer", 1).exit_code == 0
    before = tree(here) | {"edit/.lock"}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lunar.requests.store.write_file", full)
        refused = run("export", "edit", f"--{kind}", "new")
    assert (refused.exit_code, "No space left" in refused.stderr) == (2, True)
    assert tree(here) == before
    # An interruption after the entry was written leaves the export that the record tells of.
    note = Ledger.note

    def interrupted(*arguments):
        note(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "note", interrupted)
        assert run("export", "edit", f"--{kind}", "new").exit_code != 0
    assert Path("new").is_dir()
    assert len(Ledger("edit").entries()) == 2


def test_without_peft_an_adapter_is_refused_before_anything_is_written(here, monkeypatch):  # noqa: F811
    sharded("llama", here / "model")
    assert unlearn(Path("model"), "--layer", 1).exit_code == 0
    monkeypatch.setattr("lunar.preflight.find_spec", lambda name: None)
    refused = run("export", "edit", "--adapter", "adapter")
    assert (refused.exit_code, "pip install" in refused.stderr) == (2, True)
    assert not Path("adapter").exists()
