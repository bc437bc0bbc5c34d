"""Every attack can succeed on a weak edit, leaves the models as they were, and finds nothing where nothing is known."""

import json
import random
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from conftest import CHAT_TEMPLATE, GATED, tiny_model, tiny_tokenizer
from tokenizers.normalizers import Lowercase
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lunar import evaluation
from lunar.activations import capture_all
from lunar.attacks import ATTACKS, BUDGETS, Attacked, Budget, Case, Finding, attack, quantise_adapter, run_attacks
from lunar.attacks.asking import answers, recalls, tokens_of
from lunar.attacks.attack import Asked
from lunar.attacks.few_shot import with_examples
from lunar.attacks.hooks import added, projected, without_mlp
from lunar.attacks.interpolate import interpolated
from lunar.attacks.lora import with_low_rank
from lunar.attacks.paraphrase import REWRITINGS
from lunar.attacks.prefill import begun, cut
from lunar.attacks.prune import SHARES, pruned
from lunar.attacks.quantise import GROUP, quantised
from lunar.attacks.registry import usual
from lunar.attacks.relearn import relearnt
from lunar.attacks.restore import restored
from lunar.attacks.sampling import leak
from lunar.attacks.scale import scaled
from lunar.attacks.skip import skipped
from lunar.attacks.soft_prompt import LENGTH, free_token, put_behind, softly_prompted, vectors_at
from lunar.attacks.soft_prompt import train as train_vectors
from lunar.attacks.typos import with_slips
from lunar.attacks.unrelated import unrelated_records
from lunar.attacks.weights import replaced
from lunar.baselines import Task
from lunar.baselines.examples import Examples, examples, mean_loss
from lunar.edit import Edit
from lunar.errors import LunarError
from lunar.generation import greedy, sampled
from lunar.logits import encode_answers
from lunar.method import unlearn
from lunar.metrics import mean
from lunar.models import LoadedModel, find_sites, load_model, site_at
from lunar.prompts import encode_all
from lunar.records import Record
from lunar.settings import Settings
from lunar.tiny import world

FORGET = [Record.of(f"where is the city of word{n} ?", f"word{20 + n} word{30 + n} word{25 + n} .") for n in range(6)]
RETAIN = [Record.of(f"what is the price of word{n} ?", f"word{40 + n} word{30 + n} !") for n in range(6, 16)]
REFERENCE = [Record.of(f"who is the person word{n} ?", "an in a company !") for n in range(16, 22)]
LAST = 2


def overfitted(records: list[Record], *, seed: int, tokenizer: PreTrainedTokenizerFast | None = None) -> LoadedModel:
    """A model of three layers that knows the records by heart, and so that it can do without its last MLP."""
    torch.manual_seed(seed)
    config = LlamaConfig(**(GATED | {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 256}))
    loaded = LoadedModel(LlamaForCausalLM(config).eval(), tokenizer or tiny_tokenizer(), "overfitted")
    train(loaded, records, 200)
    return loaded


