"""What is captured is what the whole model computes, however it is batched; nothing stays behind. Greedy answers."""

from collections.abc import Iterator

import pytest
import torch
from conftest import CONTEXT, LAYERS, VOCABULARY, tiny_model, tiny_tokenizer
from transformers import PreTrainedModel

from lunar.activations import Captured, capture, capture_all, capture_layers
from lunar.errors import LunarError
from lunar.generation import greedy
from lunar.models import find_sites, site_at
from lunar.passage import writes_directly
from lunar.prompts import TokenSequence

ARCHITECTURES = ["llama", "qwen2", "gemma", "mistral", "gpt2", "gpt_neox", "opt", "bloom"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def sequences(count: int = 7) -> list[TokenSequence]:
    generator = torch.Generator().manual_seed(2)
    result = []
    for index in range(count):
        length = 3 + (5 * index) % 11
        tokens = torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()
        result.append(TokenSequence(tuple(tokens), length - index % 3))
    return result


def hooks(model: PreTrainedModel) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layer", range(LAYERS - 1))
def test_the_residual_is_that_of_the_whole_model(architecture: str, layer: int) -> None:
    model = tiny_model(architecture)
    given = sequences()
    captured = capture_all(model, site_at(model, layer), given, batch_size=3)
    expected = []
    for sequence in given:
        with torch.no_grad():
            output = model(input_ids=torch.tensor([sequence.tokens]), output_hidden_states=True)
        expected.append(output.hidden_states[layer + 1][0])
    torch.testing.assert_close(captured.residual, torch.cat(expected), **CLOSE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_matrix_maps_inner_to_what_it_writes(architecture: str) -> None:
    model = tiny_model(architecture)
    site = site_at(model, 1)
    written: list[torch.Tensor] = []
    handle = site.module(model).register_forward_hook(lambda module, inputs, output: written.append(output))
    captured = capture_all(model, site, [sequences()[0]])
    handle.remove()
    module = site.module(model)
    weight = module.weight if site.transposed else module.weight.T
    expected = captured.inner @ weight + (0 if module.bias is None else module.bias)
    torch.testing.assert_close(written[0].reshape(-1, site.width), expected, **CLOSE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_and_batch_size_change_nothing(architecture: str) -> None:
    model = tiny_model(architecture)
    site = site_at(model, -1)
    alone = capture_all(model, site, sequences(), batch_size=1)
    for side in ("left", "right"):
        for size in (2, 7):
            for pad_token in (0, 5):
                batched = capture_all(
                    model, site, sequences(), batch_size=size, padding_side=side, pad_token_id=pad_token
                )
                torch.testing.assert_close(batched.inner, alone.inner, **CLOSE)
                torch.testing.assert_close(batched.residual, alone.residual, **CLOSE)
                assert torch.equal(batched.sequence, alone.sequence)
                assert torch.equal(batched.from_end, alone.from_end)


def test_rows_say_where_they_come_from() -> None:
    model = tiny_model("llama")
    given = [TokenSequence((5, 6, 7, 8, 9), 3), TokenSequence((5, 6), 2)]
    for side in ("left", "right"):
        captured = capture_all(model, site_at(model, 0), given, padding_side=side)
        assert captured.sequence.tolist() == [0, 0, 0, 0, 0, 1, 1]
        assert captured.from_end.tolist() == [2, 1, 0, -1, -2, 1, 0]


def test_batches_together_hold_every_token_once() -> None:
    model = tiny_model("gpt2")
    site = site_at(model, 1)
    done: list[int] = []
    batches = list(capture(model, site, sequences(), batch_size=3, progress=done.append))
    assert done == [3, 6, 7]
    assert all(isinstance(batch, Captured) for batch in batches)
    assert sum(len(batch.inner) for batch in batches) == sum(len(one.tokens) for one in sequences())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_inputs_alone_are_the_same_and_the_deepest_matrix_does_not_run(architecture: str) -> None:
    model = tiny_model(architecture)
    sites = [site_at(model, layer) for layer in (0, 1)]
    ran: list[str] = []
    for site in sites:
        site.module(model).register_forward_hook(lambda *_, name=site.module_name: ran.append(name))
    batches = [
        list(capture_layers(model, sites, sequences(), batch_size=3, inner_only=inner_only))
        for inner_only in (False, True)
    ]
    assert ran.count(sites[0].module_name) == 6
    assert ran.count(sites[1].module_name) == 3
    for whole, part in zip(*batches, strict=True):
        for layer in (0, 1):
            assert torch.equal(part[layer].inner, whole[layer].inner)
            assert torch.equal(part[layer].from_end, whole[layer].from_end)
            assert part[layer].residual.shape == (len(whole[layer].inner), 0)


def test_later_layers_do_not_run() -> None:
    model = tiny_model("llama")
    runs = [0] * LAYERS
    for number, layer in enumerate(model.model.layers):

        def count(module: object, inputs: object, number: int = number) -> None:
            runs[number] += 1

        layer.register_forward_pre_hook(count)
    model.lm_head.register_forward_pre_hook(lambda module, inputs: pytest.fail("the head ran"))
    capture_all(model, site_at(model, 1), sequences(), batch_size=7)
    assert runs == [1, 1, 0]


def test_the_model_is_whole_between_batches_and_afterwards() -> None:
    model = tiny_model("gpt2").train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    before = hooks(model)
    batches: Iterator[Captured] = capture(model, site_at(model, 0), sequences(), batch_size=2)
    first = next(batches)
    assert hooks(model) == before
    assert [module.training for module in model.modules()] == modes
    assert model(input_ids=torch.tensor([[1, 2]])).logits.shape == (1, 2, VOCABULARY)
    again = next(capture(model, site_at(model, 0), sequences(), batch_size=2))
    assert torch.equal(first.inner, again.inner)


def test_nothing_stays_after_an_exception() -> None:
    model = tiny_model("llama").train()
    site = site_at(model, 1)

    def fail(module: object, inputs: object) -> None:
        raise RuntimeError("on purpose")

    handle = model.model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        capture_all(model, site, sequences())
    handle.remove()
    assert hooks(model) == 0
    assert model.training
    assert len(capture_all(model, site, sequences()).inner)


def test_captured_rows_may_be_used_in_training() -> None:
    model = tiny_model("llama")
    captured = capture_all(model, site_at(model, 0), sequences())
    (captured.inner @ torch.ones(captured.inner.shape[1], requires_grad=True)).sum().backward()


def test_no_sequences_give_no_rows() -> None:
    model = tiny_model("llama")
    site = site_at(model, 0)
    captured = capture_all(model, site, [])
    assert captured.inner.shape == (0, site.inner_width)
    assert captured.residual.shape == (0, site.width)


@pytest.mark.parametrize(
    ("sequence", "settings", "message"),
    [
        (TokenSequence((), 0), {}, "at least one prompt token"),
        (TokenSequence((1, 2), 3), {}, "a prompt of 3"),
        (TokenSequence((1,) * (CONTEXT + 1), 1), {}, f"context of {CONTEXT}"),
        (TokenSequence((VOCABULARY,), 1), {}, "vocabulary"),
        (TokenSequence((-1,), 1), {}, "vocabulary"),
        (TokenSequence((1,), 1), {"batch_size": 0}, "batch_size"),
    ],
)
def test_unusable_input_is_refused(sequence: TokenSequence, settings: dict[str, int], message: str) -> None:
    model = tiny_model("gpt2")
    with pytest.raises(LunarError, match=message):
        capture_all(model, site_at(model, 0), [TokenSequence((1,), 1), sequence], **settings)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_most_models_write_directly(architecture: str) -> None:
    model = tiny_model(architecture)
    assert all(writes_directly(model, site) for site in find_sites(model))
    assert hooks(model) == 0
    assert writes_directly(model.bfloat16(), site_at(model, 1))


def test_a_norm_behind_the_matrix_is_noticed() -> None:
    model = tiny_model("gemma2")
    assert not any(writes_directly(model, site) for site in find_sites(model))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batched_answers_are_those_of_one_by_one(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture), tiny_tokenizer()
    alone = [greedy(model, tokenizer, [one], max_new_tokens=9)[0] for one in sequences()]
    done: list[int] = []
    assert greedy(model, tokenizer, sequences(), max_new_tokens=9, batch_size=3, progress=done.append) == alone
    assert done == [3, 6, 7]
    assert len(set(alone)) > 1


def test_greedy_is_the_most_likely_token_every_time() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    prompt = sequences()[1]
    tokens = list(prompt.tokens[: prompt.prompt_length])
    for _ in range(6):
        with torch.no_grad():
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == tokenizer.eos_token_id:
            break
    expected = tokenizer.decode(tokens[prompt.prompt_length :], skip_special_tokens=True).strip()
    assert greedy(model, tokenizer, [prompt], max_new_tokens=6) == [expected]


def test_sampling_settings_and_a_missing_pad_token_change_no_answer() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    expected = greedy(model, tokenizer, sequences(), max_new_tokens=9)
    settings = model.generation_config
    settings.do_sample, settings.temperature, settings.top_k, settings.top_p = True, 3.0, 7, 0.5
    settings.repetition_penalty, settings.pad_token_id = 5.0, None
    tokenizer.pad_token = None
    model.train()
    assert greedy(model, tokenizer, sequences(), max_new_tokens=9) == expected
    assert model.generation_config is settings
    assert model.training


def test_an_answer_stops_at_any_end_token() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    prompt = next(
        one for one in sequences() if len(set(greedy(model, tokenizer, [one], max_new_tokens=8)[0].split())) > 2
    )
    words = greedy(model, tokenizer, [prompt], max_new_tokens=8)[0].split()
    stop = next(word for word in words if word != words[0])
    model.generation_config.eos_token_id = [2, tokenizer.convert_tokens_to_ids(stop)]
    assert greedy(model, tokenizer, [prompt], max_new_tokens=8)[0].split() == words[: words.index(stop)]


def test_answers_that_cannot_fit_are_refused() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    assert greedy(model, tokenizer, []) == []
    with pytest.raises(LunarError, match=f"context of {CONTEXT}"):
        greedy(model, tokenizer, sequences(), max_new_tokens=CONTEXT)
    with pytest.raises(LunarError, match="max_new_tokens"):
        greedy(model, tokenizer, sequences(), max_new_tokens=0)
