"""A checkpoint that would run code, read outside its folder or load as something else is refused before loading."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file

from lunar.checkpoints import find_checkpoint
from lunar.errors import LunarError
from lunar.models import load_model
from lunar.preflight import check_model
from lunar.safety import INDEX, WEIGHTS, weight_files


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    tiny_model("llama").save_pretrained(folder, max_shard_size="8KB")
    tiny_tokenizer().save_pretrained(folder)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(LunarError) as error:
        load_model(folder)
    message = str(error.value)
    assert message.count("\n") == 0
    with pytest.raises(LunarError):
        find_checkpoint(str(folder))  # what the command line asks, before torch is imported
    return message


def change_index(folder: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "weights.bin", "a\\b.safetensors", 7],
)
def test_an_index_that_leaves_the_folder_is_refused(sharded: Path, name: str) -> None:
    shard = next(sharded.glob("*.safetensors"))
    shutil.copy(shard, sharded.parent / "outside.safetensors")
    (sharded / "sub").mkdir()
    shutil.copy(shard, sharded / "sub" / "model.safetensors")
    (sharded / "weights.bin").write_bytes(b"pickle")
    change_index(sharded, lambda index: index.update({"model.norm.weight": name}))
    assert "its own folder" in refusal(sharded)


def test_an_index_that_names_what_is_not_there_is_refused(sharded: Path) -> None:
    names = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert weight_files(sharded) == names
    change_index(sharded, lambda index: index.update({"model.norm.weight": "gone.safetensors"}))
    assert "no such file" in refusal(sharded)
    change_index(sharded, lambda index: index.update({"model.norm.weight": names[0], "extra": names[-1]}))
    assert "not there" in refusal(sharded)
    (sharded / INDEX).write_text('{"weight_map": [1]}')
    assert INDEX in refusal(sharded)


def test_a_link_out_of_the_folder_is_refused_and_one_within_or_to_the_hubs_cache_is_not(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    inside = shutil.copytree(checkpoint("llama"), tmp_path / "inside")
    (inside / WEIGHTS).rename(inside / "weights")
    (inside / WEIGHTS).symlink_to("weights")
    load_model(inside)
    for name in (WEIGHTS, "config.json", "tokenizer.json"):
        folder = shutil.copytree(checkpoint("llama"), tmp_path / f"out-{name}")
        shutil.move(folder / name, tmp_path / f"moved-{name}")
        (folder / name).symlink_to(tmp_path / f"moved-{name}")
        assert "symbolic link" in refusal(folder)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    shutil.copytree(checkpoint("llama"), snapshot)
    shutil.move(snapshot / WEIGHTS, blobs / "abcd")
    (snapshot / WEIGHTS).symlink_to("../../blobs/abcd")
    load_model(snapshot)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "code.Model"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoConfig": "code.Config"}}}),
        ("config.json", {"trust_remote_code": True}),
        ("config.json", {"attn_implementation": "somebody/kernel"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}),
        ("generation_config.json", {"trust_remote_code": True}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "code.Processor"}}),
    ],
)
def test_a_configuration_that_asks_for_code_is_refused_and_the_code_is_not_run(
    checkpoint: Callable[[str], Path], tmp_path: Path, name: str, content: dict
) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = folder / name
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(before | content))
    assert " code " in refusal(folder)
    assert not (tmp_path / "ran").exists()


def set_in(path: Path, **content: object) -> None:
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(before | content))


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("config.json", "transformers_weights", "sub/model.safetensors"),
        ("config.json", "transformers_weights", "other.safetensors"),
        ("config.json", "configuration_files", ["../evil/config.4.0.0.json"]),
        ("tokenizer_config.json", "fast_tokenizer_files", ["../evil/tokenizer.4.0.0.json"]),
        ("tokenizer_config.json", "fast_tokenizer_files", "../evil/tokenizer.4.0.0.json"),
        ("tokenizer_config.json", "fast_tokenizer_files", ["sub/tokenizer.4.0.0.json"]),
        ("tokenizer_config.json", "merges_file", "../evil/tokenizer.4.0.0.json"),
    ],
)
def test_a_configuration_that_names_other_files_than_the_usual_ones_is_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path, name: str, setting: str, value: object
) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    for place in (folder / "sub", tmp_path / "evil"):
        place.mkdir()
        shutil.copy(folder / WEIGHTS, place / WEIGHTS)
        shutil.copy(folder / "config.json", place / "config.4.0.0.json")
        shutil.copy(folder / "tokenizer.json", place / "tokenizer.4.0.0.json")
    shutil.copy(folder / WEIGHTS, folder / "other.safetensors")
    set_in(folder / name, **{setting: value})
    message = refusal(folder)
    assert setting in message
    assert name in message
    with pytest.raises(LunarError, match=setting):
        find_checkpoint(str(folder), trust_remote_code=True)  # which allows code, not other files


def test_names_of_files_that_lead_nowhere_or_stay_in_the_folder_are_allowed(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    shutil.copy(folder / "tokenizer.json", folder / "tokenizer.4.0.0.json")
    set_in(
        folder / "tokenizer_config.json",
        fast_tokenizer_files=["tokenizer.4.0.0.json"],
        vocab_file="/home/somebody/vocab.json",
        special_tokens_map_file=str(checkpoint("llama") / "tokenizer.json"),
    )
    set_in(folder / "config.json", transformers_weights=None)
    load_model(folder)


def test_a_link_to_a_folder_outside_and_one_to_a_chat_template_outside_are_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "evil.jinja").write_text("evil")
    for name in ("sub", "additional_chat_templates"):
        folder = shutil.copytree(checkpoint("llama"), tmp_path / f"folder-{name}")
        (folder / name).symlink_to(outside)
        assert "symbolic link" in refusal(folder)
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "template")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "own.jinja").write_text("own")
    load_model(folder)
    (folder / "additional_chat_templates" / "evil.jinja").symlink_to(outside / "evil.jinja")
    assert "symbolic link" in refusal(folder)
    (folder / "additional_chat_templates" / "evil.jinja").unlink()
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")
    load_model(folder)  # links to each other lead nowhere


def test_an_adapter_beside_a_model_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}")
    message = refusal(folder)
    assert "adapter_config.json" in message
    assert "merge it" in message


@pytest.mark.parametrize("name", ["config.json", INDEX, "tokenizer_config.json", "generation_config.json"])
def test_json_that_is_nested_too_deeply_is_refused_in_a_sentence(sharded: Path, name: str) -> None:
    (sharded / name).write_text("[" * 200_000)
    with pytest.raises(LunarError) as error:
        load_model(sharded)
    assert str(error.value).count("\n") == 0


def test_weights_that_are_not_loaded_are_not_looked_at(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    text = b"[" * 200_000
    (folder / "unused.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    check_model(str(folder), 1, {})


def test_pickled_weights_beside_safetensors_are_never_read(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04c" + b"os\nsystem\n")
    load_model(folder)
    (folder / WEIGHTS).unlink()
    assert "pickled" in refusal(folder)


def rewrite(folder: Path, change: Callable[[dict, bytes], tuple[object, bytes]]) -> None:
    """The weights with another header or other bytes."""
    path = folder / WEIGHTS
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, rest = change(json.loads(content[8 : 8 + length]), content[8 + length :])
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)


def moved(header: dict, name: str, start: int, end: int) -> dict:
    return header | {name: header[name] | {"data_offsets": [start, end]}}


DAMAGE = {
    "cut": lambda header, rest: (header, rest[:-4]),
    "grown": lambda header, rest: (header, rest + b"PK\x03\x04"),
    "overlap": lambda header, rest: (moved(header, *overlapping(header)), rest),
    "gap": lambda header, rest: ({k: v for k, v in header.items() if k != first(header)}, rest),
    "beyond": lambda header, rest: (moved(header, last(header), len(rest) - 4, len(rest) + 4), rest),
    "negative": lambda header, rest: (moved(header, first(header), -8, 0), rest),
    "shape": lambda header, rest: (header | {last(header): header[last(header)] | {"shape": [1]}}, rest),
    "twice": lambda header, rest: (
        b"{" + 2 * (json.dumps("a").encode() + b": 1,") + json.dumps(header).encode()[1:],
        rest,
    ),
    "list": lambda header, rest: ([1, 2], rest),
    "binary": lambda header, rest: (b"\xff\xfe", rest),
}


def names(header: dict) -> list[str]:
    return sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])


def first(header: dict) -> str:
    return names(header)[0]


def last(header: dict) -> str:
    return names(header)[-1]


def overlapping(header: dict) -> tuple[str, int, int]:
    """The last tensor of some size, where another of that size stands already."""
    *others, name = names(header)
    start, end = header[name]["data_offsets"]
    other = next(
        header[one]["data_offsets"][0]
        for one in others
        if header[one]["data_offsets"][1] - header[one]["data_offsets"][0] >= end - start
    )
    return name, other, other + end - start


@pytest.mark.parametrize("how", list(DAMAGE))
def test_truncated_overlapping_and_malformed_weights_are_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path, how: str
) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    rewrite(folder, lambda header, rest: (header, rest))
    load_model(folder)
    rewrite(folder, DAMAGE[how])
    assert "are damaged" in refusal(folder)


def test_a_header_longer_than_the_file_is_refused_without_reading_it(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    for length in (2**63, 2**31, os.path.getsize(folder / WEIGHTS) - 7):
        content = (checkpoint("llama") / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + content[8:])
        assert "are damaged" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_in_any_shard(sharded: Path, value: float) -> None:
    path = sorted(sharded.glob("*.safetensors"))[-1]
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = torch.tensor(value)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(LunarError, match="NaN or infinite"):
        load_model(sharded)
