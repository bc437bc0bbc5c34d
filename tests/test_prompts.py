"""Rendering follows the tokenizer's template exactly, answers continue prompts, nothing is ever shortened."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lunar.errors import LunarError
from lunar.prompts import (
    PLAIN_TEMPLATE,
    TokenSequence,
    default_retain_records,
    encode,
    encode_all,
    general_prompts,
    reference_records,
    refusal_prompts,
    unverifiable_prompts,
)
from lunar.records import Record, deduplicate

CHAT = (
    "<s>{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHAT
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('No') }}{% endif %}{% endfor %}" + CHAT
)
NO_END = CHAT.replace("</s>\n", "\n")
OTHER_WHEN_ANSWERED = CHAT.replace("<|assistant|>\n{% endif", "<|assistant|>\n<think>\n{% endif")
SECRET = "Zanzibar"


def tokenizer(template: str | None, *, begins: bool = True) -> PreTrainedTokenizerFast:
    """One token per byte, and the special tokens of a chat model; puts <s> before any text if `begins`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    inner = Tokenizer(models.BPE({token: number for number, token in enumerate([*special, *alphabet])}, []))
    inner.decoder = decoders.ByteLevel()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if begins:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    result = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", additional_special_tokens=special[2:]
    )
    result.chat_template = template
    return result


def said(uses: PreTrainedTokenizerFast, sequence: TokenSequence) -> tuple[str, str]:
    tokens, length = list(sequence.tokens), sequence.prompt_length
    return uses.decode(tokens[:length]), uses.decode(tokens[length:])


def parts(template: str | None, record: Record, *, with_answer: bool = True, begins: bool = True) -> tuple[str, str]:
    """What the prompt and the rest of the encoded record say."""
    uses = tokenizer(template, begins=begins)
    sequence = encode(uses, record, with_answer=with_answer, context_length=None, name="forget", number=1)
    return said(uses, sequence)


def test_the_tokenizers_own_template_is_used() -> None:
    uses = tokenizer(CHAT)
    record = Record((("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")), "Because.")
    messages = [{"role": role, "content": content} for role, content in record.messages]
    expected = uses.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    prompt = encode(uses, record, with_answer=False, context_length=None, name="forget", number=1)
    assert list(prompt.tokens) == expected
    assert prompt.prompt_length == len(expected)
    answered = encode(uses, record, with_answer=True, context_length=None, name="forget", number=1)
    assert answered.tokens[: answered.prompt_length] == prompt.tokens
    assert said(uses, answered)[1] == "Because.</s>"
    assert prompt.tokens.count(uses.bos_token_id) == 1


@pytest.mark.parametrize("begins", [True, False])
def test_a_base_model_gets_the_plain_template(begins: bool) -> None:
    start = "<s>" if begins else ""
    record = Record.of("Why?", "Because.")
    assert parts(None, record, begins=begins) == (f"{start}Question: Why?\nAnswer:", " Because.</s>")
    turns = Record((("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")), "Because.")
    prompt, answer = parts(None, turns, begins=begins)
    assert prompt == f"{start}Be brief.\n\nQuestion: Hi\nAnswer: Hello\n\nQuestion: Why?\nAnswer:"
    assert answer == " Because.</s>"
    assert "bos" not in PLAIN_TEMPLATE


def test_without_an_answer_there_is_only_the_prompt() -> None:
    for template in (CHAT, None):
        unknown = parts(template, Record.of("Why?"))
        assert unknown == parts(template, Record.of("Why?", "Because."), with_answer=False)
        assert unknown[1] == ""


def test_an_answer_ends_with_the_end_of_turn_whatever_the_template_does() -> None:
    record = Record.of("Why?", "Because.")
    for template in (CHAT, NO_END, OTHER_WHEN_ANSWERED):
        prompt, answer = parts(template, record)
        assert prompt == parts(template, record, with_answer=False)[0]
        assert answer == "Because.</s>"


def test_prompt_tokens_stay_where_prompt_and_answer_could_merge() -> None:
    plain = tokenizer(None, begins=False)
    vocabulary = {**plain.get_vocab(), ":Ġ": len(plain)}
    inner = Tokenizer(models.BPE(vocabulary, [(":", "Ġ")]))
    inner.decoder = decoders.ByteLevel()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merging = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    record = Record.of("Why?", "Because.")
    prompt = encode(merging, record, with_answer=False, context_length=None, name="forget", number=1)
    answered = encode(merging, record, with_answer=True, context_length=None, name="forget", number=1)
    assert answered.tokens[: answered.prompt_length] == prompt.tokens
    assert said(merging, answered)[1] == " Because.</s>"


def test_a_template_that_refuses_is_reported() -> None:
    system = Record((("system", "Be brief."), ("user", SECRET)))
    with pytest.raises(LunarError, match="forget record 1: it may not take a system message") as caught:
        parts(NO_SYSTEM, system)
    assert SECRET not in str(caught.value)
    assert parts(NO_SYSTEM, Record.of("Q"))[0].endswith("<|assistant|>\n")
    with pytest.raises(LunarError, match="alternate"):
        parts(ALTERNATING, Record((("user", "a"), ("user", SECRET))))


@pytest.mark.parametrize("with_answer", [True, False])
def test_too_long_is_refused_and_never_shortened(with_answer: bool) -> None:
    uses = tokenizer(CHAT)
    records = [Record.of("Q", "A"), Record.of(f"Where is {SECRET}?", "Far away.")]
    whole = encode_all(uses, records, with_answer=with_answer, context_length=None, name="retain")
    longest = len(whole[1].tokens)
    assert encode_all(uses, records, with_answer=with_answer, context_length=longest, name="retain") == whole
    with pytest.raises(
        LunarError, match=rf"at most {longest - 1} tokens.*retain record 2.*{whole[1].prompt_length}"
    ) as error:
        encode_all(uses, records, with_answer=with_answer, context_length=longest - 1, name="retain")
    assert SECRET not in str(error.value)
    assert ("of its answer" in str(error.value)) == with_answer


def test_built_in_prompts_are_many_distinct_and_clean() -> None:
    every = {unverifiable_prompts: 100, refusal_prompts: 60, general_prompts: 145}
    seen: set[str] = set()
    for prompts, least in every.items():
        assert len(prompts()) >= least
        assert prompts() == prompts()
        for prompt in prompts():
            assert prompt == " ".join(prompt.split())
            assert prompt[0].isupper()
            assert prompt[-1] in ".?"
            assert not set("{}|") & set(prompt)
            assert prompt.casefold() not in seen
            seen.add(prompt.casefold())


def test_reference_and_default_retain_records(tmp_path: Path) -> None:
    assert [record.prompt for record in reference_records("unverifiable")] == list(unverifiable_prompts())
    assert [record.prompt for record in reference_records("refusal")] == list(refusal_prompts())
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "Q"}\n', encoding="utf-8")
    assert reference_records(path) == reference_records(str(path)) == [Record.of("Q")]
    retain = default_retain_records()
    assert len(retain) == len(general_prompts()) + len(unverifiable_prompts()) == len(deduplicate(retain))
    with pytest.raises(LunarError, match=r"Unknown reference 'refusals': give unverifiable .*refusal .*file"):
        reference_records("refusals")
    with pytest.raises(LunarError, match="reference data"):
        reference_records("missing.jsonl")
