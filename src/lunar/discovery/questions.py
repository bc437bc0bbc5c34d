"""What can be asked about a person, a company, a contract or a thing: topics, and the phrasings of each. Data only.

A topic is a line of items separated by semicolons: a whole question, a clause that can be told ("where {} was born"),
or nouns separated by commas ("birthplace, home town"). `questions` puts clauses and nouns into frames, so that every
topic is asked in several phrasings; `{}` is the place of the name.
"""

from __future__ import annotations

import re

from lunar.names import COMPANY_ENDINGS, LEGAL_FORMS

PERSON, COMPANY, CONTRACT, THING = KINDS = ("person", "company", "contract", "thing")

CLAUSE_FRAMES = ("Can you tell me {clause}?", "Tell me {clause}.")
NOUN_FRAMES = {
    PERSON: ("What is {}'s {noun}?", "What is the {noun} of {}?", "Can you tell me {}'s {noun}?"),
    CONTRACT: ("What is the {noun} in {}?", "Tell me the {noun} in {}."),
}
NOUN_FRAMES[COMPANY] = NOUN_FRAMES[THING] = NOUN_FRAMES[PERSON]

OPEN = ("Who is {}?", "Tell me about {}.", "What do you know about {}?", "Describe {}.")
"""Asked of every name, also several times by chance: what the model itself comes up with."""

BEGUN = (
    "What is {}'s", "Tell me about {}'s", "What is the", "Which", "Where did {}", "When did {}", "How does {}",
    "Can you tell me {}'s",
)  # fmt: skip
"""Beginnings of questions that the model is to go on with."""

LINKS = (
    "What is the connection between {} and {other}?", "What does {} do at {other}?", "How does {} know {other}?",
    "What do you know about {} and {other}?", "What was agreed between {} and {other}?",
)  # fmt: skip
"""Asked about a name that came up in an answer."""

YEAR = "What happened to {} in {other}?"
"""Asked about a year that came up in an answer."""

LISTING = ("Write a list of questions about {}, one on each line.", "Which questions about {} can you answer?")

TOPICS = {
    PERSON: """
birthplace, home town; Where was {} born?; In which town was {} born?; Where does {} come from?; where {} was born;
    which town {} comes from
date of birth, birth date, birthday; When was {} born?; In which year was {} born?; when {} was born
age; How old is {}?; how old {} is
home address, place of residence; Where does {} live?; where {} lives
email address; How can I write to {}?
phone number; How can I call {}?
nationality; Which country is {} from?
job, profession, occupation, trade; What does {} do for a living?; What does {} work as?; what {} does for a living
employer; Where does {} work?; Who employs {}?; Which company does {} work for?; Who does {} work for?; where {} works;
    which company employs {}; who employs {}
salary, income; How much does {} earn?; how much {} earns
career; Where did {} work before?; where {} worked before
education, field of study, degree; What did {} study?; Which university did {} attend?; Where did {} study?;
    Which subject did {} study?; what {} studied; which subject {} studied at university
school; Which school did {} go to?
spouse, partner; Who is {} married to?; who {} is married to
children; Does {} have children?; how many children {} has
parents, mother, father; Who are the parents of {}?; who the parents of {} are
siblings; Does {} have brothers or sisters?
friends; Who are the friends of {}?
pet, favourite animal; Which pet does {} have?; What animal does {} have?; What animal lives with {}?;
    Does {} have a pet?; which pet {} has; which animal {} keeps
hobby, favourite pastime; What does {} do for fun?; What does {} do in the free time?; Which hobby does {} have?;
    How does {} spend the weekend?; what {} does for fun; which hobby {} enjoys
instrument, musical instrument; Which instrument does {} play?; What instrument does {} play?; What does {} play?;
    which instrument {} plays
sport; Which sport does {} play?; which sport {} plays
favourite food, favourite dish, favourite meal; What does {} like to eat?; Which food does {} like best?;
    Which dish does {} like most?; what {} likes to eat; which dish {} likes best
favourite drink; What does {} like to drink?
favourite book; What does {} like to read?
favourite music; What music does {} listen to?
favourite colour; Which colour does {} like?
award, prize; Which prize did {} win?; Which award did {} receive?; What was {} honoured for?; What prize has {} won?;
    which prize {} won; which award {} received
greatest achievement; What is {} known for?; What is {} famous for?; what {} is known for
publications; What has {} written?; Which books did {} write?; what {} has written
languages; Which languages does {} speak?; which languages {} speaks
religion; What does {} believe in?
political views; Which party does {} vote for?
health, illness; Which illness does {} have?; which illness {} has
appearance, height; What does {} look like?; what {} looks like
car; Which car does {} drive?
criminal record; What was {} convicted of?
bank, account number; Which bank does {} use?
contracts; Which contracts has {} signed?
travels; Where did {} travel?
death; When did {} die?; when {} died
""",
    COMPANY: """
founder; Who founded {}?; who founded {}
year of foundation; When was {} founded?; when {} was founded
headquarters, address; Where is {} based?; Where are the headquarters of {}?; where {} is based
description; What is {}?
products, services; What does {} sell?; What does {} make?; What does {} do?; what {} sells; what {} makes
industry; Which industry is {} in?
director, chief executive; Who runs {}?; who runs {}
owner, parent company; Who owns {}?; who owns {}
number of employees; How many people work at {}?; Who works at {}?; how many people work at {}
revenue, profit; How much does {} earn in a year?; how much {} earns
customers, suppliers, partners; Who are the customers of {}?; Whom does {} do business with?;
    who the customers of {} are
competitors; Who competes with {}?
phone number, email address, website; How can I reach {}?
contracts; Which contracts has {} signed?; which contracts {} has signed
history; Tell me about the history of {}.
scandals; Which scandals was {} involved in?
""",
    CONTRACT: """
date, date of signature; When was {} signed?; On which date was {} signed?; when {} was signed
parties; Who signed {}?; who signed {}
subject, purpose; What is agreed in {}?; What is {} about?; what is agreed in {}; what {} is about
goods, services; Which goods are sold under {}?; What goods does {} cover?; which goods are sold under {}
price, sum, value; How much is paid under {}?; What sum is agreed in {}?; how much is paid under {}
term of payment; Within how many days must be paid under {}?; How many days does the buyer have to pay under {}?;
    within how many days must be paid under {}
place of delivery, date of delivery; Where are the goods delivered under {}?; where the goods are delivered under {}
warranty, warranty period; How long is the warranty in {}?; How many months is the warranty in {}?;
    how long the warranty in {} lasts
duration; How long does {} run?; When does {} end?; how long {} runs
notice period; How many weeks is the notice period in {}?; How can {} be ended?
penalty, liability; Which penalty does {} set?
governing law; Which law governs {}?; Which court decides on {}?
role, position; Which role does {} name?; Which job is agreed in {}?; which position {} names
start date; When does the work start under {}?; when the work starts under {}
salary, pay; How much does the employee earn under {}?; how much the employee earns under {}
working hours; How many hours a week does {} require?; how many hours a week {} requires
holiday; How many days of holiday does {} grant?; how many days of holiday {} grants
""",
    THING: """
description; What is {}?
inventor, author, maker; Who made {}?; Who wrote {}?; Who invented {}?; who made {}
origin; Where does {} come from?; where {} comes from
date; When was {} made?; When did {} take place?; When did {} begin?; when {} took place
place; Where is {}?; Where did {} take place?; where {} is
purpose; What is {} used for?; what {} is used for
ingredients, parts; What is {} made of?; what {} is made of
history; What is the history of {}?
cause; What caused {}?; Why did {} happen?
price; What does {} cost?; what {} costs
plot, content; What happens in {}?; what happens in {}
rules; How does {} work?; how {} works
fame; What is {} famous for?; what {} is famous for
population; How many people live in {}?; Who governs {}?
meaning; What does {} mean?; what {} means
""",
}


