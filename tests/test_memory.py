"""Batches follow the memory that is free; where it runs out, the pass goes on with half as much and the same result."""

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

import lunar.memory
from lunar.activations import capture_all
from lunar.errors import LunarError
from lunar.generation import greedy
from lunar.memory import MOST, fitting_batch, in_batches
from lunar.method import unlearn
from lunar.models import LoadedModel, site_at
from lunar.prompts import TokenSequence
from lunar.records import Record
from lunar.settings import Settings

SEQUENCES = [TokenSequence(tuple(range(4, 6 + index % 5)), 2) for index in range(11)]
OUT = (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory"))


def roomy_for(model, most, seen, error=OUT[0]):
    """The model runs out of memory in batches of more than `most`; sizes of batches are noted."""

    def refuse(module, inputs, named):
        size = len(named["input_ids"] if "input_ids" in named else inputs[0])
        seen.append(size)
        if size > most:
            raise error

    return model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)


@pytest.mark.parametrize("error", OUT)
def test_a_pass_goes_on_where_memory_runs_out(error):
    model = tiny_model("llama")
    site = site_at(model, 1)
    expected, done, sizes = capture_all(model, site, SEQUENCES), [], []
    roomy_for(model, 3, sizes, error)
    found = capture_all(model, site, SEQUENCES, progress=done.append)
    assert sizes == [11, 5, 2, 2, 2, 2, 2, 1], "halved until it fits, and not tried larger again"
    assert done == [2, 4, 6, 8, 10, 11]
    assert torch.equal(found.sequence, expected.sequence)
    torch.testing.assert_close(found.inner, expected.inner, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.residual, expected.residual, rtol=1e-5, atol=1e-6)


def test_the_edit_and_the_answers_are_the_same():
    loaded = LoadedModel(tiny_model("llama"), tiny_tokenizer(), "base")
    forget = [Record.of(f"who is word{number} ?") for number in range(30, 34)]
    retain = [Record.of(f"where is the word{number} ?", "in a city") for number in range(40, 49)]
    settings = Settings("collapse", 1, tail=2, neighbours=0)

    def edited():
        return unlearn(loaded, forget, retain=retain, reference=retain[:3], settings=settings).edit.factors[0].change()

    expected, answers = edited(), greedy(loaded.model, loaded.tokenizer, SEQUENCES, max_new_tokens=4)
    sizes = []
    handle = roomy_for(loaded.model, 2, sizes)
    torch.testing.assert_close(edited(), expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
    assert greedy(loaded.model, loaded.tokenizer, SEQUENCES, max_new_tokens=4) == answers
    assert max(sizes) > 2
    handle.remove()


def test_where_not_one_fits_it_is_said_and_other_errors_pass():
    model = tiny_model("llama")
    handle = roomy_for(model, 0, [])
    with pytest.raises(LunarError, match="one prompt at a time"):
        capture_all(model, site_at(model, 1), SEQUENCES)
    handle.remove()
    with pytest.raises(RuntimeError, match="something else"):
        list(in_batches([1, 2], 2, lambda _: (_ for _ in ()).throw(RuntimeError("something else"))))


def test_batches_are_as_large_as_memory_allows_and_no_larger_than_usual(monkeypatch):
    model, device = tiny_model("llama"), torch.device("cpu")
    sizes = []
    for free in (10**12, 10**6, 10**5, 1):
        monkeypatch.setattr(lunar.memory, "free_memory", lambda _, free=free: free)
        sizes.append(fitting_batch(model, 24, 40, device))
    assert sizes[0] == MOST
    assert sizes[-1] == 1
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 2
    assert fitting_batch(model, 24, 10, device) >= fitting_batch(model, 24, 60, device)


def test_a_container_has_the_memory_it_was_given(monkeypatch, tmp_path):
    monkeypatch.setattr(lunar.memory, "CONTROL_GROUP", tmp_path)
    whole = lunar.memory.free_memory(torch.device("cpu"))
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert lunar.memory.free_memory(torch.device("cpu")) == 600 < whole
    (tmp_path / "memory.max").write_text("max\n")
    assert lunar.memory.free_memory(torch.device("cpu")) > 600
