"""History, complete: every token, every block's page. In memory for now; tokens also go to the session's token log.

Knows nothing of focus and of what is in view.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from torch import Tensor

from megacontext.arena import Page
from megacontext.gist.base import Gist, GistMaker
from megacontext.span import Grid, Span


class MemoryTree:
    """tokens: all of history, the open tail included. Pages exist for sealed blocks, gists where one was asked for.

    slots: of a gist, per level from level 1.
    """

    def __init__(self, grid: Grid, maker: GistMaker, slots: Sequence[int] = ()) -> None:
        self.grid, self.maker, self.slots = grid, maker, tuple(slots)
        self._gists: dict[Span, Gist] = {}
        self._derived_bytes = 0  # pages and gists
        self._tokens = array("q")
        self._pages: list[Page] = []

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
        self._pages.append(page)
        self._derived_bytes += page.nbytes

    def replace(self, span: Span, page: Page) -> None:
        """A page that was computed again, with more in view."""
        self.page(span)
        self._pages[span.start // self.grid.block] = page

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def sealed(self) -> int:
        """Tokens in sealed blocks."""
        return len(self._pages) * self.grid.block

    def tokens(self, start: int, end: int) -> list[int]:
        """The ids of [start, end)."""
        return self._tokens[start:end].tolist()

    def page(self, span: Span) -> Page:
        """The exact K/V of a level-0 span. Raises ValueError for a gist, IndexError for what is not sealed."""
        if span.level:
            raise ValueError(f"{span} is a gist: it has no page")
        return self._pages[span.start // self.grid.block]

    def fold(self, number: int, mass: Tensor) -> None:
        """Make the gist of block `number`, whose tokens received attention `mass` (L, Hk, n). A first one stays."""
        node = self.grid.node(1, number * self.grid.block)
        if node not in self._gists:
            self._keep(node, self.maker.of_page(self._pages[number], mass, self.slots[0]))

    def gist(self, span: Span) -> Gist:
        """The gist of a node; a parent's is made of its children's. Raises KeyError for a block never folded."""
        if span not in self._gists:
            if span.level <= 1:
                raise KeyError(f"{span} has no gist: it was never folded")
            children = [self.gist(child) for child in self.grid.children(span)]
            self._keep(span, self.maker.of_gists(children, self.slots[span.level - 1]))
        return self._gists[span]

    def _keep(self, span: Span, gist: Gist) -> None:
        self._gists[span] = gist
        self._derived_bytes += gist.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes that tokens, pages and gists take."""
        return self._tokens.itemsize * len(self._tokens) + self._derived_bytes

    def copy(self) -> MemoryTree:
        """An independent tree; pages and gists, which never change, are shared."""
        twin = MemoryTree(self.grid, self.maker, self.slots)
        twin._tokens, twin._pages, twin._gists = self._tokens[:], self._pages.copy(), self._gists.copy()
        twin._derived_bytes = self._derived_bytes
        return twin
