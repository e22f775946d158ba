"""The facts of `chat_recall`, by kind: what a user says of themselves, and how it is asked for in other words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of fact. statement: with {} for the value. answer: how the reply to `question` begins."""

    name: str
    statement: str
    question: str
    answer: str
    values: tuple[str, ...]


def _kind(name: str, statement: str, question: str, answer: str, values: str) -> Kind:
    return Kind(name, statement, question, answer, tuple(values.split(", ")))


KINDS = (
    _kind(
        "job",
        "I work as a {} for a small company.",
        "What do I do for a living?",
        "You are a",
        "bridge engineer, school teacher, night nurse, tax lawyer, pastry chef, bus driver, film editor, "
        "ship captain, dance coach, wood carver, book seller, piano tuner",
    ),
    _kind(
        "pet",
        "There is a {} in my room, and I feed it every morning.",
        "Which animal shares my home?",
        "You live with a",
        "parrot, hamster, rabbit, turtle, lizard, ferret, snake, goldfish, canary, kitten, tortoise, puppy",
    ),
    _kind(
        "dog",
        "My dog is called {} and loves long walks.",
        "What name does my pet answer to?",
        "Your pet's name is",
        "Biscuit, Pepper, Ziggy, Nugget, Shadow, Ginger, Bandit, Coco, Rusty, Pickle, Buddy, Daisy",
    ),
    _kind(
        "home town",
        "I grew up in {} and left when I was nineteen.",
        "Which city am I from?",
        "You are from",
        "Lisbon, Glasgow, Nairobi, Toronto, Kyoto, Naples, Oslo, Warsaw, Boston, Lima, Cairo, Dublin",
    ),
    _kind(
        "dish",
        "Nothing makes me as happy at dinner as {}.",
        "What is my favourite food?",
        "Your favourite food is",
        "lasagna, mushroom soup, fried rice, pancakes, pizza, ramen, tacos, sushi, roast chicken, apple pie, curry",
    ),
    _kind(
        "instrument",
        "I have been playing the {} since primary school.",
        "Which musical instrument do I practise?",
        "Your instrument is the",
        "violin, cello, flute, trumpet, clarinet, harp, oboe, drums, piano, guitar, tuba, accordion",
    ),
    _kind(
        "sister",
        "My sister {} is two years older than me.",
        "What is the name of my sibling?",
        "Your sibling's name is",
        "Clara, Emma, Julia, Martha, Sophie, Laura, Hannah, Nina, Alice, Ruth, Grace, Ellen",
    ),
    _kind(
        "allergy",
        "I get a red rash as soon as I eat {}.",
        "What am I allergic to?",
        "You are allergic to",
        "peanuts, shrimp, strawberries, eggs, walnuts, wheat, sesame, milk, honey, mustard, tomatoes, garlic",
    ),
    _kind(
        "car",
        "Every day I drive to the office in an old {}.",
        "Which car do I own?",
        "Your car is a",
        "Toyota, Volvo, Honda, Ford, Fiat, BMW, Nissan, Mazda, Jeep, Tesla, Renault, Subaru",
    ),
    _kind(
        "birthday",
        "I was born on the third of {}.",
        "In which month is my birthday?",
        "Your birthday is in",
        "January, February, March, April, May, June, July, August, September, October, November, December",
    ),
    _kind(
        "hobby",
        "On weekends my friends and I go {}.",
        "What is my hobby?",
        "Your hobby is",
        "fishing, climbing, sailing, skiing, hiking, dancing, swimming, running, surfing, cycling, bowling, camping",
    ),
    _kind(
        "language",
        "At home we spoke {} when I was little.",
        "What is my mother tongue?",
        "Your mother tongue is",
        "Polish, Greek, Turkish, Swedish, Italian, Korean, Arabic, Dutch, Finnish, Hindi, Welsh, Danish",
    ),
    _kind(
        "street",
        "Our house stands on {}, right beside the bakery.",
        "Where do I live?",
        "You live at",
        "Maple Street, Oak Street, Church Street, Mill Street, King Street, River Street, Park Street, Hill Street, "
        "Station Street, Garden Street, Bridge Street, Market Street",
    ),
)
