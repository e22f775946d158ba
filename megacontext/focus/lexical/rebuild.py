"""Segments made of tokens: what a folder lost, or never had.

Sorting takes memory, so a long run of tokens becomes several segments; merging them is the archive's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from megacontext.errors import StoreError
from megacontext.focus.lexical.format import Head, checksum_of_tokens
from megacontext.focus.lexical.records import CONTEXT, NOTHING, checked, contexts, make_records

Tokens = Callable[[int, int], Sequence[int]]  # the ids of history's [start, stop)

PIECE = 1 << 16  # most tokens sorted at once


def read_text(tokens: Tokens, start: int, stop: int) -> np.ndarray:
    """(3 + stop - start,) the ids of [start, stop), and those that stand before. Raises StoreError if some are missing.

    Before the first token of all stands NOTHING.
    """
    first = max(start - (CONTEXT - 1), 0)
    ids = checked(tokens(first, stop))
    if len(ids) != stop - first:
        raise StoreError(f"{len(ids)} tokens instead of {stop - first} from {first} on: the token log is too short")
    before = CONTEXT - 1 - (start - first)
    return np.concatenate([np.full(before, NOTHING, np.uint32), ids])


def sorted_pieces(
    tokens: Tokens, start: int, stop: int, *, unit: int, digest: bytes
) -> Iterator[tuple[Head, np.ndarray]]:
    """Head and sorted records of segments that cover [start, stop), both multiples of the unit, from the first on."""
    while start < stop:
        size = unit
        while start % (2 * size) == 0 and start + 2 * size <= stop and 2 * size <= PIECE:
            size *= 2
        text = read_text(tokens, start, start + size)
        head = Head(start, size, unit, checksum_of_tokens(text[-unit:]), digest)
        yield head, np.sort(make_records(contexts(text), np.arange(size)))
        start += size
