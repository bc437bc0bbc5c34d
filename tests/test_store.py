"""A ledger folder is as before or after a change, wherever the change is cut off, and only one process changes it."""

import contextlib
import errno
import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch

from lunar.errors import LunarError
from lunar.requests import store
from lunar.requests.store import MANIFEST, Store, settle, text_writer


def committed(folder: Path, text: str, *kept: str, dropped: tuple[str, ...] = ()) -> None:
    """One more generation: two files of fixed names that say `text`, and new kept ones."""
    written = {"a.txt": text_writer(text), "b.json": text_writer(f'"{text}"')}
    written |= {f"kept/{name}.safetensors": text_writer(name) for name in kept}
    with Store.locked(folder) as opened:
        opened.commit({"text": text}, written, dropped)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "ledger"
    made.mkdir()
    Store(made).commit({"text": "first"}, {"a.txt": text_writer("first"), "kept/one.safetensors": text_writer("one")})
    return made


def seen(folder: Path) -> tuple[str, set[str]]:
    """What a reader sees, which has to fit together whatever happened before."""
    opened = Store.open(folder)
    assert opened.faults() == []
    text = opened.content["text"]
    assert opened.checked("a.txt").read_text() == text
    if "b.json" in opened.files:
        assert json.loads(opened.checked("b.json").read_text()) == text
    return text, {name for name in opened.files if name.startswith("kept/")}


STEPS = ("open", "replace", "fsync", "unlink")


class Cut(BaseException):
    """The moment at which a process is killed: nothing that would tidy up is let run."""


def cut_at(monkeypatch, number, error=None):
    """From the system call of that number on, all fail: with the error, or as if the process were no more."""
    count = [0]

    def wrap(original):
        def step(*arguments, **named):
            count[0] += 1
            if error is None and count[0] > number:
                raise Cut
            if error is not None and count[0] == number + 1:
                raise error
            return original(*arguments, **named)

        return step

    for name in STEPS:
        monkeypatch.setattr(store.os, name, wrap(getattr(os, name)))
    monkeypatch.setattr(Path, "unlink", wrap(Path.unlink))
    return count


def test_cut_off_at_every_step_it_is_as_before_or_after_and_goes_on(folder, tmp_path, monkeypatch):
    before = seen(folder)
    outcomes = set()
    for number in range(100):
        copy = shutil.copytree(folder, tmp_path / f"copy{number}")
        with monkeypatch.context() as patch:
            cut_at(patch, number)
            try:
                committed(copy, "second", "two", dropped=("kept/one.safetensors",))
                finished = True
            except Cut:
                finished = False
        now = seen(copy)
        assert now in (before, ("second", {"kept/two.safetensors"}))
        outcomes.add(now[0])
        settle(copy)
        assert seen(copy) == now
        committed(copy, "third", "three")
        assert seen(copy)[0] == "third"
        kept = {f"kept/{path.name}" for path in (copy / "kept").iterdir()}
        assert kept == seen(copy)[1], "something is left that belongs to nothing"
        assert {path.name for path in copy.iterdir()} == {"a.txt", "b.json", "kept", MANIFEST, ".lock"}
        if finished:
            break
    assert finished
    assert number > 10
    assert outcomes == {"first", "second"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_disk_or_a_folder_without_the_right_to_write_is_one_sentence_and_loses_nothing(
    folder, tmp_path, monkeypatch, code
):
    before = seen(folder)
    for number in range(100):
        copy = shutil.copytree(folder, tmp_path / f"copy{number}")
        with monkeypatch.context() as patch:
            count = cut_at(patch, number, OSError(code, os.strerror(code)))
            message = None
            try:
                committed(copy, "second", "two")
            except LunarError as error:
                message = str(error)
        if message is None:
            assert seen(copy) == ("second", {"kept/one.safetensors", "kept/two.safetensors"})
        else:
            assert os.strerror(code) in message
            assert message.count("\n") == 0
            assert seen(copy) == before, "nothing was to be changed"
        committed(copy, "third")
        assert seen(copy)[0] == "third"
        if count[0] <= number:
            break
    assert number > 10


def test_a_dropped_file_goes_with_the_change_wherever_it_is_cut_off(folder, tmp_path, monkeypatch):
    with Store.locked(folder) as opened:
        opened.commit({"text": "first"}, {"found.json": text_writer("{}")})
    for number in range(100):
        copy = shutil.copytree(folder, tmp_path / f"copy{number}")
        with monkeypatch.context() as patch:
            count = cut_at(patch, number)
            with contextlib.suppress(Cut):
                committed(copy, "second", dropped=("found.json",))
        settle(copy)
        assert (copy / "found.json").exists() == ("found.json" in Store.open(copy).files) == (seen(copy)[0] == "first")
        committed(copy, "third", dropped=("found.json",))
        assert not (copy / "found.json").exists()
        if count[0] <= number:
            break
    assert number > 10


def test_what_somebody_else_put_in_the_place_of_a_dropped_file_stays(folder):
    with Store.locked(folder) as opened:
        opened.commit({"text": "first"}, {"found.json": text_writer("{}")})
    committed(folder, "second", dropped=("found.json",))
    (folder / "found.json").write_text("mine")
    settle(folder)
    committed(folder, "third")
    assert (folder / "found.json").read_text() == "mine"


def test_the_second_process_is_refused_while_the_first_works(folder):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def hold():
        with Store.locked(folder):
            theirs.send("locked")
            theirs.recv()

    process = context.Process(target=hold)
    process.start()
    assert ours.recv() == "locked"
    with pytest.raises(LunarError, match="Another process"):
        committed(folder, "second")
    assert seen(folder)[0] == "first", "reading needs no lock"
    ours.send("go on")
    process.join()
    committed(folder, "second")
    assert seen(folder)[0] == "second"


def test_a_lock_is_given_back_when_its_process_is_killed(folder):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def hold():
        with Store.locked(folder):
            theirs.send("locked")
            theirs.recv()

    process = context.Process(target=hold)
    process.start()
    ours.recv()
    process.kill()
    process.join()
    committed(folder, "second")


def test_what_safetensors_had_written_when_the_process_was_killed_is_no_fault_and_is_removed(folder):
    # It writes under a name of its own first; which one, only a real kill in the middle of a real write can tell.
    from safetensors.torch import save_file

    large = {"rows": torch.zeros(16_000_000)}
    named = {path.name for path in (folder / "kept").iterdir()}

    def write():
        with Store.locked(folder) as opened:
            opened.commit({"text": "second"}, {"kept/two.safetensors": lambda path: save_file(large, path)})

    def left():
        names = {path.name for path in (folder / "kept").iterdir()} - named
        return names - {"two.safetensors", f".two.safetensors{store.TEMPORARY}"}

    for _ in range(20):
        process = multiprocessing.get_context("fork").Process(target=write)
        process.start()
        while process.is_alive() and not left():
            pass
        process.kill()
        process.join()
        if left():
            break
    assert left(), "never killed in the middle of a write"
    assert Store.open(folder).faults() == []
    settle(folder)
    assert not left()


def test_a_manifest_with_any_other_character_is_refused(folder):
    text = (folder / MANIFEST).read_text()
    for other in (text[:-1], text + " ", text.replace("first", "fisrt", 1), text.replace("  ", " ", 1), "", "{}", "[]"):
        (folder / MANIFEST).write_text(other)
        with pytest.raises(LunarError, match="damaged"):
            Store.open(folder)


def test_files_are_for_the_owner_only(folder):
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
