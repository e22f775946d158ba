"""Loss where memory shows: tokens that were said long ago, positions far in, and the distance to full attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from megacontext.errors import ConfigError
from megacontext.evaluation.episodes.steps import Continue, Groups, Read, Step
from megacontext.evaluation.tasks.base import Library, Task
from megacontext.evaluation.tasks.text import excerpt

LONG_RANGE, LOCAL, NEW = "long_range", "local", "new"


@dataclass(frozen=True)
class LongRange(Task):
    """The last `scored` of `tokens` tokens of a document, by how long ago each token was said after the same words.

    Groups: "long_range" if the n-gram that ends with the token last ended more than `window` tokens ago, "local" if it
    did later, "new" if it never did; n is 3, or 2 where the 3-gram is new. Reads and scores 6,144 tokens in all. The
    seed says which of six documents.
    """

    has_sources: ClassVar[bool] = False

    name: str = "long_range_nll"
    tokens: int = 6144
    scored: int = 1024
    window: int = 1024
    documents: int = 6

    def steps(self, library: Library, seed: int) -> list[Step]:
        _, text = excerpt(library, self, seed, self.documents, self.scored)
        kinds = reach(text, self.window)[-self.scored :]
        return [Read(text[: -self.scored]), Continue(text[-self.scored :], groups=kinds)]


def reach(text: Sequence[int], window: int) -> list[Groups]:
    """The group of every token, see LongRange."""
    last: dict[tuple[int, ...], int] = {}
    found: list[Groups] = []
    for place in range(len(text)):
        grams = [tuple(text[place - n + 1 : place + 1]) for n in (3, 2) if place >= n - 1]
        before = next((last[gram] for gram in grams if gram in last), None)
        found.append((NEW if before is None else LONG_RANGE if place - before > window else LOCAL,))
        last.update(dict.fromkeys(grams, place))
    return found


@dataclass(frozen=True)
class PositionLoss(Task):
    """Loss of the last `piece` tokens before each of `positions`, up to `tokens`, in one reading of a document.

    Groups: "position 512" ... Reads 6,144 tokens and scores 6 x 128 of them. The seed says which of six documents.
    """

    has_sources: ClassVar[bool] = False

    name: str = "position_nll"
    tokens: int = 6144
    positions: tuple[int, ...] = (512, 1024, 2048, 3072, 4096, 6144, 8192, 16384, 32768)
    piece: int = 128
    documents: int = 6

    def steps(self, library: Library, seed: int) -> list[Step]:
        _, text = excerpt(library, self, seed, self.documents, self.piece)
        steps: list[Step] = []
        done = 0
        for end in [position for position in self.positions if position <= self.tokens]:
            steps.append(Read(text[done : end - self.piece]))
            scored = text[end - self.piece : end]
            steps.append(Continue(scored, groups=[(f"position {end}",)] * len(scored)))
            done = end
        if not steps:
            raise ConfigError(f"{self.name}: {self.tokens} tokens reach no position; the first is {self.positions[0]}")
        return steps


@dataclass(frozen=True)
class KlToFull(Task):
    """How far the predictions for the last `scored` tokens of a document are from full attention's.

    Only within the trained length, where full attention is a measure. Reads and scores 6,144 tokens in all. The seed
    says which of six documents.
    """

    has_sources: ClassVar[bool] = False

    name: str = "kl_to_full"
    tokens: int = 6144
    scored: int = 256
    documents: int = 6

    def steps(self, library: Library, seed: int) -> list[Step]:
        _, text = excerpt(library, self, seed, self.documents, self.scored)
        return [Read(text[: -self.scored]), Continue(text[-self.scored :], kl=True)]
