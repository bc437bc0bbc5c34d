"""An output folder appears whole and flushed to the disk or not at all, and what killed processes left is removed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lunar.errors import LunarError
from lunar.report import check_exports, new_folder


def test_everything_is_on_the_disk_before_the_folder_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("os.fsync", lambda handle: done.append(Path(os.readlink(f"/proc/self/fd/{handle}"))))
    rename = os.replace
    monkeypatch.setattr("os.replace", lambda *names: (rename(*names), done.append("renamed")))
    with new_folder(tmp_path / "new" / "out") as folder:
        (folder / "sub").mkdir()
        for name in ("one", "sub/two"):
            (folder / name).write_text("text")
    before, after = done[: done.index("renamed")], done[done.index("renamed") + 1 :]
    assert set(before) == {folder, *(folder / name for name in ("one", "sub", "sub/two"))}
    assert before.index(folder / "sub/two") < before.index(folder / "sub") < before.index(folder)
    assert set(after) == {tmp_path, tmp_path / "new"}, "the names of the folder and of its new parent"


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_disk_that_refuses_to_flush_leaves_nothing(tmp_path, monkeypatch, at):
    calls = []

    def refuse(handle):
        calls.append(handle)
        if len(calls) == at:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(LunarError, match="No space left"), new_folder(tmp_path / "out") as folder:
        (folder / "one").write_text("text")
    assert len(calls) == at
    assert not list(tmp_path.iterdir())


CHILD = """
import os, sys, time
from lunar.report import new_folder
with new_folder(__import__("pathlib").Path(sys.argv[1])) as folder:
    (folder / "secret").write_text("secret")
    print("there", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_what_one_at_work_writes_is_not(tmp_path):
    def start():
        child = subprocess.Popen([sys.executable, "-c", CHILD, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "there\n"
        return child

    dead, alive = start(), start()
    others = [".out.partial-x", ".out2.partial-01234567", ".out.partial-0123456789"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.partial-01234567").symlink_to(others[0])
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert len(list(tmp_path.glob(".out.partial-*/secret"))) == 2
        with new_folder(tmp_path / "out"):
            assert len(list(tmp_path.glob(".out.partial-*/secret"))) == 1
        assert {*others, ".out.partial-01234567", "out"} < {path.name for path in tmp_path.iterdir()}
    finally:
        for child in (dead, alive):
            child.kill()
            child.wait()
            child.stdout.close()
    (tmp_path / "out").rmdir()
    with new_folder(tmp_path / "out"):
        pass
    assert not list(tmp_path.glob(".out.partial-*/secret"))


def test_a_folder_that_was_taken_for_a_dead_processs_is_made_again(tmp_path, monkeypatch):
    import lunar.report

    lock, taken = lunar.report._lock, []

    def late(handle, *, wait):
        if wait and not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].rmdir()
        return lock(handle, wait=wait)

    monkeypatch.setattr(lunar.report, "_lock", late)
    with new_folder(tmp_path / "out") as folder:
        (folder / "one").write_text("text")
    assert taken[0].name != folder.name
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "one"]


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (["x", "x"], "own"),
        (["x", "./y/../x"], "own"),
        (["x", "x/m"], "own"),
        (["x/a", "x"], "own"),
        (["link/x", "x"], "own"),
        (["ledger/kept/m"], "outside the ledger"),
        (["x", "ledger/new"], "outside the ledger"),
    ],
)
def test_exports_in_each_other_or_in_their_ledger_are_refused(tmp_path, monkeypatch, outputs, words):
    monkeypatch.chdir(tmp_path)
    Path("ledger").mkdir()
    Path("link").symlink_to(".")
    check_exports([Path("x"), Path("xy"), Path("ledger2")], Path("ledger"))
    with pytest.raises(LunarError, match=words):
        check_exports([Path(name) for name in outputs], Path("ledger"))
