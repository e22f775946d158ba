"""What a scorer is: it watches text go by and says which blocks deserve detail.

A scorer is told of every pass (`observe`) and of every sealed block (`seal`), keeps whatever index it needs, and
answers `score` from that index alone: it never visits all of history.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from megacontext.arena import Arena, Page, Slots
from megacontext.context import WorkingContext

Scores = dict[int, float]  # by block number, in [-1, 1]: + deserves detail, - can spare it; a missing one is 0


class Moment(NamedTuple):
    """What a scorer may look at when asked. shown: where the pages in view stand, by block number.

    tail: slots of the open tail, in order. far_end: blocks from here on are recent and in view anyway. prompt: rows of
    the prompt that has just ended, 0 while text flows.
    """

    context: WorkingContext
    arena: Arena
    shown: dict[int, Slots]
    tail: Sequence[Slots]
    far_end: int
    prompt: int = 0


class Scorer(ABC):
    """Answers for itself: `nbytes` counts its index, `copy` is deep where it must be."""

    def observe(self, tokens: Sequence[int], queries: Tensor | None) -> None:  # noqa: B027 - optional
        """A pass brought `tokens`. queries: (L, H, n, d) rotated queries of its last rows, if `wants_queries`."""

    wants_queries: bool = False

    def seal(self, block: int, page: Page) -> None:  # noqa: B027 - optional
        """Block number `block` is complete; `page` is its exact K/V."""

    @abstractmethod
    def score(self, moment: Moment) -> Scores:
        """The blocks worth a thought, with their scores. Bounded in number, however long history is."""

    @property
    def nbytes(self) -> int:
        """Bytes of its index."""
        return 0

    @abstractmethod
    def copy(self) -> Scorer:
        """An independent scorer in the same state."""
