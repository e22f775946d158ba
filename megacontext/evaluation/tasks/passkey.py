"""Passkeys by depth (Mohtashami and Jaggi 2023): digits in a haystack, asked for at its end."""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.errors import ConfigError
from megacontext.evaluation.episodes.steps import Range, Read, Step
from megacontext.evaluation.tasks.base import Library, Task
from megacontext.evaluation.tasks.told import ask
from megacontext.evaluation.tasks.words import BUILDINGS

STATEMENT = "\n\nThe pass key of the {0} is {1}. Remember it. {1} is the pass key of the {0}.\n\n"
QUESTION = "\n\nQuestion: What is the pass key of the {0}?\nAnswer: The pass key of the {0} is"


@dataclass(frozen=True)
class Passkey(Task):
    """A pass key at each of `depths` (per cent of the text before it), of different buildings, so one reading does.

    The wrong ones are numbers that stand nowhere. Groups: "passkey depth 10%" ... Reads 6,000 tokens and 5 questions
    of 28 tokens; scores 10 numbers of about 6 tokens for each.
    """

    name: str = "passkey"
    tokens: int = 6000
    depths: tuple[int, ...] = (10, 30, 50, 70, 90)
    choices: int = 10

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw = self.drawing(seed)
        owners = draw.sample(BUILDINGS, len(self.depths))
        keys = [str(key) for key in draw.sample(range(10_000, 100_000), len(owners) * self.choices)]
        told = [library.text.encode(STATEMENT.format(*pair)) for pair in zip(owners, keys, strict=False)]
        read, places = self._hide(library, told, seed)
        asks: list[Step] = []
        for which in draw.sample(range(len(owners)), len(owners)):
            start = len(owners) + which * (self.choices - 1)
            wrong = keys[start : start + self.choices - 1]
            group = (f"passkey depth {self.depths[which]}%",)
            prompt = QUESTION.format(owners[which])
            asks.append(ask(library, draw, prompt, keys[which], wrong, [places[which]], groups=group))
        return [read, *asks]

    def _hide(self, library: Library, told: list[list[int]], seed: int) -> tuple[Read, list[Range]]:
        """Each key at its depth, and where it stands."""
        around = self.tokens - sum(map(len, told))
        if around < len(told):
            raise ConfigError(f"{self.name}: {self.tokens} tokens have no room for {len(told)} keys; ask for more")
        text = library.filler(seed, around, self.private)
        tokens: list[int] = []
        places: list[Range] = []
        done = 0
        for depth, key in zip(self.depths, told, strict=True):
            cut = around * depth // 100
            tokens += text[done:cut]
            places.append((len(tokens), len(tokens) + len(key)))
            tokens += key
            done = cut
        return Read(tokens + text[done:]), places
