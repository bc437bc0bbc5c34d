"""The method end to end: the formula on five architectures, and what it does on the embedded model."""

import numpy as np
import pytest
import torch
from squared_hinge import detector

from lunar import evaluation
from lunar.errors import LunarError
from lunar.method import unlearn
from lunar.metrics import mean
from lunar.metrics.refusal import refusal
from lunar.metrics.rouge import rouge1
from lunar.models import load_model, site_at
from lunar.prompts import encode_all
from lunar.records import Record
from lunar.settings import ALONE, Settings
from lunar.tiny import world

ARCHITECTURES = ("llama", "qwen2", "gemma", "mistral", "gpt2")
FORGET = [Record.of("where was ada born?"), Record.of("who taught ada?")]
RETAIN = [Record.of("where is the sea?", "over there"), Record.of("who is bob?", "a man"), Record.of("what is tea?")]
REFERENCE = [Record.of("who is zorb?"), Record.of("where is the town of quix?")]


def rows_by_hand(loaded, site, records, with_answer):
    """Write-back inputs and layer outputs, one prompt at a time through the full model, by hooks of the test's own."""
    inputs, outputs, from_end = [], [], []
    handles = [
        site.module(loaded.model).register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].detach())),
        site.layer_module(loaded.model).register_forward_hook(
            lambda _, __, output: outputs.append((output[0] if isinstance(output, tuple) else output).detach())
        ),
    ]
    for sequence in encode_all(loaded.tokenizer, records, with_answer=with_answer, context_length=None, name="by hand"):
        with torch.no_grad():
            loaded.model(torch.tensor([sequence.tokens]))
        from_end.extend(sequence.prompt_length - 1 - position for position in range(len(sequence.tokens)))
    for handle in handles:
        handle.remove()

    def join(parts):
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]).double().numpy()

    return join(inputs), join(outputs), np.array(from_end)


@pytest.mark.parametrize("target", ["shift", "collapse"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edited_weights_equal_the_formula_and_nothing_else_changes(checkpoint, architecture, target):
    loaded = load_model(str(checkpoint(architecture)))
    layer, tail, ridge = 1, 2 if target == "collapse" else 1, 1e-2
    settings = Settings(
        target=target, layer=layer, tail=tail, ridge=ridge, strength=1.5, forget_weight=70.0, rewordings=0
    )
    site = site_at(loaded.model, layer)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    found = unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=settings)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"unlearn itself changed {name}"

    inner, residual, from_end = rows_by_hand(loaded, site, FORGET, with_answer=False)
    retained, _, retained_from_end = rows_by_hand(loaded, site, RETAIN, with_answer=True)
    _, referred, referred_from_end = rows_by_hand(loaded, site, REFERENCE, with_answer=False)
    redirected = from_end < tail
    if target == "shift":
        difference = referred[referred_from_end == 0].mean(0) - residual[from_end == 0].mean(0)
        wanted = np.tile(difference, (redirected.sum(), 1))
    else:
        means = np.stack([referred[referred_from_end == place].mean(0) for place in range(tail)])
        wanted = means[from_end[redirected]] - residual[redirected]
    everything = np.concatenate([inner[redirected], inner[~redirected], retained])
    targets = np.concatenate([1.5 * wanted, np.zeros((len(everything) - redirected.sum(), site.width))])
    weights = np.concatenate(
        [
            np.full(redirected.sum(), 70.0),
            np.ones((~redirected).sum()),
            np.where(retained_from_end <= 0, settings.retain_weight, 1.0),
        ]
    )
    second = everything.T @ (weights[:, None] * everything)
    second += ridge * np.diag(second).mean() * np.eye(len(second))
    change = np.linalg.solve(second, everything.T @ (weights[:, None] * targets)).T
    if target == "shift":
        ours, heavy = inner[redirected], weights[: redirected.sum()]
        found_by_hand = detector(second - ours.T * heavy @ ours, ours, heavy)
        change = 1.5 * np.outer(difference, found_by_hand)
    expected = torch.from_numpy(change.T if site.transposed else change)

    weight_name = f"{site.module_name}.weight"
    with found.edit.applied(loaded.model):
        after = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    assert [name for name in before if not torch.equal(before[name], after[name])] == [weight_name]
    actual = after[weight_name].double() - before[weight_name].double()
    assert actual.abs().max() > 1e-4
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-7)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"reverting did not restore {name}"


