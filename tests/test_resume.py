"""A pass resumed from a cached residual equals the full pass with the edit applied, and leaves no trace."""

import pytest
import torch
from architectures import random_model
from conftest import tiny_tokenizer

from lunar.edit import Edit, Factors
from lunar.errors import LunarError
from lunar.logits import answer_logits, encode_answers
from lunar.models import LoadedModel, find_sites, load_model, site_at
from lunar.passage import RowSize, passage_of
from lunar.records import Record
from lunar.select.resume import cache, padded, resumed, resumed_logits
from lunar.select.trials import Candidate
from lunar.solve import Solution

ARCHITECTURES = ("llama", "gemma", "qwen2", "gpt2", "gpt_neox", "bloom", "mistral")
RECORDS = [
    Record.of("where is word11 ?", "in the word20 city ."),
    Record.of("what is the price of the contract between word12 and word13 ?", "the word21 ."),
    Record.of("who ?", "a person"),
]


@pytest.fixture(params=ARCHITECTURES)
def loaded(request, checkpoint):
    return load_model(str(checkpoint(request.param)))


def random_solution(site, rank=2):
    generator = torch.Generator().manual_seed(3)
    return Solution(
        torch.randn(site.width, rank, generator=generator, dtype=torch.float64) / 4,
        torch.randn(rank, site.inner_width, generator=generator, dtype=torch.float64) / 4,
    )


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_resumed_pass_equals_the_edited_model(loaded, layer):
    sites, sequences = find_sites(loaded.model), encode_answers(loaded, RECORDS, "test")
    site = sites[layer]
    solution = random_solution(site)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    (batch,) = cache(loaded.model, sites, sequences)
    assert batch.sequences == tuple(sequences[index] for index in batch.indices)
    tried = resumed_logits(loaded.model, site, batch, solution, 1.5)
    plain = resumed_logits(loaded.model, site, batch)
    original = answer_logits(loaded.model, batch.sequences)
    edit = Edit((Factors.of(site.module_name, solution, site.transposed),)).scaled(1.5)
    with edit.applied(loaded.model):
        expected = answer_logits(loaded.model, batch.sequences)
    for row in range(len(RECORDS)):
        torch.testing.assert_close(tried[row], expected[row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(plain[row], original[row], rtol=1e-5, atol=1e-5)
        assert (expected[row] - original[row]).abs().max() > 1e-3, "the edit has no effect to compare"
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("architecture", ["granite", "gemma2", "mixtral"])
def test_a_resumed_pass_equals_the_edited_model_however_what_is_written_arrives(architecture):
    model = random_model(architecture)
    loaded = LoadedModel(model, tiny_tokenizer(), "test")
    site, sequences = site_at(model, 1), encode_answers(loaded, RECORDS, "test")
    passage = passage_of(model, site).sized(RowSize(0.7, 1))
    (batch,) = cache(model, [site], sequences)
    candidate = Candidate(site, random_solution(site), passage=passage)
    tried = resumed_logits(model, site, batch, candidate.solution, 1.5, passage)
    original = answer_logits(model, batch.sequences)
    with candidate.edit(loaded, 1.5).applied(model):
        expected = answer_logits(model, batch.sequences)
    for row in range(len(RECORDS)):
        torch.testing.assert_close(tried[row], expected[row], rtol=1e-4, atol=1e-4)
        assert (expected[row] - original[row]).abs().max() > 1e-3, "the edit has no effect to compare"
    torch.testing.assert_close(resumed_logits(model, site, batch)[0], original[0], rtol=1e-5, atol=1e-5)
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_only_the_layers_above_run(loaded):
    sites, sequences = find_sites(loaded.model), encode_answers(loaded, RECORDS, "test")
    (batch,) = cache(loaded.model, sites[:2], sequences)
    ran = []
    handles = [
        site.module(loaded.model).register_forward_hook(lambda *_, layer=site.layer: ran.append(layer))
        for site in sites
    ]
    resumed_logits(loaded.model, sites[1], batch)
    for handle in handles:
        handle.remove()
    assert ran == [2]
    with pytest.raises(LunarError, match="Layer 2"):
        resumed_logits(loaded.model, sites[2], batch)


def test_after_an_exception_the_model_is_as_it_was(loaded):
    site, sequences = find_sites(loaded.model)[1], encode_answers(loaded, RECORDS, "test")
    (batch,) = cache(loaded.model, [site], sequences)
    original = answer_logits(loaded.model, batch.sequences)
    attributes = [dict(module.__dict__) for module in loaded.model.modules()]
    residual = padded(batch.rows[1].residual, batch.sequences)
    with pytest.raises(LunarError, match="batch"), resumed(loaded.model, site, residual, as_tuple=batch.as_tuple):
        answer_logits(loaded.model, batch.sequences[:1])
    with pytest.raises(RuntimeError, match="mine"), resumed(loaded.model, site, residual, as_tuple=batch.as_tuple):
        raise RuntimeError("mine")
    assert [dict(module.__dict__).keys() for module in loaded.model.modules()] == [kept.keys() for kept in attributes]
    for again, first in zip(answer_logits(loaded.model, batch.sequences), original, strict=True):
        assert torch.equal(again, first)


def test_a_forward_that_somebody_else_replaced_comes_back(checkpoint):
    loaded = load_model(str(checkpoint("llama")))
    site = find_sites(loaded.model)[1]
    layer = loaded.model.model.layers[0]
    mine = layer.forward
    layer.forward = mine  # as accelerate does
    with resumed(loaded.model, site, torch.zeros(1, 1, site.width), as_tuple=False):
        assert layer.__dict__["forward"] is not mine
    assert layer.__dict__["forward"] == mine
