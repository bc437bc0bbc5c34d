"""Answers to many prompts, batched: greedy, the most likely token every time, or several drawn by chance.

Whatever a checkpoint's generation settings ask for (sampling, beams, penalties) is set aside for the call, so that
answers are comparable between models and runs. It knows nothing of records, chat templates or metrics.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from lunar.activations import check_batch_size, check_sequences, evaluation_mode, input_device, longest_first, pad
from lunar.errors import LunarError
from lunar.memory import in_batches
from lunar.models import context_length
from lunar.prompts import TokenSequence


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[TokenSequence],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """The model's greedy answer to each prompt (`tokens[:prompt_length]`), in the given order.

    An answer ends at the first end-of-text token or after `max_new_tokens` tokens; special tokens and surrounding white
    space are removed. `progress` is called after each batch with the number of prompts done.

    Raises `LunarError` when a prompt cannot be read by the model, or when it and the answer do not fit its context.
    """
    prompts = _prompts(model, sequences, max_new_tokens)
    with plain_settings(model, tokenizer, end_tokens(model, tokenizer), max_new_tokens) as settings:
        answers = _answers(model, tokenizer, prompts, settings, batch_size, progress)
    return [one[0] for one in answers]


def sampled(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[TokenSequence],
    *,
    count: int,
    seed: int,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> list[list[str]]:
    """`count` answers to each prompt, drawn from the whole next-token distribution at a temperature.

    The same seed gives the same answers to the same prompts in batches of the same size; the global random state is as
    it was afterwards. Raises `LunarError` as `greedy` does, and for a count below 1 or a temperature not above 0.
    """
    if count < 1 or not temperature > 0:
        raise LunarError(
            f"At least 1 answer and a temperature above 0 were expected, got {count} and {temperature}: raise them."
        )
    prompts, ends = _prompts(model, sequences, max_new_tokens), end_tokens(model, tokenizer)
    device = input_device(model)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), plain_settings(model, tokenizer, ends, max_new_tokens) as settings:
        torch.manual_seed(seed)
        settings.do_sample, settings.temperature, settings.num_return_sequences = True, temperature, count
        settings.top_k, settings.top_p = 0, 1.0
        return _answers(model, tokenizer, prompts, settings, max(1, batch_size // count), progress)


def streamed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequence: TokenSequence,
    on_text: Callable[[str], None],
    *,
    max_new_tokens: int = 256,
) -> str:
    """The same answer as `greedy` gives to one prompt; `on_text` is called with each piece as soon as it is there.

    Raises `LunarError` as `greedy` does. What `on_text` raises ends the answer.
    """
    prompts, ends = _prompts(model, [sequence], max_new_tokens), end_tokens(model, tokenizer)
    generate: Any = model.generate
    with evaluation_mode(model), plain_settings(model, tokenizer, ends, max_new_tokens) as settings, torch.no_grad():
        tokens, mask = pad([prompts[0].tokens], int(settings.pad_token_id), "left", input_device(model))
        streamer = _Pieces(tokenizer, on_text)
        output = generate(input_ids=tokens, attention_mask=mask, generation_config=settings, streamer=streamer)
    return _text(tokenizer, output[0, tokens.shape[1] :].tolist(), ends)


class _Pieces(TextStreamer):
    """Hands on each finished piece of an answer instead of printing it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._on_text(text)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends an answer: those of the generation settings, the configuration and the tokenizer."""
    config = model.config.get_text_config(decoder=True)
    given = (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(config, "eos_token_id", None),
        tokenizer.eos_token_id,
    )
    found: set[int] = set()
    for value in given:
        if isinstance(value, int):
            found.add(value)
        elif isinstance(value, Iterable):
            found.update(int(one) for one in value)
    return tuple(sorted(found))


def _prompts(model: PreTrainedModel, sequences: Sequence[TokenSequence], max_new_tokens: int) -> list[TokenSequence]:
    """The sequences without their answers, once it is certain that the model can answer them."""
    prompts = [TokenSequence(one.tokens[: one.prompt_length], one.prompt_length) for one in sequences]
    check_sequences(model, prompts)
    _check_room(model, prompts, max_new_tokens)
    return prompts


def _check_room(model: PreTrainedModel, prompts: Sequence[TokenSequence], max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise LunarError(f"max_new_tokens was expected to be at least 1, got {max_new_tokens}.")
    limit = context_length(model)
    longest = max((one.prompt_length for one in prompts), default=0)
    if limit is not None and longest + max_new_tokens > limit:
        raise LunarError(
            f"A prompt of {longest} tokens and an answer of {max_new_tokens} do not fit the model's context of "
            f"{limit}: lower max_new_tokens or shorten the prompt."
        )


@contextmanager
def plain_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: tuple[int, ...], max_new_tokens: int
) -> Iterator[GenerationConfig]:
    """Greedy settings, also in the model's own place: `generate` fills what a call leaves open from there."""
    padding = tokenizer.pad_token_id
    if not isinstance(padding, int):
        # Masked in the prompt and cut off behind the answer's end, so any token will do.
        padding = ends[0] if ends else 0
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(ends) or None,
        pad_token_id=padding,
    )
    kept = model.generation_config
    model.generation_config = settings
    try:
        yield settings
    finally:
        model.generation_config = kept


def _answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[TokenSequence],
    settings: GenerationConfig,
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> list[list[str]]:
    """As many answers to each prompt as the settings ask for."""
    check_batch_size(batch_size)
    ends = tuple(settings.eos_token_id or ())
    count = settings.num_return_sequences or 1
    answers: list[list[str]] = [[] for _ in prompts]
    done = 0
    with evaluation_mode(model):
        order = longest_first([one.prompt_length for one in prompts])
        for indices, rows in in_batches(
            order, batch_size, lambda indices: _answer(model, [prompts[index].tokens for index in indices], settings)
        ):
            for place, index in enumerate(indices):
                answers[index] = [_text(tokenizer, row, ends) for row in rows[place * count : (place + 1) * count]]
            done += len(indices)
            if progress is not None:
                progress(done)
    return answers


def _answer(model: PreTrainedModel, rows: list[tuple[int, ...]], settings: GenerationConfig) -> list[list[int]]:
    """New tokens per row, with whatever follows the end of the shorter answers."""
    tokens, mask = pad(rows, int(settings.pad_token_id), "left", input_device(model))
    generate: Any = model.generate
    with torch.no_grad():
        output = generate(input_ids=tokens, attention_mask=mask, generation_config=settings)
    return output[:, tokens.shape[1] :].tolist()


def _text(tokenizer: PreTrainedTokenizerBase, answer: list[int], ends: tuple[int, ...]) -> str:
    stop = next((place for place, token in enumerate(answer) if token in ends), len(answer))
    return str(tokenizer.decode(answer[:stop], skip_special_tokens=True)).strip()
