"""What a scorer is: it watches text go by and says which blocks deserve detail.

A scorer is told of every pass (`observe`) and of every sealed block (`seal`), keeps whatever index it needs, and
answers `score` from that index alone: it never visits all of history.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from megacontext.arena import Arena, Page, Slots
from megacontext.context import WorkingContext
from megacontext.errors import StoreError
from megacontext.focus.attention_mass import AttentionMass
from megacontext.span import Span
from megacontext.tree.memory_tree import MemoryTree

Scores = dict[int, float]  # by block number, in [-1, 1]: + deserves detail, - can spare it; a missing one is 0


class Moment(NamedTuple):
    """What a scorer may look at when asked.

    shown: where the pages in view stand, by block number. tail: slots of the open tail, in order. tree: history, to
    look at a bounded number of candidates. far_end: blocks from here on are recent and in view anyway.
    words: the tokens [start, stop) of history that somebody said in the prompt which has just ended; None while text
    flows. mass: attention received, if somebody wants it. gists: where the gists in view stand.
    """

    context: WorkingContext
    arena: Arena
    shown: Mapping[int, Slots]
    tail: Sequence[Slots]
    tree: MemoryTree
    far_end: int
    words: tuple[int, int] | None = None
    mass: AttentionMass | None = None
    gists: Mapping[Span, Slots] = {}


class Scorer(ABC):
    """Answers for itself: `nbytes` counts its index, `copy` is deep where it must be."""

    wants_attention: bool = False  # whether the cache must measure attention mass for it
    flops: int = 0  # multiply-adds x 2 spent on choosing so far; a bit that is compared counts as one

    @property
    def failure(self) -> StoreError | None:
        """Why its index is not written any more; it goes on in memory."""
        return None

    def observe(self, tokens: Sequence[int]) -> None:  # noqa: B027 - optional
        """A pass brought `tokens`."""

    def expect(self, tokens: Sequence[int]) -> None:  # noqa: B027 - optional
        """The next pass will bring `tokens`, unless it is called off. What they ask for may count until `observe`."""

    def seal(self, block: int, page: Page) -> None:  # noqa: B027 - optional
        """Block number `block` is complete; `page` is its exact K/V."""

    @abstractmethod
    def score(self, moment: Moment) -> Scores:
        """The blocks worth a thought, with their scores. Bounded in number, however long history is.

        At a prompt's end recent blocks before it may be named too: far ones must measure up to the best of all.
        """

    def follow(self, moment: Moment, scores: Scores) -> Scores:
        """At a prompt's end: the scores, with the blocks that those found lead to, or leave to be found."""
        return scores

    def state(self) -> dict[str, Any]:
        """What `restore` needs, beside history itself: nested plain values and arrays."""
        return {}

    def restore(self, state: dict[str, Any], tree: MemoryTree) -> None:  # noqa: B027 - optional
        """Into a new scorer: where it stood after the history in `tree`. Raises ValueError for a state of another."""

    @property
    def nbytes(self) -> int:
        """Bytes of its index."""
        return 0

    @abstractmethod
    def copy(self) -> Scorer:
        """An independent scorer in the same state."""
