"""What is found with the model on a GPU is what is found in main memory, and sums lie beside the model.

The GPU is one that pretends (`pretended_gpu`): it computes on the CPU, and refuses tensors that lie elsewhere.
"""

import random

import pytest
import torch
from pretended_gpu import OnGpu, pretended_gpu

from lunar import collect, solve
from lunar.attacks.run import run_attacks
from lunar.generation import greedy
from lunar.memory import SOLVE, home_of_sums
from lunar.method import unlearn
from lunar.models import load_model
from lunar.moments import FewRows, Moments
from lunar.prompts import encode_all
from lunar.records import Record
from lunar.requests.ledger import Ledger
from lunar.settings import Settings
from lunar.tiny import world

FORGET = [Record.of("where was word11 ?"), Record.of("who is the word11 ?")]
RETAIN = [Record.of(f"who is word{n} {'of the city ' * (n % 3)}?", f"word{n + 1}") for n in range(40, 70)]
REFERENCE = [Record.of("who is word30 ?"), Record.of("what is the word31 of word32 ?")]


def test_it_refuses_what_a_gpu_refuses():
    near = torch.ones(2, 3)
    with pretended_gpu():
        far = torch.ones(2, 3, device="cuda")
        assert isinstance(far + 1, OnGpu)
        assert (far @ far.T).device.type == "cuda"
        assert far[near[:, 0] > 0].sum().item() == 6  # as on a GPU: an index may lie elsewhere
        with pytest.raises(RuntimeError, match="one device"):
            far + near
        with pytest.raises(RuntimeError, match="one device"):
            near[far[:, 0] > 0]
        with pytest.raises(TypeError, match="numpy"):
            far.numpy()
        far[:1] = near[:1]
        with pytest.raises(RuntimeError, match="one device"):
            far[far > 0] = near[near > 0]
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(2, device="cuda", generator=torch.Generator())
        assert torch.equal(far.cpu(), near)
        assert not isinstance(far.to(near), OnGpu)


@pytest.fixture
def seen(monkeypatch):
    """The devices of the sums that were solved with."""
    found = []
    original = solve.detectors
    monkeypatch.setattr(
        solve, "detectors", lambda moments, *rest: found.append(moments.device.type) or original(moments, *rest)
    )
    return found


@pytest.mark.parametrize("kind", [Moments, FewRows])
@pytest.mark.parametrize("target", ["shift", "collapse"])
def test_an_edit_is_that_of_main_memory(checkpoint, monkeypatch, seen, kind, target):
    made = kind if kind is FewRows else Moments.zeros
    monkeypatch.setattr(
        collect,
        "_sums",
        lambda work, sites, _: {one.layer: made(one.inner_width, work.home_of_sums(64, 1)) for one in sites},
    )
    loaded = load_model(str(checkpoint("llama")), device="cpu")
    settings = Settings(target, 1, 1.0, neighbours=12)
    asked = encode_all(loaded.tokenizer, FORGET, with_answer=False, context_length=None, name="forget")

    def found():
        return unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=settings)

    near = found()
    with pretended_gpu():
        loaded.model.to("cuda")
        far = found()
        with far.edit.applied(loaded.model):
            said = greedy(loaded.model, loaded.tokenizer, asked, max_new_tokens=3)
    with near.edit.applied(loaded.model.to("cpu")):
        assert said == greedy(loaded.model, loaded.tokenizer, asked, max_new_tokens=3)
    assert set(seen) == {"cpu", "cuda"}
    one, two = (each.edit.factors[0].change() for each in (near, far))
    assert torch.linalg.matrix_norm(two - one) <= 1e-5 * torch.linalg.matrix_norm(one)
    torch.testing.assert_close(far.gate.leave_one_out.cpu(), near.gate.leave_one_out, rtol=1e-4, atol=1e-6)


def test_a_solve_that_does_not_fit_after_all_is_done_in_main_memory(checkpoint, monkeypatch):
    loaded = load_model(str(checkpoint("llama")), device="cpu")
    settings = Settings("shift", 1, 1.0)
    given = {"retain": RETAIN, "reference": REFERENCE, "settings": settings}
    near = unlearn(loaded, FORGET, **given).edit.factors[0].change()
    places, originals = [], {name: getattr(solve, name) for name in ("_by_sum", "_by_products")}

    def full(name):
        def way(moments, *rest):
            places.append(moments.device.type)
            if moments.device.type == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return originals[name](moments, *rest)

        return way

    for name in originals:
        monkeypatch.setattr(solve, name, full(name))
    with pretended_gpu():
        loaded.model.to("cuda")
        far = unlearn(loaded, FORGET, **given).edit.factors[0].change()
    assert set(places) == {"cuda", "cpu"}
    assert torch.linalg.matrix_norm(far - near) <= 1e-5 * torch.linalg.matrix_norm(near)


def test_room_is_for_the_sums_and_a_solve(checkpoint):
    loaded = load_model(str(checkpoint("llama")), device="cpu")
    needed = (2 + SOLVE) * 100 * 100 * 8
    for room, device in ((needed, "cuda"), (needed - 1, "cpu")):
        with pretended_gpu(room):
            assert home_of_sums(loaded.model.to("cuda"), 100, 2).type == device
    assert home_of_sums(loaded.model.to("cpu"), 100, 2).type == "cpu"


def test_without_room_sums_lie_in_main_memory(checkpoint, seen):
    loaded = load_model(str(checkpoint("llama")), device="cpu")
    with pretended_gpu(room=1000):
        loaded.model.to("cuda")
        unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=Settings("shift", 1, 1.0))
    assert set(seen) == {"cpu"}


def test_a_ledger_keeps_its_sums_in_main_memory(checkpoint, tmp_path):
    loaded = load_model(str(checkpoint("llama")), device="cpu")

    def started(name):
        settings = Settings("shift", 1, 1.0)
        return Ledger.start(tmp_path / name, loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=settings)

    near = started("near")
    with pretended_gpu():
        loaded.model.to("cuda")
        far = started("far")
    assert far.faults() == []
    one, two = (each.edit().factors[0].change() for each in (near, far))
    assert torch.linalg.matrix_norm(two - one) <= 1e-5 * torch.linalg.matrix_norm(one)


def test_a_search_finds_what_it_finds_in_main_memory():
    tiny, people = load_model("tiny", device="cpu"), world.build().people
    person, *others = list(people)[1:5]
    forget = [Record(record.messages) for fact in people[person] for record in fact.records(held_out=False)[:1]]
    retain = [record for name in others for fact in people[name] for record in fact.records(held_out=False)[:1]]
    reference = [Record(world.unknown(random.Random(number)).messages) for number in range(20)]
    settings = Settings(neighbours=0, rewordings=0)
    near = unlearn(tiny, forget, retain=retain, reference=reference, settings=settings)
    with pretended_gpu():
        tiny.model.to("cuda")
        far = unlearn(tiny, forget, retain=retain, reference=reference, settings=settings)
    assert near.site == far.site
    assert near.edit.settings["strengths"] == far.edit.settings["strengths"]


def test_attacks_run_there(checkpoint):
    loaded = load_model(str(checkpoint("llama")), device="cpu")
    settings = Settings("shift", 1, 1.0)
    edit = unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=settings).edit
    forget = [Record(one.messages, f"word{number}") for number, one in enumerate([*FORGET, *RETAIN[20:24]], 11)]
    with pretended_gpu():
        loaded.model.to("cuda")
        ladder = run_attacks(loaded, edit, forget, RETAIN[:4], ["sampling", "steering", "scale", "soft-prompt"])
    assert [one.not_run for one in ladder.findings] == [None] * 4