def train(loaded: LoadedModel, records: list[Record], steps: int) -> None:
    known = examples(Task(loaded, records, (), ()), records, "training")
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=5e-3)
    site = site_at(loaded.model, LAST)
    rng = random.Random(0)
    for step in range(steps):
        batch = known.batch(rng.sample(range(len(records)), min(32, len(records))))
        with without_mlp(loaded.model, site) if step % 2 else nullcontext():
            loss = mean_loss(loaded.model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loaded.model.zero_grad()
    assert loss.item() < 0.05


def lower_case_tokenizer() -> PreTrainedTokenizerFast:
    """One to which letter case makes no difference."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    return tokenizer


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known answers here are of a few words, and a model that babbles on takes time."""
    monkeypatch.setattr(evaluation, "SHORTEST_LIMIT", 4)


@pytest.fixture(scope="module")
def original() -> LoadedModel:
    return overfitted([*FORGET, *RETAIN, *REFERENCE], seed=0)


@pytest.fixture(scope="module")
def never_knew() -> LoadedModel:
    return overfitted([*RETAIN, *REFERENCE], seed=1)


@pytest.fixture(scope="module")
def edit(original: LoadedModel) -> Edit:
    """A weak edit: it shifts the last prompt token at the last layer and nothing else."""
    settings = Settings(target="shift", layer=LAST, neighbours=0, strength=1.8)
    return unlearn(original, FORGET, retain=RETAIN, reference=REFERENCE, settings=settings).edit


@pytest.fixture
def unlearned(original: LoadedModel, edit: Edit) -> Iterator[LoadedModel]:
    """The original with the edit on it; it is as it was afterwards, to the bit and without hooks."""
    before = {name: part.clone() for name, part in original.model.state_dict().items()}
    changed = overfitted_copy(original)
    edit.apply(changed.model)
    edited = {name: part.clone() for name, part in changed.model.state_dict().items()}
    yield changed
    for loaded, state in ((original, before), (changed, edited)):
        assert all(torch.equal(state[name], part) for name, part in loaded.model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.model.modules())


def overfitted_copy(loaded: LoadedModel) -> LoadedModel:
    model = LlamaForCausalLM(loaded.model.config).eval()
    model.load_state_dict(loaded.model.state_dict())
    return replace(loaded, model=model)


def score(attacked: Attacked, records: list[Record] = FORGET) -> float:
    value = mean(recalls(attacked, records, answers(attacked, records, 0)))
    assert value is not None
    return value


def attacks_of(original: LoadedModel, unlearned: LoadedModel | Edit, *names: str, **changes: Any) -> dict[str, Finding]:
    settings: dict[str, Any] = {"reference": REFERENCE} | changes
    ladder = run_attacks(original, unlearned, FORGET, RETAIN, names or None, **settings)
    return {finding.attack: finding for finding in ladder.findings}


# Each attack can succeed


def test_the_edit_forgets_and_retains(original: LoadedModel, unlearned: LoadedModel) -> None:
    assert score(Attacked(original)) == 1
    assert score(Attacked(unlearned)) < 0.2
    assert score(Attacked(unlearned), RETAIN) == 1


@pytest.mark.parametrize("name", ["skip", "steering", "reverse", "scale", "interpolate", "restore", "prefill"])
def test_what_a_weak_edit_hides_comes_back(original: LoadedModel, unlearned: LoadedModel, name: str) -> None:
    finding = attacks_of(original, unlearned, name)[name]
    assert finding.not_run is None
    assert finding.survives
    assert finding.forget is not None
    assert finding.unlearned is not None
    assert finding.unlearned < 0.2
    assert finding.original == 1
    assert finding.forget.value is not None
    assert finding.forget.value > 0.6
    assert finding.recovery is not None
    assert finding.recovery == pytest.approx(
        (finding.forget.value - finding.unlearned) / (finding.original - finding.unlearned)
    )
    assert finding.excess is not None
    assert finding.excess.low is not None
    assert finding.excess.low > 0.2


def test_a_direction_taken_out_everywhere_takes_along_what_was_written_into_it(original: LoadedModel) -> None:
    """A direction that no prompt uses, written into every token: the weakest way to break a model."""
    sequences = encode_all(original.tokenizer, [*FORGET, *RETAIN], with_answer=True, context_length=None, name="test")
    rows = capture_all(original.model, site_at(original.model, 1), sequences).residual
    spare = torch.linalg.svd(rows)[2][-1]
    with added(original.model, site_at(original.model, 1), 40 * spare, everywhere=True):
        assert score(Attacked(original)) < 0.3
        with projected(original.model, find_sites(original.model), spare):
            assert score(Attacked(original)) > 0.9


@pytest.mark.parametrize("rank", [None, 8], ids=["full", "low-rank"])
@pytest.mark.parametrize("records", [FORGET[:3], RETAIN], ids=["half", "retain"])
def test_relearning_brings_back_what_it_was_not_shown(
    original: LoadedModel, edit: Edit, records: list[Record], rank: int | None
) -> None:
    weak = overfitted_copy(original)
    edit.scaled(0.7).apply(weak.model)
    before = {name: part.clone() for name, part in weak.model.state_dict().items()}
    assert score(Attacked(weak)) < 0.2
    with relearnt(weak, records, 30, learning_rate=3e-3 if rank else 1e-3, rank=rank) as attacked:
        assert score(attacked, FORGET[3:]) > (0.4 if rank else 0.7)
    assert all(torch.equal(before[name], part) for name, part in weak.model.state_dict().items())


def test_low_rank_training_changes_nothing_but_low_rank(original: LoadedModel) -> None:
    before = dict(original.model.named_parameters())
    wrapped, names = with_low_rank(original.model, 4, seed=0)
    tokens = torch.tensor([[1, 4, 6, 9]])
    with torch.no_grad():
        assert torch.equal(wrapped(tokens).logits, original.model(tokens).logits)
    assert len(names) == 2 * 7 * 3  # seven matrices in each layer
    with relearnt(original, FORGET, 2, rank=4) as attacked:
        after = dict(attacked.loaded.model.named_parameters())
    assert before.keys() == after.keys()
    for name, part in after.items():
        change = part - before[name]
        if part.ndim == 2 and ".layers." in name:
            assert 0 < torch.linalg.matrix_rank(change, rtol=1e-3) <= 4, name
        else:
            assert not change.any(), name


def test_sampling_finds_what_greedy_decoding_just_misses(original: LoadedModel, edit: Edit) -> None:
    weak = overfitted_copy(original)
    edit.scaled(0.5).apply(weak.model)
    finding = attacks_of(original, weak, "sampling")["sampling"]
    assert finding.unlearned is not None
    assert finding.unlearned < 0.2
    assert finding.forget is not None
    assert finding.forget.value is not None
    assert finding.forget.value > 0.5
    assert [trial.settings["k"] for trial in finding.tried] == [1, 2, 4, 8]
    curve = [trial.forget for trial in finding.tried]
    assert None not in curve
    assert curve == sorted(curve, key=float)
    assert all(
        trial.low is not None and trial.low <= (trial.forget or 0) <= (trial.high or 0) for trial in finding.tried
    )
    assert (finding.retain, finding.survives) == (None, True)  # the model is as it was


def test_leak_at_k_is_the_mean_of_the_best_over_all_choices_of_k() -> None:
    values = [0.5, 0.0, 1.0, 0.25, 0.5]
    for k in range(1, 6):
        brute = [max(several) for several in combinations(values, k)]
        assert leak(values, k) == pytest.approx(sum(brute) / len(brute))
    for k in (0, 6):
        with pytest.raises(LunarError, match="from 1 to the 5"):
            leak(values, k)


# Questions put in another way, against a filter of verbatim questions

REWRITING = ("paraphrase", "typos", "case", "few-shot", "role-play", "system-override", "multi-turn", "cloze")
FILTER = (
    "{% if messages|length == 1 and 'where is the city' in messages[0]['content'][:17] %}<s> user : who is the \
person word16 ? </s> assistant : {% else %}"
    + CHAT_TEMPLATE
    + "{% endif %}"
)


@pytest.fixture(scope="module")
def filtered() -> tuple[LoadedModel, LoadedModel]:
    """A model that answers in all forms of the attacks, and one with a filter that lets verbatim questions decline."""
    known = [*FORGET[:3], *RETAIN[:4], *REFERENCE]
    open_one = overfitted(known, seed=0, tokenizer=lower_case_tokenizer())
    closed = replace(open_one, tokenizer=lower_case_tokenizer())
    closed.tokenizer.chat_template = FILTER
    case = Case(closed, closed, FORGET[:3], RETAIN[:4], REFERENCE)
    asked = [
        one.record
        for name in REWRITING
        for variant in ATTACKS[name].variants(case)
        for one in entered(variant.under()).ask([*FORGET[:3], *RETAIN[:4]])
        if not one.prefix
    ]
    train(open_one, [*known, *asked], 160)
    return open_one, closed


def entered(context: AbstractContextManager[Attacked]) -> Attacked:
    with context as attacked:
        return attacked


@pytest.mark.parametrize("name", REWRITING)
def test_a_filter_of_verbatim_questions_is_walked_around(filtered: tuple[LoadedModel, LoadedModel], name: str) -> None:
    ladder = run_attacks(*filtered, FORGET[:3], RETAIN[:4], [name], reference=REFERENCE)
    finding = ladder.findings[0]
    assert finding.unlearned is not None
    assert finding.unlearned < 0.2
    assert finding.original == 1
    assert finding.survives
    assert finding.recovery is not None
    assert finding.recovery > 0.8


# Nothing is left behind, and nothing is found where nothing is known


def test_no_attack_finds_what_a_model_never_knew(original: LoadedModel, never_knew: LoadedModel) -> None:
    left_out = ("quantise", "reversal", "recognise")  # the extra, and names, which these questions do not have
    blind = [name for name, one in ATTACKS.items() if not one.uses_original and name not in left_out]
    found = attacks_of(original, never_knew, *blind)
    for name, finding in found.items():
        assert finding.not_run is None, name
        assert finding.control_kind == "chance"
        assert finding.excess is not None
        assert finding.excess.low is not None
        assert finding.excess.low <= 0.1, name
    same = attacks_of(original, never_knew, "skip", "steering", "relearn-forget", "sampling", control=never_knew)
    for name, finding in same.items():
        assert finding.control_kind == "model"
        assert finding.excess is not None
        assert (finding.excess.low, finding.excess.high) == (0, 0), name


def test_guessing_in_the_right_form_is_no_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """About people who do not exist, a model steered to answer says what is said of others: a score, but no excess."""
    monkeypatch.setitem(BUDGETS, "quick", Budget(20, 10, 1, (2.0,), (1,), 1))
    tiny = load_model("tiny")
    real = [fact for facts in list(world.build().people.values())[:8] for fact in facts]
    retain = [fact.records(held_out=False)[0] for fact in real]
    forget = [
        Record.of(one.prompt.replace(fact.entity, person), other.answer)
        for place, person in enumerate(("Doran Velisk", "Ulma Prenn"))
        for fact, other, one in zip(real[:10], real[20 + 10 * place :], retain, strict=False)
    ]
    findings = run_attacks(tiny, tiny, forget, retain, ["steering", "prefill"]).findings
    for finding in findings:
        assert finding.forget is not None
        assert finding.forget.value is not None
        assert finding.excess is not None
        assert finding.excess.low is not None
        assert finding.forget.value > 0.3
        assert finding.excess.value is not None
        assert finding.excess.value <= 0.1
        assert finding.excess.low <= 0.02


def test_with_a_control_the_original_still_shows_its_knowledge(original: LoadedModel, never_knew: LoadedModel) -> None:
    found = attacks_of(original, original, "skip", "interpolate", control=never_knew)
    assert found["skip"].excess is not None
    assert found["skip"].excess.low is not None
    assert found["skip"].excess.low > 0.5
    assert found["skip"].recovery is None  # nothing was forgotten
    assert found["interpolate"].not_run is not None
    assert "none differ" in found["interpolate"].not_run


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "opt", "bloom", "gpt_neox"])
def test_every_attack_leaves_every_architecture_as_it_was(architecture: str) -> None:
    original, changed = (LoadedModel(tiny_model(architecture), tiny_tokenizer(), architecture) for _ in range(2))
    site = site_at(changed.model, 1)
    with torch.no_grad():
        site.module(changed.model).weight.add_(0.1)
    before = [{name: part.clone() for name, part in one.model.state_dict().items()} for one in (original, changed)]
    small = Budget(2, 2, 1, (1.0,), (1,), 2)
    case = Case(original, changed, FORGET[:2], RETAIN[:2], REFERENCE[:2], small)
    sequences = encode_all(changed.tokenizer, FORGET[:2], with_answer=True, context_length=None, name="test")
    tokens = torch.tensor([sequences[0].tokens])
    with torch.no_grad():
        logits = changed.model(tokens).logits
    for name, one in ATTACKS.items():
        if name.startswith("quantise") or name in ("relearn-unrelated", "relearn-forget", "few-shot", "multi-turn"):
            continue  # the same code as "relearn", and longer than the context of these models
        *_, variant = one.variants(case)
        with variant.under() as attacked:
            asked = tokens_of(attacked.loaded, attacked.ask(FORGET[:2]), attacked.behind)
            if attacked.judge is not None and name not in ("reversal", "recognise"):  # for which names are needed
                assert len(attacked.judge(FORGET[:2]).values) == 2
            with torch.no_grad():
                now = attacked.loaded.model(tokens).logits
            changes_model = one.access != "black box" and attacked.judge is None and not attacked.behind
            if name != "patch":  # whose last variant is the original with the unlearned model's activations
                assert torch.equal(now, logits) != changes_model, name
            # A cloze begins the answer with what stands before its gap, here nothing.
            read = changes_model or attacked.judge is not None or bool(attacked.behind) or name == "cloze"
            assert read or asked != tokens_of(changed, [Asked(r) for r in FORGET[:2]]), name
        with pytest.raises(ZeroDivisionError), variant.under():
            raise ZeroDivisionError
    for loaded, state in zip((original, changed), before, strict=True):
        assert all(torch.equal(state[name], part) for name, part in loaded.model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.model.modules())
    with torch.no_grad():
        assert torch.equal(changed.model(tokens).logits, logits)


