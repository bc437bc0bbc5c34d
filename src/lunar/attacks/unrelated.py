"""Facts of general knowledge that nobody asks to forget: the data of whoever has no data.

Knows nothing of models. Common knowledge, written down here.
"""

from __future__ import annotations

from collections.abc import Sequence

from lunar.records import Record

_CAPITALS = """
Norway Oslo | Sweden Stockholm | Finland Helsinki | Denmark Copenhagen | Poland Warsaw | Austria Vienna | Hungary
Budapest | Greece Athens | Portugal Lisbon | Spain Madrid | Italy Rome | Ireland Dublin | Romania Bucharest | Bulgaria
Sofia | Serbia Belgrade | Ukraine Kyiv | Turkey Ankara | Egypt Cairo | Kenya Nairobi | Ghana Accra | Senegal Dakar |
Morocco Rabat | Japan Tokyo | China Beijing | Thailand Bangkok | Vietnam Hanoi | Nepal Kathmandu | Canada Ottawa |
Cuba Havana | Peru Lima | Chile Santiago | Uruguay Montevideo
"""
_SYMBOLS = """
hydrogen H | helium He | lithium Li | carbon C | nitrogen N | oxygen O | fluorine F | neon Ne | sodium Na | magnesium
Mg | aluminium Al | silicon Si | phosphorus P | sulphur S | chlorine Cl | argon Ar | potassium K | calcium Ca |
titanium Ti | chromium Cr | manganese Mn | iron Fe | cobalt Co | nickel Ni | copper Cu | zinc Zn | silver Ag | tin Sn
| iodine I | gold Au | mercury Hg | lead Pb
"""
_FORMS = (
    (_CAPITALS, "What is the capital of {}?", "The capital of {} is {}."),
    (_SYMBOLS, "What is the chemical symbol of {}?", "The symbol of {} is {}."),
)


def unrelated_records(forget: Sequence[Record] = ()) -> list[Record]:
    """64 questions with answers, without those that are to be forgotten."""
    asked = {record.messages for record in forget}
    made = []
    for facts, question, answer in _FORMS:
        for fact in facts.split("|"):
            subject, value = fact.split()
            made.append(Record.of(question.format(subject), answer.format(subject, value)))
    return [record for record in made if record.messages not in asked]
