"""The record shows any change of it, names prompts by keyed hashes only, and verify sees whatever was touched."""

import json
import random
import shutil

import pytest

from lunar.attacks import ATTACKS
from lunar.errors import LunarError
from lunar.models import load_model
from lunar.records import Record
from lunar.requests import record
from lunar.requests.checks import verify
from lunar.requests.ledger import Ledger
from lunar.settings import Settings

SETTINGS = Settings(layer=1, ridge=1e-2, neighbours=8)


def text_of(count):
    text = ""
    for number in range(count):
        text = record.appended(text, "add", {"request": f"id{number}", "scores": {"forget": 0.5}})
    return text


def test_entries_come_back_and_each_holds_the_hash_of_the_one_before():
    entries = record.read_record(text_of(4))
    assert [entry["request"] for entry in entries] == ["id0", "id1", "id2", "id3"]
    assert [entry["previous"] for entry in entries] == [record.FIRST, *(entry["hash"] for entry in entries[:-1])]
    assert all("suppresses" in entry["limits"] and entry["attacks"]["not_run"] for entry in entries)


def test_an_entry_that_tells_of_attacks_keeps_them():
    said = {"run": [{"attack": "skip"}], "not_run": []}
    assert record.read_record(record.appended("", "attack", {"attacks": said}))[0]["attacks"] == said


@pytest.mark.parametrize("how", ["changed", "removed", "swapped", "repeated", "inserted", "rehashed", "spaced"])
def test_any_change_of_an_entry_shows(how):
    lines = text_of(5).splitlines()
    entry = json.loads(lines[2])
    entry["scores"]["forget"] = 0.1
    forged = json.dumps({**entry, "hash": record.entry_hash(entry)})
    other = {
        "changed": [*lines[:2], json.dumps(entry), *lines[3:]],
        "removed": lines[:2] + lines[3:],
        "swapped": [lines[0], lines[2], lines[1], *lines[3:]],
        "repeated": [*lines[:3], lines[2], *lines[3:]],
        "inserted": [*lines[:2], forged, *lines[2:]],
        "rehashed": [*lines[:2], forged, *lines[3:]],
        "spaced": [*lines[:2], lines[2].replace(": ", ":", 1), *lines[3:]],
    }[how]
    with pytest.raises(LunarError, match="entry"):
        record.read_record("\n".join(other) + "\n")


def test_ids_of_prompts_are_keyed_and_do_not_depend_on_answers_or_order():
    key, other = bytes(32), bytes(31) + b"\1"
    asked = [Record.of("who ?"), Record.of("where ?", "there")]
    ids = [record.prompt_id(key, one) for one in asked]
    assert ids[1] == record.prompt_id(key, Record.of("where ?"))
    assert ids[0] != record.prompt_id(other, asked[0])
    assert record.prompts_id(key, ids) == record.prompts_id(key, ids[::-1]) != record.prompts_id(other, ids)


def test_the_same_prompts_asked_again_are_another_request():
    assert len({record.request_id(bytes(32), "prompts", number) for number in range(3)}) == 3


@pytest.fixture(scope="module")
def ledger(tmp_path_factory, checkpoint):
    """A ledger with two requests that hold and one that was undone."""
    loaded = load_model(str(checkpoint("llama")))
    folder = tmp_path_factory.mktemp("record") / "ledger"
    retain = [Record.of(f"who is word{n} ?", f"word{n + 1}") for n in range(40, 60)]
    made = Ledger.start(
        folder, loaded, [Record.of("where is word11 ?")], retain=retain, reference=retain[:3], settings=SETTINGS
    )
    made.add(loaded, [Record.of("who is the word12 ?")], name="second")
    made.add(loaded, [Record.of("what is word13 ?")])
    made.undo("second")
    return folder


def test_a_ledger_as_it_was_written_verifies(ledger, checkpoint):
    result = verify(ledger, str(checkpoint("llama")))
    assert result["faults"] == []
    assert (result["requests"], result["entries"]) == (2, 4)