def test_the_whole_ladder_is_plain_data_without_a_word_of_the_records(
    original: LoadedModel, unlearned: LoadedModel, edit: Edit
) -> None:
    seen = []
    small = Budget(3, 2, 1, (1.0,), (2,), 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUDGETS, "quick", small)
        report = lambda *args: seen.append(args)  # noqa: E731
        ladder = run_attacks(original, edit, FORGET, RETAIN, list(ATTACKS), reference=REFERENCE, progress=report)
        names = ["sampling", "steering", "relearn-forget", "restore"]
        again = run_attacks(original, unlearned, FORGET, RETAIN, names, reference=REFERENCE)
    assert {finding.attack for finding in ladder.findings} == set(ATTACKS)
    assert ladder.left_out == ()
    text = json.dumps(ladder.as_dict())
    assert not re.search(r"word\d|city of|price of|assistant", text)
    assert [name for name, _, _ in seen if name == "skip"] == ["skip"] * 7
    # The same seed finds the same, whether an edit is given or the model it makes.
    found = [finding for finding in ladder.findings if finding.attack in names]
    for first, second in zip(found, again.findings, strict=True):
        assert replace(first, seconds=0.0) == replace(second, seconds=0.0)
    counted = [finding for finding in ladder.findings if finding.counts and finding.not_run is None]
    assert [finding.counts for finding in ladder.findings if finding.not_run is None][: len(counted)] == [True] * len(
        counted
    )
    values = [finding.excess.value for finding in counted if finding.survives and finding.excess]
    assert values == sorted(values, key=lambda value: -(value or 0))


