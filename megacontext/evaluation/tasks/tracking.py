"""Variable tracking, after RULER (Hsieh et al. 2024, section 3.2): names that stand for names that stand for a value.

RULER asks which names have a value; a small model cannot say. Here the answer goes from the name to its value, link by
link, and is judged as a whole by its likelihood: a link that is not remembered makes it a guess.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from megacontext.evaluation.episodes.steps import Step
from megacontext.evaluation.tasks.base import Library, Task
from megacontext.evaluation.tasks.told import ask, tell
from megacontext.evaluation.tasks.words import WORDS


@dataclass(frozen=True)
class VariableTracking(Task):
    """`chains` of `hops` links from name to name, and one to a value; asked from every name on.

    The value is told first, then the links in their order, those of all chains mixed. Wrong answers take words of other
    chains. Groups: "hops 0" (the value itself) ... Reads 6,000 tokens and 12 questions of 14 tokens; scores 6 of
    1 to 5 tokens for each.
    """

    name: str = "variable_tracking"
    tokens: int = 6000
    chains: int = 4
    hops: int = 2
    choices: int = 6

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw, width = self.drawing(seed), self.hops + 2
        words = draw.sample(WORDS, self.chains * width)
        chains = [words[start : start + width] for start in range(0, len(words), width)]
        links = [
            (chain, place)
            for place in reversed(range(width - 1))
            for chain in draw.sample(range(self.chains), self.chains)
        ]
        told = [f"VAR {chains[chain][place]} = {chains[chain][place + 1]}." for chain, place in links]
        read, places = tell(library, self, told, seed)
        at = dict(zip(links, places, strict=True))
        asks: list[Step] = []
        for chain, place in draw.sample(links, len(links)):
            right, *wrong = self._answers(draw, chains, chain, place)
            prompt = f"\n\nQuestion: What is {chains[chain][place]}?\nAnswer: VAR {chains[chain][place]} ="
            sources = [at[chain, i] for i in range(place, width - 1)]
            group = (f"hops {len(sources) - 1}",)
            asks.append(ask(library, draw, prompt, right, wrong, sources, groups=group))
        return [read, *asks]

    def _answers(self, draw: random.Random, chains: list[list[str]], chain: int, place: int) -> list[str]:
        """The right one, then wrong ones: in one word at least, another chain's word of the same place."""
        right, rest = chains[chain][place + 1 :], [other for i, other in enumerate(chains) if i != chain]
        found = [right]
        if len(right) == 1:
            values = [word for other in rest for word in other if word != chains[chain][place]]
            found += [[word] for word in draw.sample(values, self.choices - 1)]
        while len(found) < self.choices:
            other = [draw.choice([word, *(one[place + 1 + i] for one in rest)]) for i, word in enumerate(right)]
            if other not in found:
                found.append(other)
        return [" = ".join(words) for words in found]
