"""Facts that do not stay true: corrected later, or told differently by two people."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import chain

from megacontext.evaluation.episodes.steps import Ask, Step
from megacontext.evaluation.tasks.base import Library, Task
from megacontext.evaluation.tasks.recall import QUESTION, STATEMENT, things
from megacontext.evaluation.tasks.told import ask, others, tell
from megacontext.evaluation.tasks.words import PEOPLE, WORDS

CORRECTION = "The secret word of the {0} was changed. From now on, the secret word of the {0} is {1}."
HEARSAY = "{2} says that the secret word of the {0} is {1}."
ASKED = "\n\nQuestion: What does {1} say about the {0}?\nAnswer: {1} says that the secret word of the {0} is"


@dataclass(frozen=True)
class Corrected(Task):
    """`facts` words told; a third are changed later, a third twice. The newest is right, the older are choices too.

    All are told before the first change, and changed before the first second change. Groups: "never changed",
    "changed once", "changed twice". Reads 6,000 tokens and 9 questions of 27 tokens; one token is scored of each.
    """

    name: str = "recall_corrected"
    tokens: int = 6000
    facts: int = 9
    choices: int = 8

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw = self.drawing(seed)
        names, pool = things(draw, self.facts), iter(draw.sample(WORDS, 3 * self.facts))
        words = [[next(pool) for _ in range(1 + which % 3)] for which in range(self.facts)]
        order = [(which, turn) for turn in range(3) for which in self._shuffled(draw) if turn < len(words[which])]
        told = [(CORRECTION if turn else STATEMENT).format(names[which], words[which][turn]) for which, turn in order]
        read, places = tell(library, self, told, seed)
        places_of = dict(zip(order, places, strict=True))
        asks: list[Step] = []
        for which in self._shuffled(draw):
            *old, right = words[which]
            rest = others(draw, [*chain.from_iterable(words)], words[which], self.choices - len(words[which]))
            question, source = QUESTION.format(names[which]), places_of[which, len(old)]
            group = (("never changed", "changed once", "changed twice")[len(old)],)
            asks.append(ask(library, draw, question, right, [*old, *rest], [source], groups=group))
        return [read, *asks]

    def _shuffled(self, draw: random.Random) -> list[int]:
        return draw.sample(range(self.facts), self.facts)


@dataclass(frozen=True)
class Contradicted(Task):
    """Two people say different words of each of `facts` things; the question names one, both words are choices.

    All things are told once before any is told again. Groups: "said first", "said last". Reads 6,000 tokens and 10
    questions of 27 tokens; one token is scored of each.
    """

    name: str = "recall_contradicted"
    tokens: int = 6000
    facts: int = 5
    choices: int = 8

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw, count = self.drawing(seed), 2 * self.facts
        names, words, people = things(draw, self.facts), draw.sample(WORDS, count), draw.sample(PEOPLE, count)
        order = [*draw.sample(range(0, count, 2), self.facts), *draw.sample(range(1, count, 2), self.facts)]
        told = [HEARSAY.format(names[say // 2], words[say], people[say]) for say in order]
        read, places = tell(library, self, told, seed)
        sources = dict(zip(order, places, strict=True))
        asks: list[Ask] = []
        for say in draw.sample(order, count):
            question = ASKED.format(names[say // 2], people[say])
            other = words[say ^ 1]
            wrong = [other, *others(draw, words, [words[say], other], self.choices - 2)]
            group = ("said last" if say % 2 else "said first",)
            asks.append(ask(library, draw, question, words[say], wrong, [sources[say]], groups=group))
        return [read, *asks]