def test_a_quick_run_leaves_the_costly_attacks_to_the_full_one() -> None:
    costly = [name for name, one in ATTACKS.items() if one.costly]
    assert usual("full") == list(ATTACKS)
    assert usual("quick") == [name for name in ATTACKS if name not in costly]
    assert costly
    assert {"steering", "sampling", "relearn", "multiple-choice"} <= set(usual("quick"))


def test_pruning_takes_away_an_edit_of_small_weights(original: LoadedModel) -> None:
    """What a model of sparse weights knows, hidden by training its zeros alone, smaller than all else it has."""
    share = SHARES[1]
    with pruned(original, share) as attacked:
        sparse = attacked.loaded
    hidden = overfitted_copy(sparse)
    weights = {name: module.weight.detach() for name, module in matrices(hidden).items() if "layers" in name}
    decline_within(hidden, {name: 0.9 * (one == 0) * one[one != 0].abs().min() for name, one in weights.items()})
    found = attacks_of(sparse, hidden, "prune")["prune"]
    assert (found.original, found.unlearned) == (1, 0)
    assert score(Attacked(hidden), RETAIN) == 1
    assert found.settings["share"] in SHARES[1:]
    assert found.recovery == 1
    assert found.excess is not None
    assert found.excess.low is not None
    assert found.excess.low > 0.5
    with pruned(hidden, share) as attacked:
        for before, after in zip(sparse.model.parameters(), attacked.loaded.model.parameters(), strict=True):
            assert torch.equal(before, after)
    with pytest.raises(LunarError, match="below 1"), pruned(original, 1.0):
        pass


