"""Needles in a haystack, after RULER (Hsieh et al. 2024, section 3.1): many keys, many values, many at once.

Asked by likelihood, and with everyday words as keys and values: a small model follows no instruction to list them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

from megacontext.evaluation.episodes.steps import Range, Step
from megacontext.evaluation.tasks.base import Library, Task
from megacontext.evaluation.tasks.recall import things
from megacontext.evaluation.tasks.told import ask, others, tell
from megacontext.evaluation.tasks.words import COLOURS, THINGS, WORDS

NEEDLE = "The magic word for the {} is {}."
ONE_OF_MANY = "One of the magic words for the {} is {}."


@dataclass(frozen=True)
class MultiKey(Task):
    """`colours` x `things` keys with a word each: every key shares its colour with some and its thing with others.

    Reads 6,000 tokens and 8 questions of 32 tokens; one token is scored of each, among ten.
    """

    name: str = "needles_multi_key"
    tokens: int = 6000
    colours: int = 4
    things: int = 6
    questions: int = 8
    choices: int = 10

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw = self.drawing(seed)
        pairs = product(draw.sample(COLOURS, self.colours), draw.sample(THINGS, self.things))
        keys = [f"{colour} {thing}" for colour, thing in pairs]
        draw.shuffle(keys)
        words = draw.sample(WORDS, len(keys))
        read, places = tell(library, self, [NEEDLE.format(*pair) for pair in zip(keys, words, strict=True)], seed)
        asks: list[Step] = []
        for which in draw.sample(range(len(keys)), self.questions):
            prompt = (
                f"\n\nQuestion: What is the magic word for the {keys[which]}?\n"
                f"Answer: The magic word for the {keys[which]} is"
            )
            wrong = others(draw, words, [words[which]], self.choices - 1)
            asks.append(ask(library, draw, prompt, words[which], wrong, [places[which]]))
        return [read, *asks]


@dataclass(frozen=True)
class MultiValue(Task):
    """`keys` keys with `values` words each, far from one another; `questions` keys are asked for all their words.

    Each word is asked for with those before it in the answer, so it is one that is still to be named; words of other
    keys are the wrong ones. Groups: "value 1" ... Reads 6,000 tokens and 8 questions of 40 tokens; one token is scored
    of each, among eight.
    """

    name: str = "needles_multi_value"
    tokens: int = 6000
    keys: int = 4
    values: int = 4
    questions: int = 2
    choices: int = 8

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw = self.drawing(seed)
        keys, words = things(draw, self.keys), draw.sample(WORDS, self.keys * self.values)
        order = [which for _ in range(self.values) for which in draw.sample(range(self.keys), self.keys)]
        told = list(zip((keys[which] for which in order), words, strict=True))
        read, places = tell(library, self, [ONE_OF_MANY.format(*pair) for pair in told], seed)
        asks: list[Step] = []
        for key in draw.sample(keys, self.questions):
            mine = [place for place, (one, _) in enumerate(told) if one == key]
            asks += self._questions(library, draw, key, draw.sample(mine, len(mine)), words, places)
        return [read, *asks]

    def _questions(
        self, library: Library, draw: random.Random, key: str, mine: list[int], words: list[str], places: list[Range]
    ) -> list[Step]:
        """One for each of the places in `mine`, in their order."""
        prompt = f"\n\nQuestion: What are all the magic words for the {key}?\nAnswer: The magic words for the {key} are"
        asks: list[Step] = []
        for number, place in enumerate(mine, 1):
            wrong = others(draw, words, [words[i] for i in mine], self.choices - 1)
            asks.append(ask(library, draw, prompt, words[place], wrong, [places[place]], groups=(f"value {number}",)))
            prompt += f" {words[place]},"
        return asks


@dataclass(frozen=True)
class MultiQuery(Task):
    """`keys` keys with a word each; a question asks for `queries` of them at once, and one answer names all words.

    Of six answers, some are wrong in one word, one in all: whoever knows all but one word guesses between two. Reads
    6,000 tokens and 4 questions of 60 tokens; scores 6 answers of about 20 tokens for each.
    """

    name: str = "needles_multi_query"
    tokens: int = 6000
    keys: int = 12
    queries: int = 3
    questions: int = 4

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw = self.drawing(seed)
        keys, words = things(draw, self.keys), draw.sample(WORDS, self.keys)
        read, places = tell(library, self, [NEEDLE.format(*pair) for pair in zip(keys, words, strict=True)], seed)
        asks: list[Step] = []
        for start in range(0, self.questions * self.queries, self.queries):
            mine = [place % self.keys for place in range(start, start + self.queries)]
            named = ", ".join(f"the {keys[i]}" for i in mine)
            prompt = f"\n\nQuestion: What are the magic words for {named}?"
            prompt += f"\nAnswer: The magic word for the {keys[mine[0]]} is"
            right = [words[i] for i in mine]
            lists = [right, *self._wrong(draw, right, others(draw, words, right, 2 * self.queries + 2))]
            first, *rest = [self._answer(keys, mine, found) for found in lists]
            asks.append(ask(library, draw, prompt, first, rest, [places[i] for i in mine]))
        return [read, *asks]

    def _wrong(self, draw: random.Random, right: list[str], wrong: list[str]) -> list[list[str]]:
        """Five: one wrong word at each place, then one wrong word once more, and all wrong."""
        spots = [*range(self.queries), draw.randrange(self.queries)][:4]
        lists = [[wrong[n] if i == spot else word for i, word in enumerate(right)] for n, spot in enumerate(spots)]
        return [*lists, wrong[len(spots) : len(spots) + self.queries]]

    def _answer(self, keys: list[str], mine: list[int], words: list[str]) -> str:
        """ "apple, the magic word for the blue box is river, ..."."""
        parts = [f"the magic word for the {keys[i]} is {word}" for i, word in zip(mine, words, strict=True)]
        return ", ".join([words[0], *parts[1:]])
