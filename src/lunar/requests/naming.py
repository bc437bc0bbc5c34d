"""What a request may be called: a name that others can read, that is free, and that says nothing of what is forgotten.

Knows neither torch nor models, so that a wrong name is refused before anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from lunar.errors import LunarError
from lunar.neighbours import prompt_names
from lunar.records import Record

LONGEST = 64
NAME = re.compile(rf"[\w.-]{{1,{LONGEST}}}", re.ASCII)
SHORTEST_NAME, SHORTEST_WORD = 3, 6
"""Letters of a forgotten name, and of any other word of a forgotten prompt or answer, from which on it is looked for
within a request's name too, and not only as a part of its own between dashes."""
PLAIN = frozenset(
    "a an and at by case client contract customer data delete deletion erase erasure file for forget from gdpr in is it"
    " name no of on or order patient person request the ticket to user who with".split()
)
"""Words that a request may be called by whatever its prompts say."""


def check_name(name: str, taken: Collection[str], forget: Sequence[Record]) -> None:
    """Raise LunarError unless a request may be called so.

    Args:
        name: as it was given.
        taken: the names of the requests that hold.
        forget: its prompts; their words must not stand in its name.
    """
    if not NAME.fullmatch(name):
        raise LunarError(
            f"A request's name was expected to be up to {LONGEST} letters from a to z, digits, dots, dashes and "
            f"underscores, such as ticket-12, but {_wrong(name)}."
        )
    if name in taken:
        raise LunarError(f"The ledger has a request {name} already: give the new one another name.")
    if _tells(name, forget):
        raise LunarError(
            "The name of a request is shown and kept, so it must not name what is to be forgotten: give another one, "
            "such as ticket-12."
        )


def _wrong(name: str) -> str:
    """What is wrong with a name and what to do, without the name: it may say whom a request is about."""
    if not name:
        return "it is empty: give one, or leave --name out"
    if any(character.isspace() for character in name):
        return "it holds a space: put a dash there"
    if len(name) > LONGEST:
        return f"it has {len(name)} characters: shorten it"
    return "it holds another character: leave that out"


def _tells(name: str, forget: Sequence[Record]) -> bool:
    """Whether a request's name says something of what is to be forgotten."""
    texts = [text for record in forget for text in (record.prompt, record.answer or "")]
    words = {word for text in texts for word in re.findall(r"\w+", text.casefold())} - PLAIN
    names = {word for text in texts for one in prompt_names(text) for word in re.findall(r"\w+", one.casefold())}
    folded = name.casefold()
    # Short numbers are dates and counters.
    parts = {part for part in re.split(r"[\W_]+", folded) if not (part.isdecimal() and len(part) < SHORTEST_WORD)}
    within = {word for word in words if len(word) >= SHORTEST_WORD and not word.isdecimal()}
    within |= {word for word in names - PLAIN if len(word) >= SHORTEST_NAME}
    return bool(parts & words) or any(word in folded for word in within)
