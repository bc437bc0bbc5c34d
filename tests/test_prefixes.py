"""What prompts begin with alike is run once: at the least cost, and with the values of the whole prompts."""

from itertools import combinations

import pytest
import torch
from architectures import ARCHITECTURES, INSTALLED, random_model
from conftest import VOCABULARY, tiny_model, tiny_tokenizer
from transformers import PreTrainedModel

import lunar.activations.calls
from lunar import collect
from lunar.activations import capture_layers, join, planned_for
from lunar.activations.prefixes import Stage, stages
from lunar.collect import Work
from lunar.logits import answer_logits
from lunar.models import LoadedModel, Site, find_sites, site_at
from lunar.moments import Moments
from lunar.prompts import TokenSequence
from lunar.records import Record
from lunar.select.resume import cache, resumed_logits

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def alike(count: int = 9) -> list[TokenSequence]:
    """Sequences that begin with the same 3, and in groups of three with the same 7 tokens."""
    generator = torch.Generator().manual_seed(5)

    def drawn(length: int) -> list[int]:
        return torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()

    first, groups = drawn(3), [drawn(4) for _ in range(3)]
    result = []
    for number in range(count):
        tokens = (*first, *groups[number % 3], *drawn(3 + number % 4))
        result.append(TokenSequence(tokens, 9 + number % 2))
    return result


@pytest.fixture(autouse=True)
def _calls_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lunar.activations.calls, "CALL", {"cpu": 0, "cuda": 0})


def run_by(model: PreTrainedModel) -> list[int]:
    """How many tokens each later call of the model is given."""
    ran: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: ran.append(inputs[0].numel()))
    return ran


SLIDING = [f"{name}, sliding" for name in ("mistral", "gemma2", "gemma3", "gpt_oss")]


def model_of(name: str) -> tuple[PreTrainedModel, Site]:
    """A random model and its site; one that is sliding sees no more than the last 4 tokens in some layers."""
    name, _, sliding = name.partition(", ")
    model = random_model(name)
    if sliding:
        model.config.sliding_window = 4
    return model, site_at(model, ARCHITECTURES[name].layer)


@pytest.mark.parametrize("name", [*INSTALLED, *SLIDING])
def test_a_prefix_that_is_run_once_has_the_values_of_every_prompt(name: str) -> None:
    (model, site), given = model_of(name), alike()
    found = sorted({site.layer: site, 0: site_at(model, 0)}.values(), key=lambda one: one.layer)
    ran = run_by(model)
    [whole] = capture_layers(model, found, given, share_prefixes=False)
    assert ran == [9 * max(len(one.tokens) for one in given)]
    for kept in ({}, {"last_only": True}, {"inner_only": True}, {"distinct": True, "inner_only": True}):
        ran.clear()
        [shared] = capture_layers(model, found, given, **kept)
        assert ran == [3, 3 * 4, 9 * 6], "the beginning, what the groups have in common, what is left"
        for number, rows in shared.items():
            every = whole[number]
            wanted = every.from_end == 0 if "last_only" in kept else torch.ones_like(every.from_end, dtype=torch.bool)
            assert (rows.row is not None) == ("distinct" in kept)
            assert rows.row is None or len(rows.inner) == 3 + 12 + sum(len(one.tokens) - 7 for one in given)
            rows = rows.expanded()
            torch.testing.assert_close(rows.inner, every.inner[wanted], **CLOSE)
            assert torch.equal(rows.sequence, every.sequence[wanted])
            assert torch.equal(rows.from_end, every.from_end[wanted])
            if "inner_only" not in kept:
                torch.testing.assert_close(rows.residual, every.residual[wanted], **CLOSE)


@pytest.mark.parametrize("name", [*INSTALLED, *SLIDING])
def test_a_resumed_pass_shares_what_prompts_begin_with(name: str) -> None:
    (model, site), given = model_of(name), alike()
    expected = answer_logits(model, given)
    [cached] = cache(model, [site], given)
    ran = run_by(model)
    found = resumed_logits(model, site, cached)
    assert ran == [3, 3 * 4, 9 * 6]
    for index, rows in zip(cached.indices, found, strict=True):
        torch.testing.assert_close(rows, expected[index], **CLOSE)


