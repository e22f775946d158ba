"""Recall of facts told long ago: many facts in running text, then questions in a row, nothing re-read.

The right answer must be the likeliest of ten, the others being those of other facts. Trial runs: dev/LOG.md.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from megacontext.errors import ConfigError
from megacontext.evaluation.episodes.steps import Ask, Range, Step
from megacontext.evaluation.tasks.base import Library, Task, drawing, scatter
from megacontext.evaluation.tasks.told import ask, nth, others, tell
from megacontext.evaluation.tasks.words import COLOURS, THINGS, WORDS

STATEMENT = "The secret word of the {} is {}."
QUESTION = "\n\nQuestion: What is the secret word of the {0}?\nAnswer: The secret word of the {0} is"


def things(draw: random.Random, count: int) -> list[str]:
    """Names that share their words with each other, as in "red door"."""
    return draw.sample([f"{colour} {thing}" for colour in COLOURS for thing in THINGS], count)


@dataclass(frozen=True)
class LateRecall(Task):
    """`facts` codes in `tokens` tokens of text; `questions` of them asked, each among `choices` codes.

    Groups: questions by number. Reads 6,000 tokens; scores 10 x 10 codes of about 5 tokens, 27 tokens a question.

    stay: whether questions and the model's own choices become history. A small model takes its earlier answers, the
    nearest match of all, for the facts: that is another difficulty than remembering, so it is a task of its own.
    """

    name: str = "late_recall"
    tokens: int = 6000
    facts: int = 10
    questions: int = 10
    choices: int = 10
    stay: bool = False

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw = drawing(self.name.removesuffix("_chained"), seed, self.private)  # chained: the same episodes
        names = things(draw, self.facts)
        codes = [str(code) for code in draw.sample(range(1000, 10000), self.facts)]
        encode = library.text.encode
        told = [encode(f"\n\nThe secret code of the {n} is {c}.\n\n") for n, c in zip(names, codes, strict=True)]
        around = self.tokens - sum(map(len, told))
        if around < self.facts:
            raise ConfigError(f"{self.name}: {self.tokens} tokens have no room for {self.facts} facts; ask for more")
        read, places = scatter(library.filler(seed, around, self.private), told, seed, self.private)
        asked = draw.sample(range(self.facts), self.questions)
        asks = (self._ask(library, draw, names, codes, places, which) for which in asked)
        return [read, *(replace(one, groups=(nth(number),)) for number, one in enumerate(asks, 1))]

    def _ask(
        self,
        library: Library,
        draw: random.Random,
        names: list[str],
        codes: list[str],
        places: list[Range],
        which: int,
    ) -> Ask:
        """The question for fact `which`, the wrong codes being those of other facts."""
        encode, thing = library.text.encode, names[which]
        wrong = draw.sample([i for i in range(self.facts) if i != which], min(self.choices, self.facts) - 1)
        options = draw.sample([which, *wrong], len(wrong) + 1)
        question = f"\n\nQuestion: What is the secret code of the {thing}?\nAnswer: The secret code of the {thing} is"
        return Ask(
            prompt=encode(question),
            candidates=[encode(f" {codes[i]}") for i in options],
            answer=options.index(which),
            sources=[places[which]],
            after=encode("."),
            stay=self.stay,
        )


@dataclass(frozen=True)
class ManyQuestions(Task):
    """`questions` in a row about `facts` words told; each among `choices` of them. Groups: questions by number.

    stay: as in LateRecall. Reads 6,000 tokens and 64 questions of 27 tokens; an answer is one token, so that choices
    cost nothing.
    """

    name: str = "late_recall_64"
    tokens: int = 6000
    facts: int = 64
    questions: int = 64
    choices: int = 10
    stay: bool = False

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw = drawing(self.name.removesuffix("_chained"), seed, self.private)  # chained: the same episodes
        names, words = things(draw, self.facts), draw.sample(WORDS, self.facts)
        told = [STATEMENT.format(name, word) for name, word in zip(names, words, strict=True)]
        read, places = tell(library, self, told, seed)
        asks = [
            ask(
                library,
                draw,
                QUESTION.format(names[which]),
                words[which],
                others(draw, words, [words[which]], self.choices - 1),
                [places[which]],
                groups=(nth(number),),
                stay=self.stay,
            )
            for number, which in enumerate(draw.sample(range(self.facts), self.questions), 1)
        ]
        return [read, *asks]
