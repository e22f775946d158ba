"""Asked late, and again, and again: text goes on between the questions, and tells new facts."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from megacontext.errors import ConfigError
from megacontext.evaluation.episodes.steps import Range, Read, Step
from megacontext.evaluation.tasks.base import Library, Task, drawing, scatter
from megacontext.evaluation.tasks.recall import QUESTION, STATEMENT, things
from megacontext.evaluation.tasks.told import alike, ask, others
from megacontext.evaluation.tasks.words import WORDS


@dataclass
class _Story:
    """An episode while it is written. length: tokens so far. asked: how often each fact was."""

    names: list[str]
    words: list[str]
    steps: list[Step] = field(default_factory=list)
    places: list[Range] = field(default_factory=list)
    length: int = 0
    asked: Counter[int] = field(default_factory=Counter)

    def tell(self, read: Read, places: list[Range]) -> None:
        """Text that tells one fact more at each of `places`."""
        self.steps.append(read)
        self.places += [(start + self.length, end + self.length) for start, end in places]
        self.length += len(read.tokens)


@dataclass(frozen=True)
class Revisited(Task):
    """`facts` words told in the first half; then `rounds` of text with one new fact each, and questions after each.

    A round asks the fact that has waited longest for its first question, if there is one, then others. Groups: "asked
    1 time", "asked 2 times", "asked 3 times" (or more). stay: whether questions and the model's own choices become
    history. Up to ten choices: the words told so far. Reads 6,000 tokens and 24 questions of 27 tokens; one token is
    scored of each.
    """

    name: str = "recall_revisited"
    tokens: int = 6000
    facts: int = 8
    rounds: int = 6
    questions: int = 4
    stay: bool = False

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw = drawing(self.name.removesuffix("_chained"), seed, self.private)  # chained: the same episodes
        count = self.facts + self.rounds
        story = _Story(things(draw, count), draw.sample(alike(library, WORDS), count))
        statements = zip(story.names, story.words, strict=True)
        told = [library.text.encode(f"\n\n{STATEMENT.format(*fact)}\n\n") for fact in statements]
        first, *rounds = self._texts(library, seed, sum(map(len, told)))
        story.tell(*scatter(first, told[: self.facts], seed, self.private))
        for text, fact in zip(rounds, told[self.facts :], strict=True):
            self._round(library, draw, story, text, fact)
        return story.steps

    def _texts(self, library: Library, seed: int, told: int) -> list[list[int]]:
        """The text of the first half, and of each round."""
        around = self.tokens - told
        half, piece = around // 2, around // 2 // self.rounds
        if half < self.facts or piece < 1:
            raise ConfigError(
                f"{self.name}: {self.tokens} tokens have no room for {told} tokens of facts; ask for more"
            )
        text = library.filler(seed, half + piece * self.rounds, self.private)
        return [text[:half], *(text[half + piece * i : half + piece * (i + 1)] for i in range(self.rounds))]

    def _round(self, library: Library, draw: random.Random, story: _Story, text: list[int], fact: list[int]) -> None:
        """Text that tells a fact near its beginning, then questions about those told before."""
        known, cut = range(len(story.places)), draw.randrange(len(text) // 4 + 1)
        story.tell(Read(text[:cut] + fact + text[cut:]), [(cut, cut + len(fact))])
        fresh = [which for which in known if not story.asked[which]][:1]
        asked = [*fresh, *draw.sample([which for which in known if which not in fresh], self.questions - len(fresh))]
        for which in draw.sample(asked, len(asked)):
            self._ask(library, draw, story, which)

    def _ask(self, library: Library, draw: random.Random, story: _Story, which: int) -> None:
        story.asked[which] += 1
        times = min(story.asked[which], 3)
        word = story.words[which]
        one = ask(
            library,
            draw,
            QUESTION.format(story.names[which]),
            word,
            others(draw, story.words[: len(story.places)], [word], 9),
            [story.places[which]],
            groups=(f"asked {times} time{'s' if times > 1 else ''}",),
            stay=self.stay,
        )
        story.steps.append(one)
        if self.stay:
            story.length += len(one.prompt) + len(one.candidates[one.answer]) + len(one.after)
