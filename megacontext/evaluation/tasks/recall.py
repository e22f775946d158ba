"""Recall of facts told long ago: many facts in running text, then questions, nothing re-read.

The right answer must be the likeliest of ten. Trial runs: dev/LOG.md.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from megacontext.errors import ConfigError
from megacontext.evaluation.steps import Ask, Range, Step
from megacontext.evaluation.tasks.base import Library, Task, drawing, scatter

COLOURS = "red blue green yellow black white purple orange silver golden brown pink grey copper violet".split()  # noqa: SIM905
THINGS = "door box gate tower ship garden vault bridge lamp chest cellar wagon".split()  # noqa: SIM905


@dataclass(frozen=True)
class LateRecall(Task):
    """`facts` codes in `tokens` tokens of text; `questions` of them asked, each among `choices` codes.

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
        names = draw.sample([f"{colour} {thing}" for colour in COLOURS for thing in THINGS], self.facts)
        codes = [str(code) for code in draw.sample(range(1000, 10000), self.facts)]
        encode = library.text.encode
        told = [encode(f"\n\nThe secret code of the {n} is {c}.\n\n") for n, c in zip(names, codes, strict=True)]
        around = self.tokens - sum(map(len, told))
        if around < self.facts:
            raise ConfigError(f"{self.name}: {self.tokens} tokens have no room for {self.facts} facts; ask for more")
        read, places = scatter(library.filler(seed, around, self.private), told, seed, self.private)
        asked = draw.sample(range(self.facts), self.questions)
        return [read, *(self._ask(library, draw, names, codes, places, which) for which in asked)]

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
