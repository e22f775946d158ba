"""Which words are common, after RULER (Hsieh et al. 2024, section 3.3): knowledge that stands in no single place.

Lists of words are scattered in the text; a word that is frequent in them must be likelier than one that is rare. All
lists are sources; an oracle shows as many of their blocks as have room beside the recent text.
"""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.evaluation.episodes.steps import Step
from megacontext.evaluation.tasks.base import Library, Task
from megacontext.evaluation.tasks.told import ask, others, tell
from megacontext.evaluation.tasks.words import WORDS

QUESTION = (
    "\n\nQuestion: Which words appear most often in the lists of words?\nAnswer: The words that appear most often are:"
)


@dataclass(frozen=True)
class _Lists(Task):
    """Words, some oftener than others, in lists of `width`; each of the frequent ones is asked for among rare ones."""

    tokens: int = 6000
    counts: tuple[int, ...] = ()  # how often each frequent word stands there
    rare: tuple[int, ...] = ()  # and each rare one
    width: int = 6
    choices: int = 6

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw, frequent = self.drawing(seed), len(self.counts)
        words = draw.sample(WORDS, frequent + len(self.rare))
        bag = [word for word, count in zip(words, (*self.counts, *self.rare), strict=True) for _ in range(count)]
        draw.shuffle(bag)
        lists = [bag[start : start + self.width] for start in range(0, len(bag), self.width)]
        read, places = tell(library, self, [f"List of words: {', '.join(one)}." for one in lists], seed)
        asks: list[Step] = []
        for rank, word in draw.sample(list(enumerate(words[:frequent], 1)), frequent):
            wrong = others(draw, words[frequent:], [], self.choices - 1)
            group = (f"{self.counts[rank - 1]} times",)
            asks.append(ask(library, draw, QUESTION, word, wrong, places, groups=group))
        return [read, *asks]


@dataclass(frozen=True)
class CommonWords(_Lists):
    """Four everyday words stand there ten times, twenty once. Groups: by how often a word stands there.

    Reads 6,000 tokens and 4 questions of 28 tokens; one token is scored of each, among six.
    """

    name: str = "common_words"
    counts: tuple[int, ...] = (10,) * 4
    rare: tuple[int, ...] = (1,) * 20


@dataclass(frozen=True)
class FrequentWords(_Lists):
    """Three words stand there 16, 12 and 8 times, ten once. Groups: by how often a word stands there.

    RULER takes made-up words; of those a small model tells only the first. Reads 6,000 tokens and 3 questions of 28
    tokens; one token is scored of each, among six.
    """

    name: str = "frequent_words"
    counts: tuple[int, ...] = (16, 12, 8)
    rare: tuple[int, ...] = (1,) * 10
