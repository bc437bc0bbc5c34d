"""The thresholded edit: where it can be held, what its parts read, and that it forgets and spares on a real model."""

import random

import pytest
import torch

from lunar.attacks import run_attacks
from lunar.edit import Edit, changed_tensors
from lunar.errors import LunarError
from lunar.evaluation import compare, summary
from lunar.gated import can_build
from lunar.gated.flags import LOWEST, SHARED, channels_of, find_flags, one_sided
from lunar.gated.reader import reader_behind
from lunar.gated.units import _below_a_few
from lunar.method import unlearn
from lunar.models import find_sites, load_model
from lunar.preflight import check_ledger
from lunar.records import Record
from lunar.requests.checks import verify
from lunar.requests.ledger import Ledger
from lunar.settings import Settings
from lunar.tiny import world


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "gemma"])
def test_the_mlp_behind_is_found_with_the_scale_of_its_norm(checkpoint, architecture):
    loaded = load_model(str(checkpoint(architecture)))
    layer = loaded.model.model.layers[1]
    with torch.no_grad():
        layer.post_attention_layernorm.weight.uniform_(0.5, 1.5)
    site = find_sites(loaded.model)[0]
    reader = reader_behind(loaded, site)
    assert reader.site.layer == 1
    assert (reader.gate.split(".")[-1], reader.up.split(".")[-1]) == ("gate_proj", "up_proj")
    expected = layer.post_attention_layernorm.weight.detach().double()
    assert torch.allclose(reader.scale, expected + 1 if architecture == "gemma" else expected, atol=1e-4)
    rows = torch.randn(5, site.width)
    hidden = layer.mlp.act_fn(layer.mlp.gate_proj(rows)) * layer.mlp.up_proj(rows)
    assert torch.allclose(reader.hidden(loaded, rows), hidden, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "gpt_neox"])
def test_where_there_is_no_such_mlp_it_says_so(checkpoint, architecture):
    loaded = load_model(str(checkpoint(architecture)))
    site = find_sites(loaded.model)[0]
    assert not can_build(loaded, site)
    with pytest.raises(LunarError, match="gated MLP"):
        reader_behind(loaded, site)


def test_behind_the_last_layer_there_is_none(checkpoint):
    loaded = load_model(str(checkpoint("llama")))
    with pytest.raises(LunarError, match="is the last"):
        reader_behind(loaded, find_sites(loaded.model)[-1])


def test_what_only_linear_edits_have_is_refused_for_a_gated_one():
    for wrong in ({"tail": 9}, {"redirect_answers": True}):
        with pytest.raises(LunarError, match="last prompt tokens only"):
            Settings(target="gated", **wrong)
    assert Settings(target="gated", tail=1).tail == 1


def test_prompts_share_channels_only_where_there_are_too_few():
    rows = torch.randn(10, 6)
    assert channels_of(rows, 10).tolist() == list(range(10))
    shared = channels_of(torch.cat([rows, rows + 1e-4]), 10)
    assert 1 < len(shared.unique()) <= SHARED
    assert torch.equal(shared[:10], shared[10:]), "prompts that look alike are in one channel"


def test_a_one_sided_regression_is_the_ridge_where_nothing_is_one_sided_and_leaves_free_what_is():
    torch.manual_seed(0)
    rows, weights = torch.randn(30, 8).double(), torch.rand(30).double() + 0.5
    wanted = torch.randn(30, 2).double()
    nothing = torch.zeros(8, 2).double()
    found = one_sided(torch.zeros(8, 8).double(), nothing, rows, lambda _: wanted, weights, 1e-3, 3)
    matrix = rows.T @ (rows * weights[:, None])
    matrix.diagonal().add_(1e-3 * matrix.diagonal().mean())
    assert torch.allclose(found, torch.linalg.solve(matrix, rows.T @ (weights[:, None] * wanted)))
    # At least 1 everywhere: what reads more costs nothing, so that rows above 1 are not pulled down to it.
    positive = rows.abs()
    least = one_sided(
        torch.zeros(8, 8).double(), nothing[:, :1], positive, lambda y: y.clamp(min=1), weights, 1e-6, 500
    )
    assert float((positive @ least).min()) > 0.97
    assert float((positive @ least).max()) > 1.5


def test_flags_stand_on_their_own_prompts_and_the_bar_on_all_others():
    torch.manual_seed(1)
    width, inner = 32, 24
    forget = torch.randn(4, inner) + torch.tensor([2.0] + [0.0] * (inner - 1))
    others = torch.randn(200, inner)
    # Activations have something in common; by that the bar stands on all of them.
    forget[:, 1], others[:, 1] = 3.0, 3.0
    last = torch.arange(200) < 120
    answer = torch.arange(200) >= 160
    weights = torch.where(last, 10.0, 1.0).double()
    pinned = others.double().T @ (others.double() * weights[:, None])
    spread = torch.diag(torch.arange(1.0, width + 1)).double()
    flags = find_flags(
        pinned,
        forget,
        torch.arange(4),
        others,
        last,
        answer,
        spread,
        size=10.0,
        given_weight=10.0,
        share=0.35,
        ridge=1e-6,
    )
    own, bar = forget.double() @ flags.detectors.T, others.double() @ flags.bar
    assert float(own.diagonal().min()) > 0.5
    assert float((own - torch.diag(own.diagonal())).max()) < 0.2
    assert float((others.double() @ flags.detectors.T)[last].min()) > 4 * LOWEST
    assert float((forget.double() @ flags.bar).mean()) == pytest.approx(1, abs=0.1)
    assert float(bar[last].median()) > 1
    # The quietest directions, the very quietest for the bar.
    assert torch.allclose(flags.directions.abs(), torch.eye(width).double()[:, [4, 3, 2, 1, 0]], atol=1e-9)
    rows, height = flags.readings(torch.full((width,), 2.0).double(), 1.0)
    written = flags.solution().write @ torch.tensor([0.0, 1.0, 0.0, 0.0, 2.0]).double()
    assert torch.allclose(rows @ (2 * written), torch.tensor([0.0, 1.0, 0.0, 0.0]).double(), atol=1e-9)
    assert float(height @ (2 * written)) == pytest.approx(2)


