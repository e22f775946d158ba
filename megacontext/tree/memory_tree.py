"""History, complete: every token, every block's page. In memory for now; tokens also go to the session's token log.

Knows nothing of focus and of what is in view.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from megacontext.arena import Page
from megacontext.span import Grid, Span


class MemoryTree:
    """tokens: all of history, the open tail included. Pages exist for sealed blocks."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
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

    @property
    def nbytes(self) -> int:
        """Bytes that tokens and pages take."""
        page = self._pages[0].nbytes if self._pages else 0
        return self._tokens.itemsize * len(self._tokens) + page * len(self._pages)

    def copy(self) -> MemoryTree:
        """An independent tree; the pages, which never change, are shared."""
        twin = MemoryTree(self.grid)
        twin._tokens, twin._pages = self._tokens[:], self._pages.copy()
        return twin
