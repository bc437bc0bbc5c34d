"""A trial reads what the edited model would give; several layers in one pass are what one layer at a time gives."""

import math

import pytest
import torch

from lunar.activations import capture_all, capture_layers, join
from lunar.collect import Sets, Work, collect, edit_of
from lunar.edit import Edit, Factors
from lunar.errors import LunarError
from lunar.likelihood import divergences, likelihoods
from lunar.models import find_sites, load_model
from lunar.prompts import encode_all
from lunar.records import Record
from lunar.select.own_words import OwnWords
from lunar.select.trials import Bench, Candidate
from lunar.settings import Settings
from lunar.solve import Solution

FORGET = [Record.of(f"where is word{number} ?") for number in range(11, 15)]
RETAIN = [Record.of(f"who works in the word{number} city ?", "word31 and word32 .") for number in range(20, 26)]
ANSWERS = ["in the city .", "the word41 contract .", "a person and a company named word42 .", "word43 ."]
REFUSALS = ["who is word50 ?", "the price is word51 .", "a person lives in the city of word52 .", ""]


@pytest.fixture(params=["llama", "gpt2"])
def loaded(request, checkpoint):
    return load_model(str(checkpoint(request.param)))


def test_probabilities_and_divergence_are_those_of_the_edited_model(loaded):
    sites = find_sites(loaded.model)
    site = sites[1]
    solution = Solution(torch.randn(site.width, 1).double() / 4, torch.randn(1, site.inner_width).double() / 4)
    # Five tokens at most are compared, as many of each, the end of the turn among them.
    lengths = [min(5, *(len(text.split()) + 1 for text in pair)) for pair in zip(ANSWERS, REFUSALS, strict=True)]
    words = OwnWords(tuple(FORGET), tuple(ANSWERS), tuple(REFUSALS), 0.0, 1.0, 2, 0)
    bench = Bench(loaded, sites, words, RETAIN)
    heard = bench.forget(Candidate(site, solution), 2.0)
    assert bench.compared == tuple(FORGET)
    edit = Edit((Factors.of(site.module_name, solution, site.transposed),)).scaled(2.0)
    with edit.applied(loaded.model):
        expected, firsts = [], []
        for texts in (ANSWERS, REFUSALS):
            records = [Record(r.messages, text) for r, text in zip(FORGET[:3], texts, strict=False)]
            found = [one.log_probabilities.double() for one in likelihoods(loaded, records)]
            expected.append([math.exp(float(one[:n].sum())) for one, n in zip(found, lengths, strict=False)])
            # "the word41", "the price" and "a person and", "a person lives" do not part at once.
            firsts.append([math.exp(float(one[place])) for one, place in zip(found, (0, 1, 2), strict=True)])
        # An empty refusal is the end of the turn, and one token is compared with one.
        last = likelihoods(loaded, [Record(FORGET[3].messages, "word43"), Record(FORGET[3].messages, "</s>")])
        expected[0].append(math.exp(float(last[0].log_probabilities[0])))
        expected[1].append(math.exp(float(last[1].log_probabilities[0])))
    assert heard.own.tolist() == pytest.approx(expected[0], rel=1e-3)
    assert heard.refusal.tolist() == pytest.approx(expected[1], rel=1e-3)
    assert heard.own_first[:3].tolist() == pytest.approx(firsts[0], rel=1e-3)
    assert heard.refusal_first[:3].tolist() == pytest.approx(firsts[1], rel=1e-3)
    known = divergences(loaded, lambda: edit.applied(loaded.model), RETAIN)
    measured, nothing = (bench.divergence(Candidate(site, solution), strength) for strength in (2.0, 0.0))
    assert measured == pytest.approx(sum(known) / len(known), rel=1e-3)
    assert measured > 1e-4
    assert nothing < 1e-6


def test_several_layers_in_one_pass_are_what_one_at_a_time_gives(loaded):
    sites = find_sites(loaded.model)
    sequences = encode_all(loaded.tokenizer, RETAIN, with_answer=True, context_length=None, name="test")
    together = list(capture_layers(loaded.model, sites, sequences, batch_size=4))
    last = list(capture_layers(loaded.model, sites, sequences, batch_size=4, last_only=True))
    for site in sites:
        alone = capture_all(loaded.model, site, sequences, batch_size=4)
        rows = join([batch[site.layer] for batch in together])
        only = join([batch[site.layer] for batch in last])
        for name in ("inner", "residual", "sequence", "from_end"):
            assert torch.equal(getattr(rows, name), getattr(alone, name))
            assert torch.equal(getattr(only, name), getattr(alone, name)[alone.from_end == 0])
    with pytest.raises(LunarError, match="At least one layer"):
        next(capture_layers(loaded.model, [], sequences))


def test_several_problems_at_once_have_the_bytes_of_one_and_thinned_ones_keep_what_weighs_most(loaded):
    sites, settings = find_sites(loaded.model), Settings(target="collapse", tail=2)
    sets = Sets(FORGET, RETAIN, FORGET[:0], [Record.of("who is word60 ?")])
    together = collect(Work(loaded), sites, sets, settings)
    for site in sites:
        alone = collect(Work(loaded), [site], sets, settings)[site.layer]
        assert torch.equal(alone.sums().second, together[site.layer].sums().second)
        one, two = (
            edit_of(loaded, site, problem.solve(settings), {}, 1.0) for problem in (alone, together[site.layer])
        )
        assert torch.equal(one.factors[0].write, two.factors[0].write)
    thinned = collect(Work(loaded), sites, sets, settings, thin=3)[1].sums()
    full = together[1].sums()
    heavy = sum(len(record.answer.split()) + 2 for record in RETAIN)
    assert heavy < thinned.rows < full.rows
    assert float(thinned.second.trace() / full.second.trace()) == pytest.approx(1.0, abs=0.15)