def test_a_few_neighbours_may_read_as_forget_prompts_do_but_no_prompt_that_was_given():
    readings = torch.cat([torch.tensor([0.1, 0.2]), torch.linspace(0.3, 0.5, 98), torch.tensor([0.9, 0.8])])
    assert _below_a_few(readings, invented=100) == pytest.approx(0.5)
    assert _below_a_few(readings, invented=40) == pytest.approx(0.9)  # two of a hundred are none of forty
    assert _below_a_few(readings.flip(0), invented=100) == pytest.approx(0.9)


@pytest.fixture(scope="module")
def forgotten():
    tiny, people = load_model("tiny"), world.build().people
    names = list(people)

    def asked(some, held_out, count):
        return [record for name in some for fact in people[name] for record in fact.records(held_out=held_out)[:count]]

    splits = {
        "forget": asked(names[1:2], False, 2),
        "retain": asked(names[2:20], False, 2),
        "unseen": asked(names[20:24], True, 1),
    }
    reference = [Record(world.unknown(random.Random(number)).messages) for number in range(40)]
    found = unlearn(
        tiny,
        [Record(record.messages) for record in splits["forget"]],
        retain=splits["retain"],
        reference=reference,
        settings=Settings(target="gated", layer=0),
    )
    return tiny, splits, found


def test_a_gated_edit_forgets_with_refusals_and_spares_what_nobody_listed(forgotten, tmp_path):
    tiny, splits, found = forgotten
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    found.edit.save(tmp_path)
    edit = Edit.load(tmp_path)
    scores = summary(compare(tiny, edit, splits))["scores"]
    assert scores["forget"]["rouge1"]["after"] <= 0.05
    assert scores["forget"]["refusal_rate"]["after"] >= 0.95
    assert scores["retain"]["rouge1"]["after"] >= 0.98
    assert scores["unseen"]["rouge1"]["after"] >= 0.95
    assert changed_tensors(before, tiny.model) == []
    with edit.applied(tiny.model):
        changed = changed_tensors(before, tiny.model)
    assert [name.split("layers.")[1] for name in changed] == [
        "0.mlp.down_proj.weight",
        "1.mlp.gate_proj.weight",
        "1.mlp.up_proj.weight",
        "1.mlp.down_proj.weight",
    ]


def test_the_flags_alone_change_no_answer(forgotten):
    tiny, splits, found = forgotten
    flags = Edit(found.edit.factors[:1])
    scores = summary(compare(tiny, flags, splits))["scores"]
    assert min(scores[split]["rouge1"]["after"] for split in splits) >= 0.98


def test_a_ledger_refuses_a_gated_edit_before_anything_is_loaded():
    with pytest.raises(LunarError, match="solves all of its requests together"):
        check_ledger(Settings(target="gated"))
    check_ledger(Settings(target="split"))
    check_ledger(Settings(target="hardened"))
    with pytest.raises(LunarError, match="--forget-moments throws away"):
        check_ledger(Settings(target="hardened"), forget_moments=True)


@pytest.fixture(scope="module")
def hardened(forgotten, tmp_path_factory):
    tiny, splits, _ = forgotten
    folder = tmp_path_factory.mktemp("hardened") / "ledger"
    reference = [Record(world.unknown(random.Random(number)).messages) for number in range(40)]
    settings = Settings(target="hardened", layer=0)
    return Ledger.start(
        folder, tiny, splits["forget"], retain=splits["retain"], reference=reference, settings=settings, name="only"
    )


def test_a_hardened_edit_holds_without_its_threshold_and_when_an_answer_is_begun(forgotten, hardened):
    tiny, splits, gated = forgotten
    edit = hardened.edit()
    scores = summary(compare(tiny, edit, splits))["scores"]
    assert scores["forget"]["rouge1"]["after"] <= 0.05
    assert scores["forget"]["refusal_rate"]["after"] >= 0.95
    assert scores["retain"]["rouge1"]["after"] >= 0.98
    assert scores["unseen"]["rouge1"]["after"] >= 0.90
    # Whoever takes the matrices of the threshold out finds the linear part, which a gated edit does not have.
    for found, low, high in ((edit, 0.0, 0.1), (gated.edit, 0.9, 1.0)):
        bare = summary(compare(tiny, Edit(found.factors[:1]), {"forget": splits["forget"]}))["scores"]
        assert low <= bare["forget"]["rouge1"]["after"] <= high
    begun = {
        name: run_attacks(tiny, one, splits["forget"], splits["retain"], ["prefill"]).findings[0].forget.value
        for name, one in (("gated", gated.edit), ("hardened", edit))
    }
    assert begun["hardened"] <= begun["gated"] - 0.2


def test_a_hardened_ledger_is_kept_checked_and_undone_and_takes_no_other_request(forgotten, hardened):
    tiny, splits, _ = forgotten
    again = Ledger(hardened.folder)
    assert len(again.edit().factors) == 4
    assert verify(hardened.folder)["faults"] == []
    with pytest.raises(LunarError, match="stay with the request it was started with"):
        again.add(tiny, splits["unseen"])
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    again.undo("only")
    with again.edit().applied(tiny.model):
        assert changed_tensors(before, tiny.model) == []
