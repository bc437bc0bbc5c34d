"""Every architecture is edited by the formula, and its exports do what the edit does; what cannot be is refused."""

from collections.abc import Sequence
from pathlib import Path

import peft
import pytest
import torch
from architectures import ARCHITECTURES, ATTENTION, INSTALLED, random_model
from conftest import tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.errors import LunarError
from lunar.export.adapter import write_adapter
from lunar.export.merged import merged_faults, write_merged
from lunar.layers import is_mixture
from lunar.logits import prompt_logits
from lunar.method import unlearn
from lunar.models import LoadedModel, Site, load_model, site_at
from lunar.passage import passage_of
from lunar.prompts import TokenSequence, encode_all
from lunar.records import Record
from lunar.requests.ledger import Ledger
from lunar.select.search import choose
from lunar.settings import Settings

FORGET = [Record.of("who is the person ?"), Record.of("where is the company of a person ?")]
RETAIN = [
    Record.of("what is the price ?", "a contract"),
    Record.of("who lives in the city ?", "the person works in a city"),
]
REFERENCE = [Record.of("who is word40 ?"), Record.of("where is the city of word41 ?")]
TAIL, RIDGE, FORGET_WEIGHT = 2, 1e-2, 70.0
SHOWN = torch.tensor([[1, 30, 31, 7, 8, 9, 10]])


class Rows:
    """What passes a site at every token of some prompts, one prompt at a time, by hooks of the test's own."""

    def __init__(self, model: PreTrainedModel, site: Site, records: list[Record], with_answer: bool = False) -> None:
        self.seen: dict[str, list[Tensor]] = {"input": [], "inner": [], "written": [], "output": []}
        layer, matrix = site.layer_module(model), site.module(model)

        def into(name: str, value: Tensor) -> None:
            self.seen[name].append(value.detach().reshape(-1, value.shape[-1]).double())

        def first(value):
            return value[0] if isinstance(value, tuple) else value

        handles = [
            layer.register_forward_pre_hook(
                lambda _, inputs, named: into("input", inputs[0] if inputs else named["hidden_states"]),
                with_kwargs=True,
            ),
            matrix.register_forward_pre_hook(lambda _, inputs: into("inner", inputs[0])),
            matrix.register_forward_hook(lambda _, __, output: into("written", output)),
            layer.register_forward_hook(lambda _, __, output: into("output", first(output))),
        ]
        sequences = encode_all(tiny_tokenizer(), records, with_answer=with_answer, context_length=None, name="by hand")
        for one in sequences:
            with torch.no_grad():
                model(input_ids=torch.tensor([one.tokens]))
        for handle in handles:
            handle.remove()
        joined = {name: torch.cat(parts) for name, parts in self.seen.items()}
        self.inner, self.written = joined["inner"], joined["written"]
        # Before the layer's MLP, the stream is what came in and what the attention adds.
        self.residual = joined["input"] + joined["written"] if site.part == ATTENTION else joined["output"]
        self.from_end = torch.tensor(
            [one.prompt_length - 1 - place for one in sequences for place in range(len(one.tokens))]
        )


def size(rows: Tensor) -> Tensor:
    return rows.square().mean(-1, keepdim=True).sqrt()


def gain(name: str, model: PreTrainedModel, site: Site) -> Tensor:
    """What the architecture's own weights and settings say of the way to the residual stream."""
    known = ARCHITECTURES[name]
    if known.norm is None:
        return torch.full((site.width,), known.factor, dtype=torch.float64)
    weight = site.layer_module(model).get_submodule(known.norm[0]).weight
    return weight.detach().double() + known.norm[1]


