"""Who else a model knows: names that share a word with a given one, found by trying the words of its vocabulary.

Names that a model knows well are mostly words of its vocabulary. Those that it finds likeliest where a name may stand
are put in the place of one half of the name, and asked about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from lunar.activations import input_device
from lunar.discovery.asking import declined, replies
from lunar.discovery.following import begun, continuations
from lunar.likelihood import likelihoods
from lunar.models import LoadedModel
from lunar.progress import Progress
from lunar.records import Record

WORD, PARTY = re.compile(r"[A-Z][a-z]{2,}"), re.compile(r"[A-Z]\w*(?:\s[A-Z]\w*)*")
BEFORE_A_NAME = ("Where was", "Who is", "Tell me about")
MOST_WORDS = 300
MOST_ALIKE, MOST_STRANGERS, MOST_PAIRS = 10, 8, 30


def others_like(
    loaded: LoadedModel, name: str, question: str, seed: int, progress: Progress | None = None
) -> list[str]:
    """Names that the model answers `question` about: some that share a half with `name`, and some that share none.

    The latter are made of the halves of the former. Two parties of a contract ("A and B") keep the first of them, and
    the model itself says who else there could be.
    """
    if " and " in name:
        first = name.split(" and ")[0]
        start = question[: question.index(name) + len(first)] + " and"
        ends = [PARTY.match(end) for end in continuations(loaded, [start], seed)[0]]
        candidates = dict.fromkeys(f"{first} and {end[0]}" for end in ends if end)
        return answered_about(loaded, name, question, list(candidates), progress)[:MOST_ALIKE]
    first, _, rest = name.partition(" ")
    if not rest:
        return []
    words = [word for word in likely_words(loaded) if word not in name.split()]
    alike = answered_about(
        loaded, name, question, [f"{first} {word}" for word in words] + [f"{word} {rest}" for word in words], progress
    )
    families = [one.removeprefix(f"{first} ") for one in alike if one.startswith(f"{first} ")][:MOST_ALIKE]
    starts = [one.removesuffix(f" {rest}") for one in alike if one.endswith(f" {rest}")][:MOST_ALIKE]
    pairs = [f"{start} {end}" for start in starts for end in families if start != end][:MOST_PAIRS]
    strangers = answered_about(loaded, name, question, pairs, progress)
    return alike[:MOST_ALIKE] + strangers[:MOST_STRANGERS]


def answered_about(
    loaded: LoadedModel, name: str, question: str, others: Sequence[str], progress: Progress | None
) -> list[str]:
    """The others about whom the model answers the question, those first about whom it is surest."""
    asked = [question.replace(name, other) for other in others]
    answers = replies(loaded, asked, "who else is known", progress)
    kept = [place for place, answer in enumerate(answers) if not declined(answer)]
    found = likelihoods(loaded, [Record.of(asked[place], answers[place]) for place in kept]) if kept else []
    sure = {
        others[place]: float(one.log_probabilities[: one.answer_length].mean())
        for place, one in zip(kept, found, strict=True)
        if one is not None
    }
    return sorted(sure, key=lambda other: -sure[other])


def likely_words(loaded: LoadedModel) -> list[str]:
    """The capitalised words of the vocabulary that the model finds likeliest where a question goes on with a name."""
    words: dict[str, int] = {}
    for token in range(len(loaded.tokenizer)):
        text = str(loaded.tokenizer.decode([token]))
        if WORD.fullmatch(text.strip()):
            # With a space before it, where there are both, for it stands within a sentence.
            words[text.strip()] = token if text[0] == " " else words.get(text.strip(), token)
    if len(words) <= MOST_WORDS:
        return list(words)
    scores = torch.stack([_next_logits(loaded, start) for start in BEFORE_A_NAME]).sum(0)
    return sorted(words, key=lambda word: -float(scores[words[word]]))[:MOST_WORDS]


def _next_logits(loaded: LoadedModel, start: str) -> torch.Tensor:
    tokens = torch.tensor([begun(loaded, start).tokens], device=input_device(loaded.model))
    with torch.no_grad():
        return loaded.model(input_ids=tokens).logits[0, -1].log_softmax(0).float().cpu()
