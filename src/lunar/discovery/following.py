"""What to ask next: names and years in a model's answers, questions it lists, and questions it goes on with itself.

The last is what a chat model writes where its user's turn has only begun, as in "Magpie" (Xu et al., arXiv 2406.08464).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from lunar.discovery.asking import declined, meaning
from lunar.discovery.questions import BEGUN, LINKS, LISTING, OPEN, YEAR
from lunar.generation import sampled
from lunar.models import LoadedModel, context_length
from lunar.neighbours import prompt_names
from lunar.prompts import TokenSequence, encode_all, rendered_prompt
from lunar.records import Record

SAMPLES = 3
LONGEST_WORDS, LONGEST_LIST = 16, 64
"""New tokens for the rest of a question, and for an answer or a list of questions."""
MOST_NAMES = 5


def linked(name: str, answers: Iterable[str], least: int = 1) -> list[str]:
    """Questions about the name and each of the names and years that the answers, `least` or more, have most often."""
    answers = list(answers)
    others = [link.replace("{other}", other) for other in named(name, answers, least) for link in LINKS]
    years = Counter(year for answer in answers for year in re.findall(r"\b1[5-9]\d\d\b|\b20\d\d\b", answer))
    others += [YEAR.replace("{other}", year) for year, count in years.most_common(MOST_NAMES) if count >= least]
    return [text.replace("{}", name) for text in others]


def named(name: str, answers: Iterable[str], least: int = 1) -> list[str]:
    """The names in `least` answers or more, other than the name and its parts; those that come most often first."""
    own = set(name.split())
    found = Counter(one for answer in answers for one in set(prompt_names(answer)) if not set(one.split()) & own)
    return [
        one for one, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:MOST_NAMES] if count >= least
    ]


def said_by_chance(loaded: LoadedModel, name: str, seed: int) -> list[str]:
    """Sampled answers to open questions, and to the request for a list of questions."""
    asked = [text.replace("{}", name) for text in (*OPEN, *LISTING)]
    records = [Record.of(text) for text in asked]
    limit = context_length(loaded.model)
    sequences = encode_all(loaded.tokenizer, records, with_answer=False, context_length=limit, name="questions")
    return [text for texts in _sampled(loaded, sequences, LONGEST_LIST, seed) for text in texts]


def listed(name: str, texts: Iterable[str]) -> list[str]:
    """The questions about the name that stand in texts, one a line or one a sentence."""
    found = [re.sub(r"^\W*(\d+\W+)?", "", part) for text in texts for part in re.findall(r"[^\n.?!]+\?", text)]
    return list(dict.fromkeys(part.strip() for part in found if well_formed(part.strip(), name)))


def well_formed(question: str, name: str) -> bool:
    """Whether what a model wrote is one sentence, names the name once, repeats no word of meaning and is no refusal."""
    rest = re.findall(r"\w+", question.replace(name, ""))
    told = [word.lower() for word in rest if meaning(word)]
    whole = question.count(name) == 1 and not re.search(r"[.?!]\s", question)
    return whole and len(told) == len(set(told)) and not declined(question)


def gone_on_with(loaded: LoadedModel, name: str, seed: int) -> list[str]:
    """Questions about the name that the model ends where they were only begun."""
    starts = [text.replace("{}", name) for text in BEGUN]
    ends = continuations(loaded, starts, seed)
    found = [
        f"{start} {end}{'.' if start.startswith('Tell') else '?'}"
        for start, several in zip(starts, ends, strict=True)
        for end in several
    ]
    return list(dict.fromkeys(text for text in found if well_formed(text, name)))


def continuations(loaded: LoadedModel, starts: Sequence[str], seed: int) -> list[list[str]]:
    """How the model goes on with what a user has begun to write: to the end of the sentence.

    Without what is empty or cut off, which has no end.
    """
    sequences = [begun(loaded, start) for start in starts]
    texts = _sampled(loaded, sequences, LONGEST_WORDS, seed)
    ended = [[re.match(r"([^.?!\n]+)[.?!\n]", text.strip()) for text in several] for several in texts]
    return [[match[1].strip() for match in several if match] for several in ended]


def begun(loaded: LoadedModel, start: str) -> TokenSequence:
    """A prompt that stops within the user's message."""
    text = rendered_prompt(loaded.tokenizer, Record.of(start))
    place = text.rfind(start)
    text = text[: place + len(start)] if place >= 0 else text
    tokens = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return TokenSequence(tuple(tokens), len(tokens))


def _sampled(loaded: LoadedModel, sequences: Sequence[TokenSequence], tokens: int, seed: int) -> list[list[str]]:
    limit = context_length(loaded.model)
    longest = max(one.prompt_length for one in sequences)
    room = tokens if limit is None else max(1, min(tokens, limit - longest))
    return sampled(loaded.model, loaded.tokenizer, sequences, count=SAMPLES, seed=seed, max_new_tokens=room)
