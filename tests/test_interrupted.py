"""A run that was killed in the middle of its capture goes on where it was, and ends in the same bytes."""

import os
import signal
from pathlib import Path

import pytest
import torch

from lunar import collect, interrupted
from lunar.interrupted import SavedSums, digest, saved_sums
from lunar.models import load_model
from lunar.moments import Moments
from lunar.records import Record
from lunar.report.terminal import _resumed
from lunar.requests import changes
from lunar.requests.ledger import Ledger
from lunar.requests.parts import Base
from lunar.settings import Settings

FORGET = [Record.of("where is word11 ?"), Record.of("who is the word11 ?")]
RETAIN = [Record.of(f"who is word{n} {'of the city ' * (n % 3)}?", f"word{n + 1}") for n in range(40, 90)] * 2
RETAIN = [Record.of(f"{one.prompt} {'and' if place >= 50 else ''}", one.answer) for place, one in enumerate(RETAIN)]
REFERENCE = [Record.of("who is word30 ?"), Record.of("what is the word31 of word32 ?")]
SETTINGS = Settings("collapse", 1, tail=2, neighbours=0)


@pytest.fixture
def loaded(checkpoint):
    return load_model(str(checkpoint("llama")))


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    """Every batch is saved."""
    monkeypatch.setattr(interrupted, "EVERY", 0.0)
    monkeypatch.setattr(interrupted, "COST", 0.0)
    monkeypatch.setattr(collect, "SUMMED", 1)


def start(folder, loaded, progress=None, retain=RETAIN, settings=SETTINGS):
    return Ledger.start(
        folder, loaded, FORGET, retain=retain, reference=REFERENCE, settings=settings, progress=progress
    )


def killed(folder, loaded, stage, after):
    """A process that makes a ledger and is killed once so many prompts of a stage are done."""

    def progress(name, done, total):
        if name == stage and after <= done < total:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            start(folder, loaded, progress)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it was to be killed in the middle"
    assert not folder.exists()


def left(folder):
    return sorted(path.name for path in folder.parent.iterdir() if path != folder)


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_killed_run_goes_on_and_gives_the_bytes_of_one_that_was_not(tmp_path, loaded):
    whole, cut = start(tmp_path / "a" / "whole", loaded), tmp_path / "b" / "cut"
    cut.parent.mkdir()
    killed(cut, loaded, "retain", 64)
    (saved,) = left(cut)
    assert saved == ".cut.interrupted"
    modes = {path.stat().st_mode & 0o777 for path in (cut.parent / saved).iterdir()}
    assert modes == {0o600}
    assert (cut.parent / saved).stat().st_mode & 0o777 == 0o700
    shown = []
    again = start(cut, loaded, lambda name, done, total: shown.append((name, done)))
    assert [done for name, done in shown if name == "retain"] == [96, 100]
    for name in ("edit.safetensors", "edit.json"):
        assert (cut / name).read_bytes() == (whole.folder / name).read_bytes()
    ours, theirs = (Base.load(one.folder / "kept" / "retain.safetensors") for one in (again, whole))
    assert torch.equal(ours.moments.second, theirs.moments.second)
    assert ours.moments.rows == theirs.moments.rows
    assert left(cut) == [], "nothing stays beside the output"


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_rows_that_waited_when_it_was_killed_are_read_again(tmp_path, loaded, monkeypatch):
    # Four batches of retain prompts, of which two make a group: the third waits when the run is killed.
    rows, add = [], collect._add

    def counted(waiting, sums):
        rows.append(collect._count(waiting))
        add(waiting, sums)

    with monkeypatch.context() as patch:
        patch.setattr(collect, "_add", counted)
        start(tmp_path / "counted", loaded)
    monkeypatch.setattr(collect, "SUMMED", rows[0] + rows[1])
    whole, cut = start(tmp_path / "a" / "whole", loaded), tmp_path / "b" / "cut"
    cut.parent.mkdir()
    killed(cut, loaded, "retain", 96)
    shown = []
    again = start(cut, loaded, lambda name, done, total: shown.append((name, done)))
    assert [done for name, done in shown if name == "retain"] == [96, 100]
    ours, theirs = (Base.load(one.folder / "kept" / "retain.safetensors") for one in (again, whole))
    assert torch.equal(ours.moments.second, theirs.moments.second)
    assert ours.moments.rows == theirs.moments.rows


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_other_data_settings_or_weights_take_nothing_from_it(tmp_path, loaded):
    killed(tmp_path / "cut", loaded, "retain", 64)

    def resumed(**changed):
        model = changed.pop("model", loaded)
        given = {"retain": RETAIN, "settings": SETTINGS} | changed
        place = saved_sums(tmp_path / "cut")
        return dict(changes.start(model, FORGET, reference=REFERENCE, saved=place, **given).unlearned().resumed)

    assert resumed(retain=RETAIN[1:]) == {}
    assert resumed(settings=Settings("collapse", 1, tail=2, neighbours=0, retain_weight=9.0)) == {}
    assert resumed(settings=Settings("collapse", 2, tail=2, neighbours=0)) == {}
    other = load_model(loaded.source)
    with torch.no_grad():
        other.model.model.layers[0].mlp.up_proj.weight[0] += 0.01
    assert resumed(model=other) == {}
    assert resumed() == {"retain": 64}


def test_short_runs_leave_nothing_and_a_full_disk_stops_nothing(tmp_path, monkeypatch):
    sums = {3: Moments.zeros(4).update(torch.ones(2, 4), torch.ones(2))}
    SavedSums(tmp_path / "none", every=60.0).save("key", sums, 1, 1, complete=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    blocked = SavedSums(tmp_path / "file" / "folder", every=0.0)
    blocked.save("key", sums, 1, 1, complete=False)
    assert blocked.every == float("inf")


def test_what_is_damaged_or_of_another_form_is_not_taken(tmp_path):
    sums = {3: Moments.zeros(4).update(torch.ones(2, 4), torch.ones(2))}
    place = SavedSums(tmp_path / "sums", every=0.0)
    key = digest("what", torch.ones(2))
    assert key != digest("what", torch.zeros(2))
    place.save(key, sums, 5, 2, complete=False)
    empty = {3: Moments.zeros(4)}
    assert place.restore(key, empty) == (5, 2)
    assert torch.equal(empty[3].second, sums[3].second)
    assert empty[3].rows == 2
    assert place.restore(key, {3: Moments.zeros(5)}) == (0, None)
    assert place.restore(key, {4: Moments.zeros(4)}) == (0, None)
    (path,) = (tmp_path / "sums").iterdir()
    Path(path).write_bytes(path.read_bytes()[:-9])
    assert place.restore(key, {3: Moments.zeros(4)}) == (0, None)
    place.remove()
    assert not (tmp_path / "sums").exists()


def test_the_user_sees_that_it_went_on():
    assert _resumed({}) == []
    assert "64 of the retain stage" in _resumed({"retain": 64})[0]
