"""History, complete: every token, every block's page, gists where they were asked for.

Tokens are here in memory, four bytes each; their log on disk is the session's. Where pages are is `page_store`'s
business. What the disk lost of pages and gists is made again. Knows nothing of focus and of what is in view.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from megacontext.arena import Page
from megacontext.errors import StoreError
from megacontext.gist.base import Gist, GistMaker
from megacontext.span import Grid, Span
from megacontext.tree.gist_store import GistStore
from megacontext.tree.page_store import PageStore, PageTraffic


class MemoryTree:
    """tokens: all of history, the open tail included. Pages exist for sealed blocks, gists where one was asked for.

    slots: of a gist, per level from level 1. pages, gists: where these are kept; None: in memory, all of them.
    measure: the attention (L, Hk, n) that a block's tokens received, as far as it can be told afterwards: what a gist
    that was lost is made of, with its page.
    """

    def __init__(
        self,
        grid: Grid,
        maker: GistMaker,
        slots: Sequence[int] = (),
        pages: PageStore | None = None,
        gists: GistStore | None = None,
    ) -> None:
        self.grid, self.maker, self.slots = grid, maker, tuple(slots)
        self.pages = PageStore() if pages is None else pages
        self.gists = GistStore(grid) if gists is None else gists
        self.measure: Callable[[int], Tensor] | None = None
        self._tokens = array("I")
        self._blocks = self._remade = 0
        self.pages.made_of = lambda number: self._checksum(grid.page(number))
        self.gists.made_of = self._checksum

    def _checksum(self, span: Span) -> int:
        """crc32 of the span's tokens, u32 each: says of what a page or a gist was made."""
        return zlib.crc32(np.array(self._tokens[span.start : span.end], "<u4").tobytes())

    def append(self, tokens: Sequence[int]) -> None:
        """More history."""
        self._tokens.extend(tokens)

    def truncate(self, length: int) -> None:
        """Forget the tokens after `length`; sealed blocks stay. Raises ValueError if they could not."""
        if length < self.sealed:
            raise ValueError(f"cannot forget back to {length}: blocks are sealed up to {self.sealed}")
        del self._tokens[length:]

    def seal(self, page: Page) -> None:
        """The next block's exact K/V. Raises ValueError if its tokens are not there yet."""
        if self.sealed + self.grid.block > len(self._tokens):
            raise ValueError(f"no {self.grid.block} tokens to seal at {self.sealed} of {len(self._tokens)}")
        self.pages.put(self._blocks, page)
        self._blocks += 1

    def restore(self, tokens: Sequence[int] | np.ndarray, blocks: int) -> None:
        """Into an empty tree: history that was there before, with `blocks` pages in the store already."""
        if blocks * self.grid.block > len(tokens):
            raise ValueError(f"{blocks} blocks are more than {len(tokens)} tokens")
        self._tokens, self._blocks = array("I"), blocks
        self._tokens.frombytes(np.asarray(tokens, np.uint32).tobytes())
        self.pages.count = max(self.pages.count, blocks)

    def replace(self, span: Span, page: Page) -> None:
        """A page that was computed again, with more in view."""
        self.pages.put(self._number(span), page)

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def sealed(self) -> int:
        """Tokens in sealed blocks."""
        return self._blocks * self.grid.block

    def tokens(self, start: int, end: int) -> list[int]:
        """The ids of [start, end)."""
        return self._tokens[start:end].tolist()

    def page(self, span: Span) -> Page:
        """The exact K/V of a level-0 span. Raises ValueError for a gist, IndexError for what is not sealed."""
        return self.pages.get(self._number(span))

    def _number(self, span: Span) -> int:
        if span.level:
            raise ValueError(f"{span} is a gist: it has no page")
        if not 0 <= span.start < self.sealed:
            raise IndexError(f"{span} is not sealed: blocks are, up to {self.sealed}")
        return span.start // self.grid.block

    def fold(self, number: int, mass: Tensor) -> None:
        """Make the gist of block `number`, whose tokens received attention `mass` (L, Hk, n). A first one stays."""
        node = self.grid.node(1, number * self.grid.block)
        if self.gists.get(node) is None:
            self.gists.put(node, self.maker.of_page(self.pages.get(number), mass, self.slots[0]))

    def gist(self, span: Span) -> Gist:
        """The gist of a node; a parent's is made of its children's, one that was lost of its page.

        Raises KeyError for a block never folded, if there is no `measure`.
        """
        gist = self.gists.get(span)
        if gist is None and span.level <= 1:
            gist = self._made_again(span)
        elif gist is None:
            children = [self.gist(child) for child in self.grid.children(span)]
            gist = self.maker.of_gists(children, self.slots[span.level - 1])
            self.gists.put(span, gist)
        return gist

    def _made_again(self, span: Span) -> Gist:
        if self.measure is None:
            raise KeyError(f"{span} has no gist: it was never folded")
        number = span.start // self.grid.block
        gist = self.maker.of_page(self.pages.get(number), self.measure(number), self.slots[0])
        self.gists.put(span, gist)
        self._remade += 1
        return gist

    @property
    def failure(self) -> StoreError | None:
        """Why pages or gists are not written any more."""
        return self.pages.failure or self.gists.failure

    def traffic(self) -> PageTraffic:
        """What happened to pages since this was last asked; a gist that was made again is a block recomputed."""
        found, remade = self.pages.traffic(), self._remade
        self._remade = 0
        lost = found.lost + (remade if self.failure is None else 0)
        return found._replace(recomputed=found.recomputed + remade, lost=lost)

    @property
    def nbytes(self) -> int:
        """Bytes that tokens, pages and gists take in memory."""
        return self._tokens.itemsize * len(self._tokens) + self.pages.nbytes + self.gists.nbytes

    def copy(self) -> MemoryTree:
        """An independent tree; pages and gists, which never change, are shared."""
        twin = MemoryTree(self.grid, self.maker, self.slots, self.pages.copy(), self.gists.copy())
        twin._tokens, twin._blocks = self._tokens[:], self._blocks
        return twin
