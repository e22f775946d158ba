"""Which words are common, after RULER (Hsieh et al. 2024, section 3.3): knowledge that stands in no single place.

Lists of words are scattered in the text; a word that is frequent in them must be likelier than one that is rare. A
small model names the most frequent ones only: take its plain cache as the ceiling. All lists are sources, more than an
oracle can show at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megacontext.evaluation.steps import Step
from megacontext.evaluation.tasks.base import Library, Task
from megacontext.evaluation.tasks.told import ask, others, tell
from megacontext.evaluation.tasks.words import MADE_UP, WORDS


@dataclass(frozen=True)
class _Lists(Task):
    """Words, some oftener than others, in lists of `width`; each of the frequent ones is asked for among rare ones."""

    counts: tuple[int, ...] = ()  # how often each frequent word stands there
    rare: tuple[int, ...] = ()  # and each rare one
    width: int = 6
    choices: int = 6
    words: tuple[str, ...] = ()
    line: str = ""
    question: str = ""

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw, frequent = self.drawing(seed), len(self.counts)
        words = draw.sample(self.words, frequent + len(self.rare))
        bag = [word for word, count in zip(words, (*self.counts, *self.rare), strict=True) for _ in range(count)]
        draw.shuffle(bag)
        lists = [bag[start : start + self.width] for start in range(0, len(bag), self.width)]
        read, places = tell(library, self, [self._line(one) for one in lists], seed)
        asks: list[Step] = []
        for rank, word in draw.sample(list(enumerate(words[:frequent], 1)), frequent):
            wrong = others(draw, words[frequent:], [], self.choices - 1)
            group = (f"{self.counts[rank - 1]} times",)
            asks.append(ask(library, draw, self.question, word, wrong, places, groups=group))
        return [read, *asks]

    def _line(self, words: Sequence[str]) -> str:
        return self.line.format(", ".join(words))


@dataclass(frozen=True)
class CommonWords(_Lists):
    """Four everyday words stand there ten times, twenty once. Groups: by how often a word stands there.

    Reads 6,000 tokens and 4 questions of 28 tokens; one token is scored of each, among six.
    """

    name: str = "common_words"
    tokens: int = 6000
    counts: tuple[int, ...] = (10,) * 4
    rare: tuple[int, ...] = (1,) * 20
    words: tuple[str, ...] = tuple(WORDS)
    line: str = "List of words: {}."
    question: str = (
        "\n\nQuestion: Which words appear most often in the lists of words?\n"
        "Answer: The words that appear most often are:"
    )


@dataclass(frozen=True)
class FrequentWords(_Lists):
    """Made-up words whose counts fall as in RULER (Zipf, alpha 2): three frequent ones, asked for among rare ones.

    Reads 6,000 tokens and 3 questions of 28 tokens; scores 6 words of about 3 tokens for each.
    """

    name: str = "frequent_words"
    tokens: int = 6000
    counts: tuple[int, ...] = (32, 16, 8)
    rare: tuple[int, ...] = (1,) * 8
    words: tuple[str, ...] = tuple(MADE_UP)
    line: str = "Coded text: {}."
    question: str = (
        "\n\nQuestion: Which coded words appear most often in the coded text?\n"
        "Answer: The coded words that appear most often are:"
    )