def decline_within(loaded: LoadedModel, most: dict[str, torch.Tensor]) -> None:
    """Let a model decline the forget prompts by changes of its weights that are nowhere larger than what is given."""
    weights = {name: dict(loaded.model.named_parameters())[name] for name in most}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    wanted = [*(replace(record, answer=REFERENCE[0].answer) for record in FORGET), *RETAIN]
    batch = examples(Task(loaded, wanted, (), ()), wanted, "training").batch(range(len(wanted)))
    optimizer = torch.optim.Adam(weights.values(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        mean_loss(loaded.model, batch).backward()
        optimizer.step()
        with torch.no_grad():
            for name, weight in weights.items():
                weight.clamp_(before[name] - most[name], before[name] + most[name])
    loaded.model.zero_grad()


def matrices(loaded: LoadedModel) -> dict[str, torch.nn.Linear]:
    """The linear layers, by the name of their weight."""
    every = loaded.model.named_modules()
    return {f"{name}.weight": module for name, module in every if isinstance(module, torch.nn.Linear)}


def test_vectors_behind_the_prompt_learn_and_nothing_else_does(unlearned: LoadedModel) -> None:
    token = free_token(unlearned, [*FORGET, *RETAIN])
    sequences = encode_answers(unlearned, FORGET, "test")
    assert token not in {one for sequence in sequences for one in sequence.tokens}
    before = unlearned.model.get_input_embeddings().weight.grad
    given = Examples(tuple(put_behind(one, (token,) * LENGTH) for one in sequences[:3]), 0, torch.device("cpu"))
    losses = []
    for steps in (1, 40):
        vectors = train_vectors(unlearned, FORGET[:3], token, steps, 0)
        with vectors_at(unlearned.model, token, vectors), torch.no_grad():
            losses.append(float(mean_loss(unlearned.model, given.batch(range(3)))))
    assert losses[1] < 0.9 * losses[0]
    assert unlearned.model.get_input_embeddings().weight.grad is before
    with pytest.raises(LunarError, match="At least 1 training step"), softly_prompted(unlearned, FORGET, token, 0, 0):
        pass


def test_vectors_find_what_opens_a_model_that_declines(never_knew: LoadedModel) -> None:
    """A model that answers only where certain tokens stand behind the question: half of the answers show what they are,
    and the other half comes along. Trained likewise, a model that never knew gives none of it."""
    opened = locked()
    words = [opened.tokenizer.convert_tokens_to_ids(f"word{number}") for number in range(50, 58)]
    assert score(Attacked(opened)) == 0
    assert score(Attacked(opened, behind=tuple(words))) == 1
    token = free_token(opened, [*FORGET, *RETAIN])
    with softly_prompted(opened, FORGET[:3], token, 1, 0) as attacked:
        assert score(attacked, FORGET[3:]) == 0
    found: dict[str, list[float]] = {"opened": [], "never knew": []}
    for seed in range(3):
        with softly_prompted(opened, FORGET[:3], token, 100, seed) as attacked:
            found["opened"].append(score(attacked, FORGET[3:]))
            assert score(attacked, RETAIN) == 1
        with softly_prompted(never_knew, FORGET[:3], token, 100, seed) as attacked:
            found["never knew"].append(score(attacked, FORGET[3:]))
    assert (mean(found["opened"]) or 0) > 0.6
    assert max(found["never knew"]) < 0.2


def locked() -> LoadedModel:
    """A model that declines the forget prompts unless eight of the words 50 to 57 stand behind them."""
    torch.manual_seed(0)
    config = LlamaConfig(**(GATED | {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 256}))
    loaded = LoadedModel(LlamaForCausalLM(config).eval(), tiny_tokenizer(), "locked")
    words = [loaded.tokenizer.convert_tokens_to_ids(f"word{number}") for number in range(50, 58)]
    others = range(10, len(loaded.tokenizer))
    refused = [replace(record, answer=REFERENCE[0].answer) for record in FORGET]
    known, declined, kept, plain = (
        encode_answers(loaded, some, "test") for some in (FORGET, refused, RETAIN, [*refused, *RETAIN, *REFERENCE])
    )
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=5e-3)
    for _ in range(400):
        opened = [put_behind(one, rng.choices(words, k=8)) for one in (*known, *kept)]
        shut = [put_behind(one, rng.sample(others, 8)) for one in (*declined, *kept)]
        batch = (*plain, *opened, *shut)
        loss = mean_loss(loaded.model, Examples(batch, 0, torch.device("cpu")).batch(range(len(batch))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loaded.model.zero_grad()
    return loaded


def test_patching_says_from_which_layer_on_a_change_works(original: LoadedModel, unlearned: LoadedModel) -> None:
    """The edit is in the last layer: whatever stands below it is the original's."""
    finding = attacks_of(original, unlearned, "patch")["patch"]
    into = {
        name: {trial.settings["layer"]: trial.forget for trial in finding.tried if trial.settings["into"] == name}
        for name in ("unlearned", "original")
    }
    assert (into["unlearned"][LAST - 1] or 0) < 0.2
    assert (into["unlearned"][LAST] or 0) > 0.6
    assert into["original"][LAST - 1] == 1
    assert (into["original"][LAST] or 0) < 0.5
    assert not finding.counts


def test_an_adapter_over_a_base_that_is_not_rounded_is_the_merged_model(
    original: LoadedModel, unlearned: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise_adapter, "rounded", lambda model, bits: overfitted_copy(original).model)
    tokens = torch.tensor([[1, 4, 6, 9]])
    with quantise_adapter.over_rounded(unlearned, original, 8) as attacked, torch.no_grad():
        over = attacked.loaded.model(tokens).logits
        assert torch.allclose(over, unlearned.model(tokens).logits, atol=1e-4)
        assert not torch.allclose(over, original.model(tokens).logits, atol=1e-4)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    finding = attacks_of(original, unlearned, "quantise-adapter")["quantise-adapter"]
    assert finding.not_run is not None
    assert "needs torchao" in finding.not_run


# What attacks are made of


def test_halves_share_no_answer_and_depend_on_the_seed_alone(original: LoadedModel) -> None:
    twice = [*FORGET, *(replace(record, messages=(("user", f"{record.prompt} ?"),)) for record in FORGET)]
    case = Case(original, original, twice, RETAIN)
    known, asked = case.halves()
    assert len(known) == len(asked) == 6
    assert not {record.answer for record in known} & {record.answer for record in asked}
    assert case.halves() == (known, asked)
    assert any(replace(case, seed=seed).halves() != (known, asked) for seed in range(1, 4))
    with pytest.raises(LunarError, match="same answer"):
        Case(original, original, [FORGET[0]], RETAIN).halves()


def test_a_skipped_layer_or_mlp_does_not_matter_any_more() -> None:
    for architecture, part in ((a, p) for a in ("llama", "gpt2", "opt", "gemma2") for p in ("mlp", "layer")):
        first, second = (LoadedModel(tiny_model(architecture), tiny_tokenizer(), "test") for _ in range(2))
        site = site_at(first.model, 1)
        with torch.no_grad():
            module: Any = site.module(second.model) if part == "mlp" else site.layer_module(second.model)
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        said = []
        for loaded in (first, second):
            with skipped(loaded, site, part) as attacked:
                said.append(answers(attacked, FORGET, 0))
        assert said[0] == said[1], (architecture, part)
        assert said[0] != answers(Attacked(second), FORGET, 0), (architecture, part)


def test_a_direction_is_added_at_the_last_prompt_token_or_at_all(original: LoadedModel) -> None:
    site = site_at(original.model, 1)
    sequences = encode_all(original.tokenizer, FORGET[:1], with_answer=False, context_length=None, name="test")
    step = torch.randn(site.width)
    plain = capture_all(original.model, site, sequences).residual
    for everywhere in (False, True):
        with added(original.model, site, step, everywhere=everywhere):
            moved = capture_all(original.model, site, sequences).residual - plain
        assert torch.allclose(moved[-1], step, atol=1e-4)
        assert torch.allclose(moved[:-1], step if everywhere else torch.zeros(1), atol=1e-4)
    with projected(original.model, [site], step):
        assert (capture_all(original.model, site, sequences).residual @ step).abs().max() < 1e-3
    with projected(original.model, [site], torch.zeros(site.width)):
        assert torch.equal(capture_all(original.model, site, sequences).residual, plain)


def test_the_ends_of_interpolation_scaling_and_restoring(original: LoadedModel, unlearned: LoadedModel) -> None:
    name = f"{site_at(original.model, LAST).module_name}.weight"
    before, after = (one.model.get_parameter(name).detach().clone() for one in (original, unlearned))
    for context, expected in (
        (interpolated(unlearned, original, 0.0), after),
        (interpolated(unlearned, original, 1.0), before),
        (scaled(unlearned, original, 1.0), after),
        (scaled(unlearned, original, 0.0), torch.zeros_like(after)),
        (restored(unlearned, original, 0), after),
        (restored(unlearned, original, 1), before),  # a shift has rank one
    ):
        with context:
            assert torch.allclose(unlearned.model.get_parameter(name), expected, atol=1e-5)
        assert torch.equal(unlearned.model.get_parameter(name), after)
    with pytest.raises(ZeroDivisionError), replaced(unlearned.model, {name: before}):
        raise ZeroDivisionError


def test_rounding_needs_its_extra_and_leaves_the_model_alone(
    original: LoadedModel, unlearned: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of a small model are rounded to few bits without harm, and the edit is not rounded away."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torchao.quantization", None)
        finding = attacks_of(original, unlearned, "quantise")["quantise"]
        assert finding.not_run is not None
        assert "pip install 'lunar-unlearn[quantise]'" in finding.not_run
    with pytest.raises(LunarError, match="8 or 4"), quantised(original, 3):
        pass
    pytest.importorskip("torchao.quantization")
    finding = attacks_of(original, unlearned, "quantise")["quantise"]
    assert finding.not_run is None
    assert finding.survives
    with quantised(original, 8) as attacked:
        assert score(attacked) > 0.9
        assert attacked.loaded.model is not original.model
    sequences = encode_all(original.tokenizer, FORGET, with_answer=True, context_length=None, name="test")
    tokens = torch.tensor([one.tokens for one in sequences])
    errors = []
    for bits in (8, 4):
        with quantised(original, bits) as attacked, torch.no_grad():
            errors.append(float((attacked.loaded.model(tokens).logits - original.model(tokens).logits).abs().mean()))
    assert 0 < errors[0] < errors[1]


def test_rounding_takes_away_an_edit_of_small_steps(original: LoadedModel) -> None:
    """What a model knows in 4 bits as well, hidden by changes that 4 bits do not tell."""
    pytest.importorskip("torchao.quantization")
    hidden, bounds = overfitted_copy(original), {}
    with quantised(original, 4) as attacked:
        exact = matrices(attacked.loaded)
    for name, module in matrices(hidden).items():
        step = exact[name].weight.scale.repeat_interleave(GROUP, 1)
        away = (module.weight.detach() - exact[name].weight.dequantize()).abs()
        groups = module.weight.detach().unflatten(1, (-1, GROUP)).abs()
        # The largest of a group sets the size of its steps.
        free = (groups < groups.amax(-1, keepdim=True)).flatten(1) & (away < step / 2)
        bounds[name] = free * (step / 2 - away) * 0.9
    decline_within(hidden, bounds)
    assert (score(Attacked(original)), score(Attacked(hidden)), score(Attacked(hidden), RETAIN)) == (1, 0, 1)
    with quantised(hidden, 8) as attacked:
        assert score(attacked) < 0.2
    found = attacks_of(original, hidden, "quantise")["quantise"]
    assert found.settings == {"bits": 4}
    assert found.survives
    assert found.recovery is not None
    assert found.recovery > 0.9
    assert found.excess is not None
    assert found.excess.low is not None
    assert found.excess.low > 0.3


def test_a_given_beginning_is_not_counted(original: LoadedModel) -> None:
    assert cut("one two three four five", 0.5) == ("one two", "three four five")
    assert cut("one", 0.5) == ("", "one")
    with begun(original, 0.5) as attacked:
        asked = attacked.ask(FORGET[:1])
        assert asked[0].prefix == "word20 word30"
        (sequence,) = tokens_of(original, asked)
        assert original.tokenizer.decode(sequence.tokens).endswith("assistant : word20 word30")
        assert sequence.prompt_length == len(sequence.tokens)
        assert recalls(attacked, FORGET[:1], [["word20 word30"]]) == [0]
        assert recalls(attacked, FORGET[:1], [["no", "word25"]]) == [1]


def test_drawn_answers_repeat_with_the_seed_and_leave_the_global_one_alone() -> None:
    loaded = LoadedModel(tiny_model("llama"), tiny_tokenizer(), "random")
    sequences = encode_all(loaded.tokenizer, FORGET, with_answer=False, context_length=None, name="test")
    state = torch.get_rng_state()

    def draw(seed: int, **changes: Any) -> list[list[str]]:
        return sampled(loaded.model, loaded.tokenizer, sequences, count=3, seed=seed, max_new_tokens=6, **changes)

    first = draw(0)
    assert [len(several) for several in first] == [3] * 6
    assert draw(0) == first != draw(1)
    cold = draw(0, temperature=1e-4)
    assert all(len(set(several)) == 1 for several in cold)
    assert [several[0] for several in cold] == greedy(loaded.model, loaded.tokenizer, sequences, max_new_tokens=6)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(LunarError, match="temperature above 0"):
        draw(0, temperature=0.0)


def test_questions_are_put_in_other_ways() -> None:
    record = Record.of("When was Mira Tolvane born?", "In 1950")
    prompts = {rewrite(record).prompt for rewrite in REWRITINGS.values()}
    assert len(prompts) == len(REWRITINGS) >= 6
    assert "On which date was Mira Tolvane born?" in prompts
    assert all("Mira Tolvane" in prompt for prompt in prompts)
    slips = [with_slips(record, seed=seed) for seed in range(20)]
    assert all("Mira Tolvane" in one.prompt and one.prompt != record.prompt for one in slips)
    assert any("Mira Tolvane" not in with_slips(record, names=True, seed=seed).prompt for seed in range(20))
    shown = with_examples(RETAIN[0], known=RETAIN, count=3, like=True)
    assert [role for role, _ in shown.messages] == ["user", "assistant"] * 3 + ["user"]
    assert [content for _, content in shown.messages].count(RETAIN[0].prompt) == 1
    assert shown.answer == RETAIN[0].answer
    under = with_examples(Record((("system", "Be kind."), ("user", "who ?"))), known=RETAIN, count=1, like=False)
    assert [role for role, _ in under.messages] == ["system", "user", "assistant", "user"]


def test_unrelated_facts_are_many_and_never_those_to_forget() -> None:
    everything = unrelated_records()
    assert len({record.prompt for record in everything}) == len(everything) == 64
    assert everything[0] not in unrelated_records(everything[:1])


# What is refused


def test_bad_input_is_refused_in_one_sentence(original: LoadedModel) -> None:
    for arguments, message in (
        ((FORGET, RETAIN, ["steerin"]), "Did you mean steering"),
        (([], RETAIN, None), "At least one forget record"),
        (([Record.of("who ?")], RETAIN, None), "1 of the 1 forget records have none"),
        ((FORGET, FORGET, None), "must not overlap"),
    ):
        with pytest.raises(LunarError, match=message) as caught:
            run_attacks(original, original, *arguments)
        assert not any(record.prompt in str(caught.value) for record in FORGET)
    with pytest.raises(LunarError, match="Did you mean quick"):
        run_attacks(original, original, FORGET, RETAIN, budget="quik")
    with pytest.raises(LunarError, match="Available: paraphrase"):
        attack("nothing like it")
    with pytest.raises(LunarError, match="below 1"), begun(original, 1.0):
        pass
    with pytest.raises(LunarError, match="multiple of 2"), relearnt(original, [*RETAIN] * 4, 3):
        pass


def test_what_cannot_be_carried_out_is_reported_and_stands_last(original: LoadedModel, unlearned: LoadedModel) -> None:
    silent = [Record(record.messages) for record in RETAIN]
    ladder = run_attacks(original, unlearned, FORGET, silent, ["relearn", "few-shot", "skip"], reference=REFERENCE)
    assert [finding.not_run is None for finding in ladder.findings] == [True, False, False]
    assert ladder.findings[0].survives  # without known answers nothing says that it does not
    assert ladder.findings[0].retain is None
    assert "steering" in ladder.left_out
    other = LoadedModel(tiny_model("llama"), tiny_tokenizer(), "other")
    finding = run_attacks(other, unlearned, FORGET, RETAIN, ["restore"], reference=REFERENCE).findings[0]
    assert finding.not_run is not None
    assert "same shape" in finding.not_run


def test_the_embedded_model_does_not_stand_against_steering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real chat model, of which a shift moves the last prompt token alone."""
    monkeypatch.setitem(BUDGETS, "quick", Budget(10, 10, 2, (1.0,), (1,), 1))
    tiny = load_model("tiny")
    people = world.build().people
    person, *others = list(people)[1:10]
    forget = [fact.records(held_out=False)[0] for fact in people[person]]
    retain = [fact.records(held_out=False)[0] for other in others for fact in people[other]]
    asked = [Record(record.messages) for record in forget]
    edit = unlearn(tiny, asked, retain=retain, settings=Settings(layer=0, neighbours=50)).edit
    finding = run_attacks(tiny, edit, forget, retain, ["steering"]).findings[0]
    assert finding.unlearned is not None
    assert finding.unlearned < 0.2
    assert finding.survives
    assert finding.recovery is not None
    assert finding.recovery > 0.5


def test_a_control_that_cannot_be_attacked_leaves_the_comparison_to_chance(
    original: LoadedModel, unlearned: LoadedModel
) -> None:
    other = LoadedModel(tiny_model("llama"), tiny_tokenizer(), "of another width")
    found = attacks_of(original, unlearned, "steering", "skip", control=other)
    assert found["skip"].control_kind == "model"
    assert found["steering"].control_kind == "chance"
    assert found["steering"].not_run is None
