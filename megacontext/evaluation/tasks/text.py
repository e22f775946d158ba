"""Loss on running text: a passage that returns after a long while, and plain documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.errors import ConfigError
from megacontext.evaluation.episodes.steps import Continue, Read, Step
from megacontext.evaluation.tasks.base import Library, Task


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
    """The last `scored` of `tokens` tokens of one document; the seed says which of `documents`, spread over all.

    Groups: the document. Nothing in running text says which blocks are the right ones, so there is no oracle.
    """

    has_sources: ClassVar[bool] = False

    name: str = "plain_text"
    tokens: int = 6144
    scored: int = 1024
    documents: int = 3

    def steps(self, library: Library, seed: int) -> list[Step]:
        title, text = excerpt(library, self, seed, self.documents, self.scored)
        last = Continue(text[-self.scored :], groups=[(f"document {title}",)] * self.scored)
        return [Read(text[: -self.scored]), last]


def excerpt(library: Library, task: Task, seed: int, documents: int, scored: int) -> tuple[str, list[int]]:
    """`task.tokens` tokens from the middle of a document, and its title. documents: how many seeds take different ones.

    With a private word, another document and another place in it. Raises ConfigError if it is too short.
    """
    order = list(library.documents)
    if task.private:
        task.drawing(0).shuffle(order)
    turn, place = divmod(seed, documents)
    document = order[(place * max(len(order) // documents, 1) + turn) % len(order)]
    ids = library.ids(document)
    if len(ids) < task.tokens or task.tokens <= scored:
        raise ConfigError(
            f"{task.name}: {document.title!r} has {len(ids)} tokens; the task takes {task.tokens} of it, the last "
            f"{scored} to be scored: give longer texts, or other tokens"
        )
    room = len(ids) - task.tokens
    start = task.drawing(seed).randint(0, room) if task.private else room // 2
    return document.title, ids[start : start + task.tokens]
