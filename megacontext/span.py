"""Span: the address of a stretch of history at a level of detail. Grid: which spans exist.

Level 0 is exact: a block of `block` tokens, shown as its page. Level 1 is the gist of one block, level n the gist of
`fanout` nodes of level n - 1. So a level-0 entry and its level-1 gist cover the same tokens.
Integers only; nothing here knows of tensors, models or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Tokens [start, end) of history, at `level`."""

    start: int
    end: int
    level: int

    def __str__(self) -> str:
        return f"LOD{self.level}[{self.start}:{self.end}]"


@dataclass(frozen=True)
class Grid:
    """The spans that exist: nodes of level n begin at multiples of `width(n)`. block, fanout: at least 2."""

    block: int = 32
    fanout: int = 32

    def __post_init__(self) -> None:
        if self.block < 2 or self.fanout < 2:
            raise ValueError(f"block {self.block} and fanout {self.fanout} must both be at least 2")

    def width(self, level: int) -> int:
        """Tokens that a node of `level` covers."""
        return self.block * self.fanout ** max(level - 1, 0)

    def node(self, level: int, position: int) -> Span:
        """The node of `level` that covers the token at `position`."""
        width = self.width(level)
        start = position // width * width
        return Span(start, start + width, level)

    def page(self, block: int) -> Span:
        """The level-0 span of block number `block`."""
        return Span(block * self.block, (block + 1) * self.block, 0)

    def parent(self, span: Span) -> Span:
        """The node that `span` collapses into."""
        return self.node(span.level + 1, span.start)

    def children(self, span: Span) -> tuple[Span, ...]:
        """What a gist gives way to. Raises ValueError for level 0, which is exact already."""
        if span.level == 0:
            raise ValueError(f"{span} is exact: it has no children")
        width = self.width(span.level - 1)
        return tuple(Span(s, s + width, span.level - 1) for s in range(span.start, span.end, width))

    def on_grid(self, span: Span) -> bool:
        """Whether `span` is a node of this grid."""
        width = self.width(span.level)
        return span.level >= 0 and span.start >= 0 and span.start % width == 0 and span.end - span.start == width