def test_a_weight_goes_to_every_token_that_a_row_stands_for() -> None:
    model, given = tiny_model("llama"), alike()
    sites = find_sites(model)[:1]
    [whole] = capture_layers(model, sites, given, share_prefixes=False)
    [shared] = capture_layers(model, sites, given, distinct=True)
    weights = torch.arange(len(whole[0].inner)).float() % 5
    inner, each, tokens = shared[0].weighted(weights)
    expected = (whole[0].inner * weights[:, None]).T @ whole[0].inner
    assert len(inner) < len(whole[0].inner)
    assert float(each.sum()) == float(weights.sum())
    torch.testing.assert_close((inner * each[:, None]).T @ inner, expected, rtol=1e-4, atol=1e-4)
    assert tokens == int((weights > 0).sum())
    torch.testing.assert_close(join([shared[0]]).inner, join([whole[0]]).inner, **CLOSE)
    plain, same, _ = whole[0].weighted(weights)
    assert torch.equal(plain, whole[0].inner[weights > 0])
    assert torch.equal(same, weights[weights > 0])


def test_sums_over_batches_are_those_of_every_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = LoadedModel(tiny_model("llama"), tiny_tokenizer(), "base")
    sites = find_sites(loaded.model)[:2]
    records = [Record.of(f"what is the word{number} of a city ?", f"word{number % 7}") for number in range(30, 90)]

    def sums(thin: int) -> dict[int, Moments]:
        found = {site.layer: Moments.zeros(site.inner_width) for site in sites}
        Work(loaded).add_pinned("retain", sites, records, found, 10.0, thin=thin)
        return found

    def whole(*given: object, **named: object) -> object:
        return capture_layers(*given, **(named | {"share_prefixes": False, "distinct": False}))

    for thin in (1, 2):
        # Two batches: added one by one, together, and from every prompt.
        shared = []
        for rows in (1, 10_000):
            monkeypatch.setattr(collect, "SUMMED", rows)
            shared.append(sums(thin))
        with monkeypatch.context() as patch:
            patch.setattr(collect, "capture_layers", whole)
            expected = sums(thin)
        for found in shared:
            for layer, one in found.items():
                assert one.rows == expected[layer].rows
                torch.testing.assert_close(one.second, expected[layer].second, rtol=1e-4, atol=1e-4)


def cost(planned: list[Stage], call: int) -> int:
    return sum(len(stage.rows) * stage.length + call for stage in planned) - call


@pytest.mark.parametrize("call", [0, 1, 4, 12, 1000])
def test_no_other_cuts_cost_less(call: int) -> None:
    tokens = [one.tokens for one in alike()] + [(1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4, 5, 9, 9, 9, 9)]
    planned = stages(tokens, call)
    lengths = range(1, min(map(len, tokens)))
    least = min(
        sum(
            len({one[:end] for one in tokens}) * (end - start) + call
            for start, end in zip((0, *cuts), cuts, strict=False)
        )
        + len(tokens) * (max(map(len, tokens)) - (cuts[-1] if cuts else 0))
        for count in range(4)
        for cuts in combinations(lengths, count)
    )
    assert cost(planned, call) == least
    assert len(planned) == 1 if call == 1000 else len(planned) > 1 or call == 12


def test_every_stage_follows_from_the_one_before() -> None:
    tokens = [one.tokens for one in alike()]
    planned = stages(tokens, 0)
    for before, stage in zip([None, *planned[:-1]], planned, strict=True):
        for row, sequence in enumerate(stage.rows):
            if before is not None:
                parent = before.rows[stage.parents[row]]
                assert tokens[parent][: before.end] == tokens[sequence][: before.end]
        for sequence, member in enumerate(stage.members):
            assert tokens[stage.rows[member]][: stage.end] == tokens[sequence][: stage.end]
    assert planned[-1].rows == tuple(range(len(tokens)))
    assert [stage.end for stage in stages(tokens, 0, most=5)[:-1]] == [3, 5]
    assert len(stages(tokens)) == 1


def test_what_cannot_go_on_from_a_prefix_reads_every_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [one.tokens for one in alike()]
    model = tiny_model("llama")
    assert len(planned_for(model, tokens)) == 3
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "_is_stateful", True, raising=False)
        assert len(planned_for(model, tokens)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(model.config, "rope_parameters", {"rope_type": "longrope"})
        assert len(planned_for(model, tokens)) == 1
    assert len(planned_for(model, tokens)) == 3

    class Own(type(model)):
        """Code that is not of transformers."""

    model.__class__ = Own
    assert len(planned_for(model, tokens)) == 1
    seeing = random_model("gemma3")
    assert len(planned_for(seeing, tokens)) == 3
    seeing.config.use_bidirectional_attention = True
    assert len(planned_for(seeing, tokens)) == 1
    hybrid = tiny_model("qwen2")
    assert len(planned_for(hybrid, tokens)) == 3
    hybrid.config.layer_types = ["linear_attention"] * len(find_sites(hybrid))
    assert len(planned_for(hybrid, tokens)) == 1
