"""Invented names: people, companies and things that do not exist.

Knows nothing of models. Used to teach a model to decline what it never heard of, and to make neighbours of real
questions by putting an invented name in the place of a known one.
"""

from __future__ import annotations

import random
import re
import string

ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w y z".split()
NUCLEI = "a e i o u ai au ea ee ia io oa ou".split()
CODAS = ["", "", "", "l", "m", "n", "nd", "r", "rk", "s", "st", "t", "th", "x"]
COMPANY_ENDINGS = ("Ltd", "Inc", "Group", "Works", "Partners", "Trading", "Mills", "Lines")
LEGAL_FORMS = ("SAS", "SA", "AG", "PLC", "LLC", "NV", "Inc", "GmbH", "Corp", "Ltd")


def word(rng: random.Random, syllables: tuple[int, int] = (2, 3)) -> str:
    """An invented, pronounceable word in lower case with a number of syllables in the given closed range."""
    count = rng.randint(*syllables)
    return "".join(rng.choice(ONSETS) + rng.choice(NUCLEI) + rng.choice(CODAS) for _ in range(count))


def name(rng: random.Random) -> str:
    """An invented single name: "Skeanvo"."""
    return word(rng).capitalize()


def person(rng: random.Random) -> str:
    """An invented first and last name, sometimes with a middle initial."""
    middle = f" {rng.choice(string.ascii_uppercase)}." if rng.random() < 0.05 else ""
    return f"{name(rng)}{middle} {name(rng)}"


def company(rng: random.Random) -> str:
    """An invented company."""
    return f"{name(rng)} {rng.choice(COMPANY_ENDINGS + LEGAL_FORMS)}"


def scramble(text: str, rng: random.Random) -> str:
    """An invented name of the same shape: letters for letters, digits for digits; a legal form at the end is kept.

    About a third of the results are pronounceable words instead, so that the shape alone does not give them away.
    """
    parts = text.split()
    for index, part in enumerate(parts):
        if part.rstrip(".,") in LEGAL_FORMS + COMPANY_ENDINGS and index > 0:
            parts[index] = rng.choice(LEGAL_FORMS + COMPANY_ENDINGS) if rng.random() < 0.5 else part
        elif rng.random() < 0.3 and part[:1].isalpha():
            parts[index] = name(rng)
        else:
            letters = re.sub("[a-z]", lambda _: rng.choice(string.ascii_lowercase), part)
            letters = re.sub("[A-Z]", lambda _: rng.choice(string.ascii_uppercase), letters)
            parts[index] = re.sub("[0-9]", lambda _: rng.choice(string.digits), letters)
    return " ".join(parts)