def wanted_change(name: str, model: PreTrainedModel, site: Site) -> Tensor:
    """ΔW [d, m] of a collapse, solved directly in float64 from rows captured by hand."""
    forget, retain = Rows(model, site, FORGET), Rows(model, site, RETAIN, with_answer=True)
    reference = Rows(model, site, REFERENCE)
    redirected = forget.from_end < TAIL
    means = torch.stack([reference.residual[reference.from_end == place].mean(0) for place in range(TAIL)])
    targets = means[forget.from_end[redirected]] - forget.residual[redirected]
    inner = torch.cat([forget.inner[redirected], forget.inner[~redirected], retain.inner])
    weights = torch.ones(len(inner), dtype=torch.float64)
    weights[: len(targets)] = FORGET_WEIGHT
    weights[-len(retain.inner) :][retain.from_end <= 0] = Settings().retain_weight
    second = inner.T @ (inner * weights[:, None])
    second += RIDGE * second.diagonal().mean() * torch.eye(len(second), dtype=torch.float64)
    arriving = torch.linalg.solve(second, (forget.inner[redirected] * FORGET_WEIGHT).T @ targets).T
    last = (reference.from_end >= 0) & (reference.from_end < TAIL)
    typical = size(reference.written[last]).mean() if ARCHITECTURES[name].norm else 1.0
    return (typical / gain(name, model, site))[:, None] * arriving


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=SHOWN).logits


@pytest.mark.parametrize("name", INSTALLED)
def test_an_architecture_is_edited_by_the_formula_and_exported(name: str, tmp_path: Path) -> None:
    known, model = ARCHITECTURES[name], random_model(name)
    site = site_at(model, known.layer)
    assert (site.module_name, site.part) == (known.name.format(known.layer), known.part)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    expected = wanted_change(name, model, site)
    settings = Settings("collapse", known.layer, 1.0, RIDGE, TAIL, forget_weight=FORGET_WEIGHT, neighbours=0)
    loaded = LoadedModel(model, tiny_tokenizer(), "base")
    edit = unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=settings).edit

    plain, still = logits(model), Rows(model, site, FORGET)
    with edit.applied(model):
        weight = f"{site.module_name}.weight"
        after = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        edited, moved = logits(model), Rows(model, site, FORGET)
    assert {key for key in before if not torch.equal(before[key], after[key])} == {weight}
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    change = after[weight].double() - before[weight].double()
    change = change.T if site.transposed else change
    torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))

    wrote = still.written + still.inner @ expected.T
    come, came = (wrote / size(wrote), still.written / size(still.written)) if known.norm else (wrote, still.written)
    arrived = gain(name, model, site) * (come - came)
    close = 2e-3 * float(arrived.abs().max())
    torch.testing.assert_close(moved.residual - still.residual, arrived, rtol=0, atol=close)
    assert (edited - plain).abs().max() > 1e-3

    source, merged, adapter = (tmp_path / part for part in ("source", "merged", "adapter"))
    model.save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    for folder in (merged, adapter):
        folder.mkdir()
    write_adapter(adapter, edit, "base", mixture=is_mixture(model))
    adapted = peft.PeftModel.from_pretrained(model, str(adapter))
    torch.testing.assert_close(logits(adapted), edited, rtol=0, atol=1e-4)
    adapted.unload()
    write_merged(source, merged, edit)
    assert not merged_faults(source, merged, edit)
    torch.testing.assert_close(logits(load_model(merged, device="cpu").model), edited, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("llama", "direct"), ("granite", "scaled"), ("olmo2", "normalised")])
