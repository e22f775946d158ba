"""The facts of `chat_recall`, by kind: what a user says of themselves, and how it is asked for in other words.

Only kinds that a small model can mostly answer with the fact right before its eyes: others (hobbies, months of birth)
would measure the model, not its memory. The value is the only thing that statement and answer have in common.
"""

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
        "You said that you are a",
        "bridge engineer, school teacher, night nurse, tax lawyer, pastry chef, bus driver, film editor, ship "
        "captain, dance coach, wood carver, book seller, piano tuner",
    ),
    _kind(
        "pet",
        "My pet is a {}, and it sleeps beside my bed.",
        "Which animal lives with me?",
        "You said that you live with a",
        "parrot, hamster, rabbit, turtle, lizard, ferret, snake, goldfish, canary, kitten, tortoise, monkey",
    ),
    _kind(
        "dog",
        "We named our puppy {}.",
        "What is my dog called?",
        "You said that your dog is called",
        "Biscuit, Pepper, Ziggy, Nugget, Shadow, Ginger, Bandit, Coco, Rusty, Pickle, Buddy, Daisy",
    ),
    _kind(
        "home town",
        "I grew up in {} and left when I was nineteen.",
        "Which city am I from?",
        "You said that you are from",
        "Lisbon, Glasgow, Nairobi, Toronto, Kyoto, Naples, Oslo, Warsaw, Boston, Lima, Cairo, Dublin",
    ),
    _kind(
        "street",
        "Our house stands on {}, right beside the bakery.",
        "Where do I live?",
        "You said that you live at",
        "Maple Street, Oak Street, Church Street, Mill Street, King Street, River Street, Park Street, Hill "
        "Street, Station Street, Garden Street, Bridge Street, Market Street",
    ),
    _kind(
        "dish",
        "My idea of a perfect dinner is {}.",
        "What is my favourite food?",
        "You said that you love",
        "lasagna, mushroom soup, fried rice, pancakes, pizza, ramen, tacos, sushi, roast chicken, apple pie, curry",
    ),
    _kind(
        "instrument",
        "I have been playing the {} since primary school.",
        "Which musical instrument is mine?",
        "You said that your instrument is the",
        "violin, cello, flute, trumpet, clarinet, harp, oboe, drums, piano, guitar, tuba, accordion",
    ),
    _kind(
        "sister",
        "My sister {} is two years older than me.",
        "What is my sibling called?",
        "You said that your sibling is called",
        "Clara, Emma, Julia, Martha, Sophie, Laura, Hannah, Nina, Alice, Ruth, Grace, Ellen",
    ),
    _kind(
        "boss",
        "At the office I report to {}.",
        "Who is my boss?",
        "You said that your boss is",
        "Miller, Carter, Novak, Schmidt, Larsen, Ortega, Fisher, Weber, Collins, Tanaka, Rossi, Murphy",
    ),
    _kind(
        "allergy",
        "I get a red rash as soon as I eat {}.",
        "What am I allergic to?",
        "You said that you are allergic to",
        "peanuts, shrimp, strawberries, eggs, walnuts, wheat, sesame, milk, honey, mustard, tomatoes, garlic",
    ),
    _kind(
        "car",
        "Every day I drive to the office in an old {}.",
        "Which car do I own?",
        "You said that you own a",
        "Toyota, Volvo, Honda, Ford, Fiat, BMW, Nissan, Mazda, Jeep, Tesla, Renault, Subaru",
    ),
    _kind(
        "language",
        "My parents and I always talk in {}.",
        "What is my first language?",
        "You said that your first language is",
        "Polish, Greek, Turkish, Swedish, Italian, Korean, Arabic, Dutch, Finnish, Hindi, Welsh, Danish",
    ),
    _kind(
        "team",
        "Every Saturday I sit in the stadium and cheer for the {}.",
        "What is my favourite football club?",
        "You said that you are a fan of the",
        "Tigers, Eagles, Sharks, Wolves, Lions, Bears, Hawks, Panthers, Bulls, Falcons, Ravens, Giants",
    ),
    _kind(
        "honeymoon",
        "After our wedding we spent two weeks in {}.",
        "Where did I go on my honeymoon?",
        "You said that your honeymoon was in",
        "Venice, Iceland, Greece, Bali, Paris, Portugal, Morocco, Hawaii, Scotland, Peru, Vienna, Mexico",
    ),
)