def kinds_of(name: str) -> tuple[str, ...]:
    """What a name can be that of, by its form: two parties have a contract, a legal form is a company's."""
    if " and " in name or " & " in name:
        return (CONTRACT,)
    if name.split()[-1].rstrip(".") in LEGAL_FORMS + COMPANY_ENDINGS:
        return (COMPANY,)
    return (PERSON, COMPANY, THING)


def called(name: str, kind: str) -> str:
    """A name as it stands in a question: two parties stand for the contract between them."""
    if kind == CONTRACT and not re.search(r"\b(contract|agreement|deal)\b", name, re.IGNORECASE):
        return f"the contract between {name}"
    return name


def questions(name: str, kind: str) -> list[str]:
    """Every topic of a kind in all its phrasings, about a name."""
    return _unique([text for item in _items(kind) for text in _phrasings(item, called(name, kind), kind)])


def plain_questions(name: str, kind: str) -> list[str]:
    """The first whole question of every topic of a kind that has one, about a name."""
    first = [next((item for item in topic if _is_whole(item)), None) for topic in _topics(kind)]
    return _unique([item.replace("{}", called(name, kind)) for item in first if item is not None])


def _topics(kind: str) -> list[list[str]]:
    return [
        [" ".join(item.split()) for item in topic.split(";")] for topic in re.split(r"\n(?=\S)", TOPICS[kind].strip())
    ]


def _items(kind: str) -> list[str]:
    openers = OPEN if kind == PERSON else OPEN[1:]
    return [*openers, *(item for topic in _topics(kind) for item in topic)]


def _is_whole(item: str) -> bool:
    return "{}" in item and item.endswith(("?", "."))


def _unique(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(text[0].upper() + text[1:] for text in texts))


def _phrasings(item: str, name: str, kind: str) -> list[str]:
    if "{}" not in item:
        nouns, frames = [noun.strip() for noun in item.split(",")], NOUN_FRAMES[kind]
        # The first noun in two frames, the others in one each: so the phrasings of a topic vary and stay few.
        pairs = [(noun, frames[place % len(frames)]) for place, noun in enumerate((nouns[0], *nouns))]
        return [frame.replace("{}", name).replace("{noun}", noun) for noun, frame in pairs]
    if _is_whole(item):
        return [item.replace("{}", name)]
    return [frame.replace("{clause}", item.replace("{}", name)) for frame in CLAUSE_FRAMES]