def test_how_what_is_written_arrives_is_found_in_16_bits_too(name: str, kind: str) -> None:
    model = random_model(name)
    exact = passage_of(model, site_at(model, 1))
    rough = passage_of(model.bfloat16(), site_at(model, 1))
    assert exact.kind == rough.kind == kind
    torch.testing.assert_close(exact.gain, gain(name, random_model(name), site_at(model, 1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rough.gain, exact.gain, rtol=0.05, atol=0.02)


def test_a_norm_that_happens_to_keep_the_size_is_not_taken_for_none() -> None:
    model = random_model("olmo2")
    for layer in model.model.layers:
        torch.nn.init.ones_(layer.post_feedforward_layernorm.weight)
    assert passage_of(model, site_at(model, 1)).kind == "normalised"


@pytest.mark.parametrize("name", ["llama", "olmo2"])
def test_how_what_is_written_arrives_is_found_where_memory_is_short(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(name)
    expected = passage_of(model, site_at(model, 1))
    monkeypatch.setattr("lunar.memory.free_memory", lambda device: 0)
    found = passage_of(model, site_at(model, 1))
    assert found.kind == expected.kind
    torch.testing.assert_close(found.gain, expected.gain, rtol=1e-4, atol=1e-5)


class Squared(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows.square()


def test_what_cannot_be_followed_is_refused_by_name_and_reason() -> None:
    settings = Settings(layer=1, neighbours=0)
    strange = {
        "neither a factor nor a norm": ("gemma2", "post_feedforward_layernorm", Squared()),
        "rescales what the attention writes": ("mixtral", "self_attn.o_proj", None),
        "nothing of what it writes arrives": ("olmo2", "post_feedforward_layernorm", None),
    }
    for reason, (name, place, instead) in strange.items():
        model = random_model(name)
        module = model.model.layers[1].get_submodule(place)
        if instead is not None:
            module.forward = instead.forward
        elif name == "olmo2":
            torch.nn.init.zeros_(module.weight)
        else:
            attention = model.model.layers[1].self_attn
            attention.register_forward_hook(lambda _, __, output: (output[0] * 2, *output[1:]))
        loaded = LoadedModel(model, tiny_tokenizer(), "base")
        with pytest.raises(LunarError, match=rf"model\.layers\.1\..*{reason}"):
            unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=settings)


def test_an_edit_that_changes_nothing_is_an_error() -> None:
    loaded = LoadedModel(tiny_model("llama"), tiny_tokenizer(), "base")
    none = Settings(layer=1, strength=0.0, neighbours=0)
    with pytest.raises(LunarError, match="changes nothing"):
        unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=none)
    lost = Settings(layer=1, strength=1e-6, neighbours=0)
    loaded.model.bfloat16()
    with pytest.raises(LunarError, match="changes nothing"):
        unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=lost)


def test_an_edit_that_breaks_the_model_for_any_prompt_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = LoadedModel(tiny_model("llama"), tiny_tokenizer(), "base")

    seen: list[int] = []

    def broken(model: nn.Module, sequences: Sequence[TokenSequence]) -> Tensor:
        """The first prompt before and after the edit, and only then the second."""
        seen.append(len(sequences))
        return prompt_logits(model, sequences) / (0.0 if len(seen) == 3 else 1.0)

    monkeypatch.setattr("lunar.method.prompt_logits", broken)
    with pytest.raises(LunarError, match="finite numbers"):
        unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=Settings(layer=1, neighbours=0))


@pytest.mark.parametrize("name", ["gemma2", "qwen3_moe"])
def test_a_ledger_of_such_a_model_holds_what_unlearn_finds_and_undo_needs_no_model(name: str, tmp_path: Path) -> None:
    loaded = LoadedModel(random_model(name), tiny_tokenizer(), "base")
    settings = Settings("collapse", 1, 1.0, RIDGE, TAIL, neighbours=0)
    ledger = Ledger.start(tmp_path / "ledger", loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=settings)
    once = unlearn(loaded, FORGET, retain=RETAIN, reference=REFERENCE, settings=settings).edit
    first = ledger.edit().factors[0]
    torch.testing.assert_close(first.change(), once.factors[0].change(), rtol=1e-4, atol=1e-6)
    again = ledger.add(loaded, [Record.of("what is the contract between word50 and word51 ?")])
    assert not torch.equal(ledger.edit().factors[0].read, first.read)
    Ledger(tmp_path / "ledger").undo(again.name)
    assert torch.equal(Ledger(tmp_path / "ledger").edit().factors[0].write, first.write)


def test_the_layer_is_searched_for_in_models_that_do_not_write_straight() -> None:
    for name in ("gemma3", "mixtral"):
        loaded = LoadedModel(random_model(name), tiny_tokenizer(), "base")
        choice = choose(loaded, FORGET, RETAIN, REFERENCE, Settings(neighbours=0), refuse=False)
        assert choice.trials
        assert 0 <= choice.layer < 3
