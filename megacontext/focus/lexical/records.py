"""A token with the three before it, as one number that numpy sorts and searches. Pure functions over arrays.

    real part    21 bits  the token          21  the one before     11  two before, its upper bits
    imaginary    10 bits  its lower bits     21  three before       22  position, counted from the segment's first token

Complex numbers are ordered by their real parts, then by their imaginary ones, and 53 bits stand in a part exactly: so
records are ordered like text read backwards. All tokens in which an n-gram ends (n up to 4) stand side by side among
sorted records, whatever n is, and two binary searches find them. Nothing is hashed, so nothing collides.

A context is (4,) ids: a token, the one before it, and so on. Before the first token stands NOTHING, which equals no
token. m tokens; rows: one for each token and each n, those of a token side by side.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

CONTEXT = 4
RECORD = np.dtype("<c16")
NOTHING = (1 << 21) - 1  # ids are below
LONGEST_SEGMENT = 1 << 22  # tokens
LONGEST = 1 << 32  # tokens of a history

_UPTO = np.tri(CONTEXT, dtype=np.int64)  # [n - 1]: which ids of a context an n-gram has
_LAST = np.eye(CONTEXT, dtype=np.int64)  # the last of them


def checked(tokens: Iterable[int]) -> np.ndarray:
    """(m,) ids. Raises ValueError for what is no id, or is too large for a record."""
    listed = tokens if isinstance(tokens, (list, np.ndarray)) else list(tokens)
    ids = np.asarray(listed)
    if not len(ids):
        return np.empty(0, np.uint32)
    if ids.dtype.kind not in "iu" or ids.ndim != 1 or ids.min() < 0 or ids.max() >= NOTHING:
        raise ValueError(f"token ids must be whole numbers from 0 to {NOTHING - 1}; not so in {str(listed)[:80]}")
    return ids.astype(np.uint32)


def contexts(text: np.ndarray) -> np.ndarray:
    """(m, 4) int64: the contexts of text[3:]. text: (3 + m,) ids, or NOTHING."""
    count = len(text) - (CONTEXT - 1)
    found = np.empty((count, CONTEXT), np.int64)
    for back in range(CONTEXT):
        found[:, back] = text[CONTEXT - 1 - back :][:count]
    return found


def make_records(found: np.ndarray, places: np.ndarray | int) -> np.ndarray:
    """(...,) records of (..., 4) contexts. places: counted from the segment's first token."""
    token, before, two_before, three_before = np.moveaxis(found, -1, 0)
    records = np.empty(token.shape, RECORD)
    records.real = (token << 32) + (before << 11) + (two_before >> 10)
    records.imag = ((two_before & 1023) << 43) + (three_before << 22) + places
    return records


def bounds(found: np.ndarray, max_n: int) -> np.ndarray:
    """(2 * rows,) records. A row's n-gram ends where a record is not below its first one, and below its second one.

    The rows' first ones come first.
    """
    low = found[:, None, :] * _UPTO[:max_n]
    return make_records(np.stack([low, low + _LAST[:max_n]]), 0).reshape(-1)


def places(records: np.ndarray) -> np.ndarray:
    """(m,) int64: positions, counted from the segment's first token."""
    return records.imag.astype(np.int64) & (LONGEST_SEGMENT - 1)
