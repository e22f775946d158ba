"""What a task is: a name, a length, and a function from a seed to an episode's steps. Nothing is fetched."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from typing import ClassVar

from megacontext.errors import ConfigError
from megacontext.evaluation.episodes.steps import Range, Read, Step
from megacontext.models.text import TextModel


@dataclass(frozen=True)
class Document:
    """A real text: its title, its words, the sha256 of its bytes."""

    title: str
    text: str
    sha256: str


class Library:
    """Real text as tokens, encoded once, dealt out by seed."""

    def __init__(self, text: TextModel, documents: Sequence[Document]) -> None:
        self.text, self.documents = text, list(documents)
        self._ids: dict[str, list[int]] = {}

    def ids(self, document: Document) -> list[int]:
        """The tokens of a document."""
        if document.sha256 not in self._ids:
            self._ids[document.sha256] = self.text.encode(document.text)
        return self._ids[document.sha256]

    def filler(self, seed: int, tokens: int, private: str = "") -> list[int]:
        """`tokens` tokens of running text: documents in an order that the seed gives, from a place that it gives."""
        draw = drawing("filler", seed, private)
        order = draw.sample(self.documents, len(self.documents))
        skip = draw.randrange(max(len(self.ids(order[0])) - tokens, 1))
        return list(islice(chain(self.ids(order[0])[skip:], self.stream(order[1:] or order)), tokens))

    def stream(self, order: Sequence[Document] | None = None) -> Iterator[int]:
        """The documents' tokens, one document after the other, from the first again when all are through."""
        documents = self.documents if order is None else order
        if not any(map(self.ids, documents)):
            raise ConfigError("the texts hold no tokens; name a --text FILE that is not empty")
        return chain.from_iterable(map(self.ids, cycle(documents)))


def drawing(what: str, seed: int, private: str = "") -> random.Random:
    """Random numbers for one purpose. private: a word that only the holder of held-out cases knows; "" for none."""
    return random.Random(f"{what} {seed} {private}" if private else f"{what} {seed}")


@dataclass(frozen=True)
class Task(ABC):
    """One task. tokens: about how long an episode's history is. A seed fixes the episode.

    private: mixed into every draw, so that whoever keeps it to themselves has cases that nobody could tune on.
    has_sources: whether there are right blocks at all, so that an oracle can be told of them.
    """

    has_sources: ClassVar[bool] = True

    name: str
    tokens: int
    private: str = ""

    @abstractmethod
    def steps(self, library: Library, seed: int) -> list[Step]:
        """The episode of `seed`."""

    def drawing(self, seed: int) -> random.Random:
        """The task's own random numbers."""
        return drawing(self.name, seed, self.private)


def scatter(filler: list[int], inserts: Sequence[list[int]], seed: int, private: str = "") -> tuple[Read, list[Range]]:
    """Put the inserts into the filler at even distances, jittered by the seed. Returns also where each one stands."""
    draw = drawing("scatter", seed, private)
    gap = len(filler) / len(inserts)
    cuts = [int(gap * (i + draw.uniform(0.1, 0.9))) for i in range(len(inserts))]
    tokens: list[int] = []
    places: list[Range] = []
    before = 0
    for cut, insert in zip(cuts, inserts, strict=True):
        tokens += filler[before:cut]
        places.append((len(tokens), len(tokens) + len(insert)))
        tokens += insert
        before = cut
    return Read(tokens + filler[before:]), places