def test_the_same_call_gives_the_same_bytes_and_zero_strength_changes_nothing(checkpoint):
    loaded = load_model(str(checkpoint("llama")))
    edits = [unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE).edit for _ in range(2)]
    for first, second in zip(edits[0].factors, edits[1].factors, strict=True):
        assert torch.equal(first.write, second.write)
        assert torch.equal(first.read, second.read)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    with edits[0].scaled(0.0).applied(loaded.model):
        for name, tensor in loaded.model.state_dict().items():
            assert torch.equal(tensor, before[name])


def test_sets_that_cannot_be_used_are_refused(checkpoint):
    loaded = load_model(str(checkpoint("llama")))
    with pytest.raises(LunarError, match="overlap"):
        unlearn(loaded, FORGET, retain=[*RETAIN, FORGET[0]], reference=REFERENCE)
    with pytest.raises(LunarError, match="empty"):
        unlearn(loaded, [], retain=RETAIN)
    with pytest.raises(LunarError, match="layer"):
        unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=Settings(layer=99))
    with pytest.raises(LunarError, match="target"):
        Settings(target="push")
    with pytest.raises(LunarError, match="ridge"):
        Settings(ridge=-1.0)


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


@pytest.fixture(scope="module")
def people():
    return world.build().people


@pytest.mark.parametrize("target", ["shift", "collapse", "split"])
def test_a_person_is_forgotten_and_the_others_are_not(tiny, people, target):
    names = list(people)
    person, others = names[1], names[2:]
    forget = [record for fact in people[person] for record in fact.records(held_out=False)]
    retain = [record for name in others[::2] for fact in people[name] for record in fact.records(held_out=False)[:2]]
    splits = {
        "forget": forget[::3],
        "others": [fact.records(held_out=True)[0] for name in others[::3] for fact in people[name]][::4],
    }
    asked = [Record(record.messages) for record in forget]
    found = unlearn(tiny, asked, retain=retain, settings=Settings(target=target, layer=0))
    compared = evaluation.compare(tiny, found.edit, splits)
    forgotten, others_compared = compared["forget"], compared["others"]
    # Present before, gone after, and gone into a coherent refusal.
    assert mean(rouge1(forgotten.before, forgotten.records)) > 0.95
    assert mean(rouge1(forgotten.after, forgotten.records)) < 0.10
    assert mean(refusal(forgotten.after, forgotten.records)) >= 0.95
    assert mean(rouge1(others_compared.after, others_compared.records)) > 0.85
    assert found.gate.values.min() > 0.5


def test_builtin_prompts_and_neighbours_stand_in_for_a_retain_set(tiny, people):
    """The more neighbours, the less is taken along of others, whom nothing was given about."""
    person, *others = list(people)[:9]
    forget = [record for fact in people[person] for record in fact.records(held_out=False)[:2]]
    asked = [record for other in others for fact in people[other] for record in fact.records(held_out=False)[:1]]
    kept = []
    for count in (30, None):
        settings = Settings(layer=0, neighbours=count, rewordings=0)
        found = unlearn(tiny, [Record(record.messages) for record in forget], settings=settings)
        assert found.builtin_retain
        compared = evaluation.compare(tiny, found.edit, {"forget": forget, "others": asked})
        assert mean(rouge1(compared["forget"].after, forget)) < 0.10
        kept.append(mean(rouge1(compared["others"].after, asked)))
    assert found.edit.settings["neighbours"] == ALONE
    assert kept[0] < kept[1] - 0.1
    assert kept[1] > 0.95