def test_the_record_says_what_was_done_and_to_what(ledger):
    start, add, _, undo = Ledger(ledger).entries()
    assert [one["action"] for one in Ledger(ledger).entries()] == ["start", "add", "add", "undo"]
    for entry in (start, add):
        assert entry["prompts"]["count"] == len(entry["prompts"]["ids"]) == 1
        assert entry["others"]["before"] == entry["others"]["after"]
        (tensor,) = entry["edited"]
        assert tensor["tensor"] == "model.layers.1.mlp.down_proj.weight"
        assert tensor["norm"] > 0
        assert tensor["before"] != tensor["after"]
    assert start["edit"]["before"] is None
    assert add["edit"]["before"] == start["edit"]["after"]
    assert undo["request"] == add["request"]
    assert len(undo["requests"]) == 2
    assert set(start["model"]) == {"weights", "config", "tokenizer"}


def test_another_model_shows(ledger, checkpoint):
    assert "weights" in verify(ledger, str(checkpoint("gemma")))["faults"][0]


def test_a_model_that_is_damaged_shows_and_one_that_is_gone_is_said_to_be(ledger, checkpoint, tmp_path):
    model = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    assert verify(ledger, str(model))["model"] == "as they were"
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-4])
    result = verify(ledger, str(model))
    assert "cannot be checked" in result["faults"][0]
    assert result["model"] == "not at hand"
    shutil.rmtree(model)
    result = verify(ledger, str(model))
    assert (result["faults"], result["model"]) == ([], "not at hand")


def test_a_file_among_the_kept_ones_that_is_not_the_ledgers_shows(ledger, tmp_path):
    copy = shutil.copytree(ledger, tmp_path / "ledger")
    (copy / "kept" / "notes.txt").write_text("mine")
    assert verify(copy)["faults"] == ["kept/notes.txt is no file of this ledger: take it away."]
    assert (copy / "kept" / "notes.txt").exists()


def test_attacks_that_were_not_run_are_those_of_the_registry():
    assert list(record.ATTACKS) == list(ATTACKS)


def test_verify_catches_each_of_50_random_corruptions(ledger, tmp_path):
    rng = random.Random(0)
    names = sorted(str(path.relative_to(ledger)) for path in ledger.rglob("*") if path.is_file())
    names.remove(".lock")
    for number in range(50):
        folder = shutil.copytree(ledger, tmp_path / f"copy{number}")
        path = folder / rng.choice(names)
        content = bytearray(path.read_bytes())
        place = rng.randrange(len(content))
        kind = rng.choice(["bit", "cut", "grow", "zero", "gone", "remove"])
        if kind == "bit":
            content[place] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del content[place:]
        elif kind == "grow":
            content += rng.randbytes(3)
        elif kind == "zero":
            content[place : place + 8] = rng.randbytes(8)
        elif kind == "remove":
            del content[place]
        if kind == "gone":
            path.unlink()
        else:
            path.write_bytes(content)
        try:
            faults = verify(folder)["faults"]
        except LunarError as error:
            faults = [str(error)]
        assert faults, (kind, path.name, place)
        shutil.rmtree(folder)


def test_a_record_put_back_to_an_earlier_state_shows(ledger, tmp_path):
    folder = shutil.copytree(ledger, tmp_path / "copy")
    lines = (folder / "record.jsonl").read_text().splitlines(keepends=True)
    (folder / "record.jsonl").write_text("".join(lines[:-1]))
    assert verify(folder)["faults"]


def test_an_edit_that_the_kept_sums_do_not_give_shows_though_all_hashes_fit(ledger, tmp_path):
    folder = shutil.copytree(ledger, tmp_path / "copy")
    opened = Ledger(folder)
    with opened.locked():
        from lunar.requests import changes

        change = changes.undo(opened.state(), "request-3")
        opened.commit(type(change)(**{**vars(change), "edit": opened.edit().scaled(0.5)}))
    assert any("kept sums" in fault for fault in verify(folder)["faults"])


def test_a_change_in_the_middle_of_a_look_is_no_damage(ledger, checkpoint, tmp_path, monkeypatch):
    copy = shutil.copytree(ledger, tmp_path / "ledger")
    loaded, original, changed = load_model(str(checkpoint("llama"))), Ledger.state, []

    def state(opened):
        if not changed:
            changed.append(True)
            Ledger(copy).undo("request-1")
            Ledger(copy).add(loaded, [Record.of("who is word16 ?")], name="late")
        return original(opened)

    monkeypatch.setattr(Ledger, "state", state)
    result = verify(copy)
    assert changed
    assert result["faults"] == []
    assert result["requests"] == 2
    assert result["entries"] == 6
