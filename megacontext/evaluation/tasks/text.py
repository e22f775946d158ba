"""Loss on running text: a passage that returns after a long while, and plain documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.errors import ConfigError
from megacontext.evaluation.steps import Continue, Read, Step
from megacontext.evaluation.tasks.base import Library, Task

DOCUMENTS = 3  # that plain_text takes, spread over all there are


@dataclass(frozen=True)
class CopyAtDistance(Task):
    """A passage of `passage` tokens comes back when `tokens` have been read since its beginning; loss of the copy.

    before: tokens that stand before the passage.
    """

    name: str = "copy_at_distance"
    tokens: int = 5576
    passage: int = 512
    before: int = 64

    def steps(self, library: Library, seed: int) -> list[Step]:
        start, end = self.before, self.before + self.passage
        if self.tokens < end:
            raise ConfigError(f"{self.name}: {self.tokens} tokens do not hold the passage; it ends at {end}")
        text = library.filler(seed, self.tokens, self.private)
        return [Read(text), Continue(text[start:end], source=(start, end))]


@dataclass(frozen=True)
class PlainText(Task):
    """The last `scored` of `tokens` tokens of one document; the seed says which document.

    Nothing in running text says which blocks are the right ones, so there is no oracle.
    """

    has_sources: ClassVar[bool] = False

    name: str = "plain_text"
    tokens: int = 6144
    scored: int = 1024

    def steps(self, library: Library, seed: int) -> list[Step]:
        documents = list(library.documents)
        if self.private:
            self.drawing(0).shuffle(documents)
        turn, place = divmod(seed, DOCUMENTS)
        document = documents[(place * max(len(documents) // DOCUMENTS, 1) + turn) % len(documents)]
        ids = library.ids(document)
        if len(ids) < self.tokens or self.tokens <= self.scored:
            raise ConfigError(
                f"{self.name}: {document.title!r} has {len(ids)} tokens; the task takes {self.tokens} of it, the last "
                f"{self.scored} to be scored: give longer texts, or other tokens"
            )
        room = len(ids) - self.tokens
        start = self.drawing(seed).randint(0, room) if self.private else room // 2
        text = ids[start : start + self.tokens]
        return [Read(text[: -self.scored]), Continue(text[-self.scored :])]
