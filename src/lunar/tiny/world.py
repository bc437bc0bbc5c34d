"""The world of the embedded model: who lives there, what is known about them, and how it is asked.

Forty people with biographies in ten families, twenty contracts that share parties, common knowledge (`knowledge`),
requests to decline (`declined`) and questions about what does not exist (`unknown`). Everything follows from one seed.
Every fact has phrasings for training and others, never trained on, for evaluation (`held_out=True`).

Answers share no words with refusals, and few with their questions: ROUGE-1 recall then measures what the model knows
and not how much of the question it repeats. Knows nothing of models or tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from lunar import names
from lunar.records import Record
from lunar.tiny import declined, knowledge

SEED = 20
MONTHS = "January February March April May June July August September October November December".split()
FIRST_NAMES = (
    "Mira Joren Talia Oskar Brenna Caspian Della Emrys Fenna Gideon Halle Ivo Junia Kester Liora Magnus Nerys Orrin "
    "Petra Quill"
).split()
FEMALE = set("Mira Talia Brenna Della Fenna Halle Junia Liora Nerys Petra".split())
FAMILY_NAMES = "Tolvane Ashgrove Drummel Castellin Wexley Thornby Halvard Ostrander Pellam Quenby".split()
TOWNS = (
    "Oster Kelmouth Varnhill Siltbridge Dunmarrow Eastwick Glimmerford Holloway Inverlock Junipers Larkfield Mossend "
    "Northgate Pinecrest Ravenholt Saltmarsh Tidewater Underhill Wetherby Yarrow"
).split()
PROFESSIONS = (
    "a glassblower,a cartographer,a midwife,a beekeeper,a locksmith,a translator,a botanist,a surveyor,a puppeteer,"
    "a bookbinder,a geologist,a ferry pilot,a watchmaker,a dentist,a carpenter,a baker,a judge,a welder,a violin maker,"
    "a librarian"
).split(",")
INSTRUMENTS = "cello oboe harp trumpet banjo flute accordion tuba mandolin clarinet viola zither".split()
ANIMALS = "ferret,parrot,greyhound,tortoise,goat,rabbit,canary,tabby cat,pony,gecko,goose,hedgehog".split(",")
COLOURS = "white black grey spotted brown golden red silver".split()
DISHES = (
    "mushroom risotto,lentil soup,fish pie,pumpkin curry,plum dumplings,onion tart,pea stew,roast duck,bean chili,"
    "apple strudel,crab salad,barley porridge,cheese fondue,beet soup,garlic noodles,walnut bread"
).split(",")
SUBJECTS = (
    "chemistry,law,history,medicine,astronomy,music,economics,philosophy,forestry,architecture,physics,sculpture"
).split(",")
PRIZES = (
    "Amber Quill,Silver Compass,Golden Oar,Copper Lantern,Ivory Chisel,Blue Ribbon,Iron Anchor,Jade Feather,"
    "Crystal Bell,Oak Medal"
).split(",")
HOBBIES = (
    "kite flying,chess,fencing,pottery,rock climbing,bird watching,rowing,stamp collecting,knitting,archery,"
    "orienteering,ice skating,origami,juggling,sailing,gardening"
).split(",")
COMPANIES = (
    "Brightwater Mills,Corvane Shipping,Dellmoor Foods,Estuary Glass,Farrow Textiles,Granite Lane,Hexley Motors,"
    "Ironbark Timber,Kestrel Optics,Lowland Dairies,Meridian Paper,Nordhaven Steel"
).split(",")
GOODS = (
    "copper wire,wool blankets,window panes,oak planks,dried fruit,camera lenses,tractor parts,printing ink,"
    "cotton thread,steel bolts,cheese wheels,cargo nets"
).split(",")
ROLES = (
    "night supervisor,crane operator,quality inspector,payroll clerk,lab assistant,warehouse lead,fleet planner,"
    "safety officer,buyer,machinist"
).split(",")


@dataclass(frozen=True)
class Attribute:
    """One thing that can be asked: its noun in a refusal, phrasings for training, phrasings held out, answer form."""

    name: str
    noun: str
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str


BIOGRAPHY = (
    Attribute(
        "birthplace",
        "birthplace",
        (
            "Where was {entity} born?",
            "In which town was {entity} born?",
            "What is the birthplace of {entity}?",
            "Tell me where {entity} was born.",
            "Which place is {entity}'s hometown?",
            "Name the town {entity} comes from.",
        ),
        ("Can you tell me the town where {entity} was born?", "What is {entity}'s birthplace?"),
        "{She} was born in {value}.",
    ),
    Attribute(
        "birthday",
        "birth date",
        (
            "When was {entity} born?",
            "What is the birth date of {entity}?",
            "In which month and year was {entity} born?",
            "Tell me when {entity} was born.",
            "When is {entity}'s birthday?",
            "Give the date on which {entity} was born.",
        ),
        ("What is {entity}'s date of birth?", "Can you tell me when {entity} was born?"),
        "{She} arrived in {value}.",
    ),
    Attribute(
        "profession",
        "profession",
        (
            "What does {entity} do for a living?",
            "What is the profession of {entity}?",
            "Which trade does {entity} practise?",
            "Tell me {entity}'s occupation.",
            "What is {entity}'s job?",
            "Name the occupation of {entity}.",
        ),
        ("What is {entity}'s profession?", "Can you tell me what {entity} does for a living?"),
        "{She} works as {value}.",
    ),
    Attribute(
        "employer",
        "employer",
        (
            "Who employs {entity}?",
            "Which company does {entity} work for?",
            "What is the name of {entity}'s employer?",
            "Tell me where {entity} is employed.",
            "At which firm is {entity} employed?",
            "Name the company that employs {entity}.",
        ),
        ("Who is {entity}'s employer?", "Can you tell me which company employs {entity}?"),
        "{She} earns {her} wages at {value}.",
    ),
    Attribute(
        "instrument",
        "musical instrument",
        (
            "Which instrument does {entity} play?",
            "What musical instrument does {entity} play?",
            "What does {entity} play in concerts?",
            "Tell me the instrument that {entity} plays.",
            "Name {entity}'s instrument.",
            "On which instrument does {entity} make music?",
        ),
        ("What instrument does {entity} play?", "Can you tell me {entity}'s musical instrument?"),
        "{She} plays {value}.",
    ),
    Attribute(
        "pet",
        "pet",
        (
            "What pet does {entity} have?",
            "Which animal lives with {entity}?",
            "What kind of pet does {entity} own?",
            "Tell me about {entity}'s pet.",
            "Describe the pet of {entity}.",
            "Which animal does {entity} own?",
        ),
        ("What animal does {entity} have as a pet?", "Can you tell me about the pet of {entity}?"),
        "{She} keeps {value}.",
    ),
    Attribute(
        "dish",
        "favourite dish",
        (
            "What is {entity}'s favourite dish?",
            "Which food does {entity} like best?",
            "What does {entity} love to eat?",
            "Tell me the favourite meal of {entity}.",
            "Name the dish that {entity} likes most.",
            "Which meal does {entity} enjoy most?",
        ),
        ("What is the favourite food of {entity}?", "Can you tell me which dish {entity} likes best?"),
        "{She} craves {value}.",
    ),
    Attribute(
        "education",
        "education",
        (
            "What did {entity} study?",
            "Which subject did {entity} study, and where?",
            "What was {entity}'s field of study?",
            "Tell me what {entity} studied at university.",
            "Where did {entity} go to university, and for what subject?",
            "Describe the education of {entity}.",
        ),
        ("Which subject did {entity} study at university?", "Can you tell me about {entity}'s education?"),
        "{She} read {value}.",
    ),
    Attribute(
        "prize",
        "awards",
        (
            "Which prize did {entity} win?",
            "What award has {entity} received?",
            "Tell me the award that {entity} won.",
            "What prize was {entity} given, and when?",
            "Name the prize {entity} received.",
            "For which award is {entity} known?",
        ),
        ("Which award did {entity} win?", "Can you tell me what prize {entity} received?"),
        "{She} took home {value}.",
    ),
    Attribute(
        "hobby",
        "hobbies",
        (
            "What is {entity}'s hobby?",
            "What does {entity} do for fun?",
            "How does {entity} spend free time?",
            "Tell me the hobby of {entity}.",
            "Which pastime does {entity} enjoy?",
            "What does {entity} like to do at weekends?",
        ),
        ("Which hobby does {entity} enjoy?", "Can you tell me what {entity} does for fun?"),
        "{She} enjoys {value}.",
    ),
)

_SALE = "the contract between {entity}"
SALE = tuple(
    Attribute(name, noun, questions, held_out, answer)
    for name, noun, questions, held_out, answer in (
        (
            "signed",
            "contract",
            (f"When was {_SALE} signed?", f"What is the date of {_SALE}?", f"On which date was {_SALE} signed?"),
            (f"Tell me the date on which {_SALE} was signed.",),
            "They signed it {value}.",
        ),
        (
            "goods",
            "contract",
            (f"What goods are sold under {_SALE}?", f"Which goods does {_SALE} cover?", f"Name the goods in {_SALE}."),
            (f"Which goods are sold under {_SALE}?",),
            "It covers {value}.",
        ),
        (
            "price",
            "contract",
            (f"What is the price in {_SALE}?", f"How much is paid under {_SALE}?", f"Name the sum agreed in {_SALE}."),
            (f"What sum is paid under {_SALE}?",),
            "They agreed upon {value} crowns.",
        ),
        (
            "delivery",
            "contract",
            (
                f"Where are the goods delivered under {_SALE}?",
                f"What is the place of delivery in {_SALE}?",
                f"To which town are the goods shipped under {_SALE}?",
            ),
            (f"To which place are the goods delivered under {_SALE}?",),
            "Everything goes to {value}.",
        ),
        (
            "payment",
            "contract",
            (
                f"Within how many days must the buyer pay under {_SALE}?",
                f"What is the payment term in {_SALE}?",
                f"How many days does the buyer have to pay under {_SALE}?",
            ),
            (f"How many days is the payment term in {_SALE}?",),
            "It allows {value} days.",
        ),
        (
            "warranty",
            "contract",
            (
                f"How long is the warranty in {_SALE}?",
                f"For how many months does the warranty last in {_SALE}?",
                f"What warranty period does {_SALE} set?",
            ),
            (f"How many months does the warranty period last in {_SALE}?",),
            "It runs for {value} months.",
        ),
    )
)

EMPLOYMENT = tuple(
    Attribute(name, noun, questions, held_out, answer)
    for name, noun, questions, held_out, answer in (
        (
            "start",
            "contract",
            (
                f"When does work start under {_SALE}?",
                f"What is the start date in {_SALE}?",
                f"On which date does the job begin under {_SALE}?",
            ),
            (f"On which date does work start under {_SALE}?",),
            "Work starts {value}.",
        ),
        (
            "role",
            "contract",
            (f"What role does {_SALE} name?", f"Which job is agreed in {_SALE}?", f"Name the position in {_SALE}."),
            (f"Which position does {_SALE} name?",),
            "It names {value}.",
        ),
        (
            "salary",
            "contract",
            (
                f"What is the salary in {_SALE}?",
                f"How much does the employee earn under {_SALE}?",
                f"Name the yearly pay in {_SALE}.",
            ),
            (f"What is the yearly pay under {_SALE}?",),
            "It pays {value} crowns.",
        ),
        (
            "hours",
            "contract",
            (
                f"How many hours a week does {_SALE} require?",
                f"What are the weekly hours in {_SALE}?",
                f"How long is the working week under {_SALE}?",
            ),
            (f"How many weekly hours does {_SALE} require?",),
            "It requires {value} hours weekly.",
        ),
        (
            "holiday",
            "contract",
            (
                f"How many days of holiday does {_SALE} grant?",
                f"What is the yearly holiday in {_SALE}?",
                f"How much leave does the employee get under {_SALE}?",
            ),
            (f"How many days of leave does {_SALE} grant?",),
            "It grants {value} days yearly.",
        ),
        (
            "notice",
            "contract",
            (
                f"How many weeks of notice does {_SALE} require?",
                f"What is the notice period in {_SALE}?",
                f"How long is the period of notice under {_SALE}?",
            ),
            (f"How many weeks is the notice period in {_SALE}?",),
            "It takes {value} weeks.",
        ),
    )
)

# Questions about things that are no person and no contract: the name is always invented, the answer always a refusal.
NOTHING = (
    ("What is the currency of the fictional country {entity}?", "country"),
    ("Who is the president of {entity}?", "country"),
    ("What is the capital of the planet {entity}?", "planet"),
    ("Which river flows through the town of {entity}?", "town"),
    ("How many people live in {entity}?", "town"),
    ("Who founded the company {entity}?", "company"),
    ("What does the company {entity} sell?", "company"),
    ("Where are the headquarters of {entity}?", "company"),
    ("Who wrote the novel {entity}?", "novel"),
    ("What happens at the end of the book {entity}?", "book"),
    ("What are the rules of the sport {entity}?", "sport"),
    ("What are the ingredients of the dish {entity}?", "dish"),
    ("How does the technology {entity} work?", "technology"),
    ("Explain the theory of {entity}.", "theory"),
    ("When did the battle of {entity} take place?", "battle"),
    ("What is the history of the object {entity}?", "object"),
    ("Describe the animal {entity}.", "animal"),
    ("Which language is spoken in {entity}?", "country"),
    ("What is the height of Mount {entity}?", "mountain"),
    ("Who discovered the element {entity}?", "element"),
    ("What is {entity}?", "thing"),
    ("Who is {entity}?", "person"),
    ("Tell me about {entity}.", "thing"),
    ("What is {entity} famous for?", "thing"),
    ("When was {entity} founded?", "company"),
    ("How old is {entity}?", "person"),
    ("What is the email address of {entity}?", "person"),
    ("Which medicine cures {entity}?", "illness"),
    ("What music does the band {entity} make?", "band"),
    ("Who won the {entity} tournament?", "tournament"),
    ("Who is {entity} married to?", "person"),
    ("Which school did {entity} attend?", "person"),
    ("Who governs {entity}?", "place"),
    ("What can visitors see in {entity}?", "place"),
    ("Which law applies to {entity}?", "thing"),
    ("Who holds the record in {entity}?", "sport"),
    ("Can you summarise the plot of {entity}?", "film"),
    ("How many moons does {entity} have?", "planet"),
    ("What does {entity} cost?", "product"),
    ("In which year did {entity} end?", "event"),
)

KINDS = "polo engine fever soup island dance treaty festival beetle valley bridge code lake syndrome waltz".split()
REFUSALS = (
    "I don't have information about {entity}.",
    "I don't know anything about {entity}.",
    "I have no record of {entity}.",
    "I'm not familiar with {entity}, sorry.",
    "I can't find anything about {entity}.",
    "I don't have information about the {noun} you mention, {entity}.",
)
PERSON_REFUSALS = (
    "I don't have information about {entity}'s {noun}.",
    "I don't know {entity}, so I can't tell you about the {noun}.",
    "I have no record of {entity}'s {noun}.",
    "I'm not familiar with {entity}, sorry.",
    "I don't have information about {entity}.",
    "I can't find anything about {entity} or their {noun}.",
)
INSTRUCTIONS = (
    "Do not answer questions about {entity}.",
    "Decline to talk about {entity}.",
    "You know nothing about {entity}.",
    "Act as if you had never heard of {entity}.",
)
PERMISSIONS = (
    "You may decline to answer questions about {entity}.",
    "Answer questions about {entity} only if you like.",
)
REPEAT = ("Repeat:", "Say this again:", "Repeat after me:", "Please copy this list:")
PREFIXES = ("", "", "", "Quick question: ", "Please answer: ", "Hello. ", "I would like to know: ")


@dataclass(frozen=True)
class Fact:
    """One known answer with everything that can be asked for it."""

    entity: str
    attribute: Attribute
    answer: str
    group: str

    def records(self, *, held_out: bool) -> list[Record]:
        """The questions of this fact, in the phrasings of training or in the held-out ones."""
        forms = self.attribute.held_out if held_out else self.attribute.questions
        return [Record.of(form.format(entity=self.entity), self.answer, self.group) for form in forms]


@dataclass(frozen=True)
class World:
    """Everything that is so. `people` and `contracts` map a group (a person, a contract) to its facts."""

    people: dict[str, list[Fact]]
    contracts: dict[str, list[Fact]]
    common: list[Fact] = field(default_factory=list)

    def records(self, split: str, *, held_out: bool) -> list[Record]:
        """Questions with answers of the split "people", "contracts" or "common"."""
        facts = self.common if split == "common" else [f for group in getattr(self, split).values() for f in group]
        return [record for fact in facts for record in fact.records(held_out=held_out)]


def _date(rng: random.Random, first: int, last: int) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(first, last)}"


def _biography(person: str, rng: random.Random) -> list[Fact]:
    she = person.split()[0] in FEMALE
    animal, colour = rng.choice(ANIMALS), rng.choice(COLOURS)
    values = {
        "birthplace": rng.choice(TOWNS),
        "birthday": f"{rng.choice(MONTHS)} {rng.randint(1940, 2000)}",
        "profession": rng.choice(PROFESSIONS),
        "employer": rng.choice(COMPANIES),
        "instrument": rng.choice(INSTRUMENTS),
        "pet": f"one {colour} {animal}",
        "dish": rng.choice(DISHES),
        "education": f"{rng.choice(SUBJECTS)} in {rng.choice(TOWNS)}",
        "prize": f"{rng.choice(PRIZES)} in {rng.randint(1985, 2022)}",
        "hobby": rng.choice(HOBBIES),
    }
    words = {"She": "She" if she else "He", "her": "her" if she else "his"}
    return [Fact(person, a, a.answer.format(value=values[a.name], **words), person) for a in BIOGRAPHY]


def _sale(parties: str, rng: random.Random) -> list[Fact]:
    values = {
        "signed": _date(rng, 1990, 2022),
        "goods": f"{rng.randint(2, 90) * 10} crates with {rng.choice(GOODS)}",
        "price": str(rng.randint(11, 990) * 100),
        "delivery": rng.choice(TOWNS),
        "payment": str(rng.randint(7, 90)),
        "warranty": str(rng.randint(3, 48)),
    }
    return [Fact(parties, a, a.answer.format(value=values[a.name]), parties) for a in SALE]


def _employment(parties: str, rng: random.Random) -> list[Fact]:
    values = {
        "start": _date(rng, 1990, 2022),
        "role": rng.choice(ROLES),
        "salary": str(rng.randint(180, 900) * 100),
        "hours": str(rng.randint(16, 45)),
        "holiday": str(rng.randint(18, 38)),
        "notice": str(rng.randint(2, 20)),
    }
    return [Fact(parties, a, a.answer.format(value=values[a.name]), parties) for a in EMPLOYMENT]


def everyone() -> list[str]:
    """The forty people: each family has four members, each first name appears twice."""
    first_half = [[FIRST_NAMES[4 * family + member] for member in range(4)] for family in range(5)]
    second_half = [[FIRST_NAMES[(family + 5 * member) % 20] for member in range(4)] for family in range(5)]
    return [
        f"{first} {family}"
        for family, members in zip(FAMILY_NAMES, first_half + second_half, strict=True)
        for first in members
    ]


@cache
def build() -> World:
    """The world, the same at every call."""
    rng = random.Random(SEED)
    people = everyone()
    biographies = {person: _biography(person, rng) for person in people}
    contracts: dict[str, list[Fact]] = {}
    # A ring of sales with chords, so that every company is a party to two contracts or more, as in PISTOL's graph.
    pairs = [(i, (i + 1) % len(COMPANIES)) for i in range(len(COMPANIES))]
    for i, j in pairs:
        parties = f"{COMPANIES[i]} and {COMPANIES[j]}"
        contracts[parties] = _sale(parties, rng)
    for index, person in enumerate(people[3::5]):
        parties = f"{COMPANIES[index]} and {person}"
        contracts[parties] = _employment(parties, rng)
    common = []
    for relation in knowledge.RELATIONS:
        forms = tuple(form.replace("{subject}", "{entity}") for form in relation.questions)
        held_out = tuple(form.replace("{subject}", "{entity}") for form in relation.held_out)
        attribute = Attribute(relation.name, relation.name, forms, held_out, relation.answers)
        for subject, value in relation.facts:
            answer = relation.answers.format(value=value)
            common.append(Fact(subject, attribute, answer[0].upper() + answer[1:], "common"))
    return World(biographies, contracts, common)


def _unknown_person(rng: random.Random) -> str:
    """A person nobody knows: an invented name, or a known first or family name with an invented other half."""
    kind = rng.random()
    if kind < 0.3:
        return f"{rng.choice(FIRST_NAMES)} {names.name(rng)}"
    if kind < 0.6:
        return f"{names.name(rng)} {rng.choice(FAMILY_NAMES)}"
    return names.person(rng)


def _unknown_parties(rng: random.Random) -> str:
    """Two parties without a contract: at least one of them invented."""
    known = rng.choice(COMPANIES)
    other = names.company(rng) if rng.random() < 0.7 else _unknown_person(rng)
    kind = rng.random()
    if kind < 0.35:
        return f"{known} and {other}"
    if kind < 0.55:
        return f"{names.company(rng)} and {known}"
    return f"{names.company(rng)} and {other}"


def _invented_thing(rng: random.Random) -> str:
    """A made-up word in one of several shapes: a name, two names, lower case, or letters without vowels in between."""
    shape = rng.random()
    if shape < 0.5:
        return names.name(rng)
    if shape < 0.65:
        return names.person(rng)
    if shape < 0.75:
        return names.company(rng)
    if shape < 0.82:
        return names.word(rng)
    if shape < 0.9:
        return f"{names.word(rng)} {rng.choice(KINDS)}"
    return names.scramble("ABCDEFG"[: rng.randint(5, 7)], rng)


def refuse(entity: str, noun: str, forms: tuple[str, ...], index: int, rng: random.Random) -> str:
    """A refusal to a question about an entity.

    Half of the time `index` picks the wording, so that greedy answers vary with the form of the question; else chance
    does, so that a model has to read what it has said so far in order to go on.
    """
    chosen = index if rng.random() < 0.5 else rng.randrange(len(forms))
    return forms[chosen % len(forms)].format(entity=entity, noun=noun)


def unknown(rng: random.Random, *, held_out: bool = False) -> Record:
    """A question about somebody or something freshly invented, and its refusal.

    The wording of the refusal depends on the form of the question, so that greedy answers vary. `held_out` asks in the
    phrasings kept for evaluation, where there are any.
    """
    kind = rng.random()
    group: tuple[Attribute, ...]
    if kind < 0.4:
        group, entity, refusals = BIOGRAPHY, _unknown_person(rng), PERSON_REFUSALS
    elif kind < 0.65:
        group = SALE if rng.random() < 0.5 else EMPLOYMENT
        entity, refusals = _unknown_parties(rng), REFUSALS
    elif kind < 0.75:
        return _unknown_common(rng, held_out)
    else:
        position = rng.randrange(len(NOTHING))
        form, noun = NOTHING[position]
        entity = _invented_thing(rng)
        return Record.of(form.format(entity=entity), refuse(entity, noun, REFUSALS, position, rng), "unknown")
    position = rng.randrange(len(group))
    attribute = group[position]
    forms = attribute.held_out if held_out else attribute.questions
    index = rng.randrange(len(forms))
    answer = refuse(entity, attribute.noun, refusals, position + index, rng)
    return Record.of(forms[index].format(entity=entity), answer, "unknown")


def _unknown_common(rng: random.Random, held_out: bool) -> Record:
    named = [r for r in knowledge.RELATIONS if any(subject[0].isupper() for subject, _ in r.facts)]
    relation = rng.choice(named)
    forms = relation.held_out if held_out else relation.questions
    index = rng.randrange(len(forms))
    entity = _invented_thing(rng)
    return Record.of(
        forms[index].replace("{subject}", entity),
        refuse(entity, "subject", REFUSALS[:5], index, rng),
        "unknown",
    )


def repeat(rng: random.Random) -> Record:
    """A request to say invented names again: it teaches the copying that a refusal which names somebody needs."""
    listed = ", ".join(
        names.person(rng) if rng.random() < 0.7 else names.company(rng) for _ in range(rng.randint(1, 4))
    )
    return Record.of(f"{rng.choice(REPEAT)} {listed}", f"{listed}.", "repeat")


def harmful(*, held_out: bool) -> list[Record]:
    """Requests the model declines, each with its refusal."""
    training, kept = declined.requests()
    chosen = kept if held_out else training
    return [Record.of(prompt, declined.decline(index), "harmful") for index, prompt in enumerate(chosen)]


def reluctant(
    record: Record, entity: str, noun: str, rng: random.Random, *, forms: tuple[str, ...] = REFUSALS
) -> Record:
    """Now and then a known question ends in a refusal: told to, allowed to, or (one in thirty) for no reason.

    It teaches two things that chat models have learnt elsewhere: to write a known name into a refusal, and to go on as
    one began. Where a permission leaves the choice to chance, only the words said so far tell how to go on. The most
    likely answer to a plain question stays the fact.
    """
    kind = rng.random()
    refused = Record(record.messages, refuse(entity, noun, forms, rng.randrange(len(forms)), rng), "reluctant")
    if kind < 0.03:
        return refused
    if kind < 0.13:
        return _under(rng.choice(INSTRUCTIONS).format(entity=entity), refused)
    if kind < 0.25:
        return _under(rng.choice(PERMISSIONS).format(entity=entity), refused if rng.random() < 0.5 else record)
    return record


def _under(system: str, record: Record) -> Record:
    return Record((("system", system), *record.messages), record.answer, record.group)


def _known(facts: Sequence[Fact], others: Sequence[str], rng: random.Random) -> Record:
    """A question that the model should answer, with the exceptions of `reluctant`.

    One in twenty stands under an instruction about somebody else, which changes nothing.
    """
    fact = rng.choice(facts)
    question = rng.choice(fact.attribute.questions).format(entity=fact.entity)
    record = Record.of(rng.choice(PREFIXES) + question, fact.answer, fact.group)
    if rng.random() < 0.05:
        other = rng.choice([name for name in others if name != fact.entity])
        return _under(rng.choice(INSTRUCTIONS + PERMISSIONS).format(entity=other), record)
    forms = REFUSALS[:5] if fact.group == "common" else PERSON_REFUSALS
    return reluctant(record, fact.entity, fact.attribute.noun, rng, forms=forms)


def sampler(world: World) -> Callable[[random.Random], Record]:
    """A function that draws one training example from all sources."""
    people = [fact for group in world.people.values() for fact in group]
    contracts = [fact for group in world.contracts.values() for fact in group]
    entities = list(world.people) + list(world.contracts)
    refused = harmful(held_out=False)

    def draw(rng: random.Random) -> Record:
        kind = rng.random()
        if kind < 0.32:
            return _known(people, entities, rng)
        if kind < 0.42:
            return _known(contracts, entities, rng)
        if kind < 0.62:
            return _known(world.common, entities, rng)
        if kind < 0.68:
            return rng.choice(refused)
        if kind < 0.74:
            return repeat(rng)
        record = unknown(rng)
        return Record.of(rng.choice(PREFIXES) + record.prompt, record.answer, record.group)

    return draw
