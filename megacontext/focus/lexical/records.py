"""A token and the three before it, as sixteen bytes that sort like text read backwards. Pure functions over arrays.

    3  the token   3  the one before   3  two before   3  three before   4  position of the token

All numbers are big-endian, so records compare as their bytes do. Every n-gram that ends at a token (n up to 4) is a
prefix of its record: among sorted records its matches stand side by side, whatever n is, and two binary searches find
them. Nothing is hashed, so nothing collides. Before the first token stands NOTHING, which equals no token.

m tokens, rows: one for each token and each n, those of a token side by side.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

CONTEXT = 4  # tokens in a record
RECORD = np.dtype("S16")
RECORD_BYTES, ID_BYTES = 16, 3
NOTHING = (1 << 24) - 1  # ids are below
LONGEST = (1 << 32) - 1  # positions are below

_PREFIXES = np.where(np.arange(RECORD_BYTES) < ID_BYTES * np.arange(1, CONTEXT + 1)[:, None], 0xFF, 0).astype(np.uint8)


def checked(tokens: Iterable[int]) -> np.ndarray:
    """(m,) ids. Raises ValueError for what is no id, or is too large for a record."""
    listed = tokens if isinstance(tokens, (list, np.ndarray)) else list(tokens)
    ids = np.asarray(listed)
    if not len(ids):
        return np.empty(0, np.uint32)
    if ids.dtype.kind not in "iu" or ids.ndim != 1 or ids.min() < 0 or ids.max() >= NOTHING:
        raise ValueError(f"token ids must be whole numbers from 0 to {NOTHING - 1}; not so in {str(listed)[:80]}")
    return ids.astype(np.uint32)


def make_records(text: np.ndarray, start: int) -> np.ndarray:
    """(m,) records of text[3:], whose first token has position `start`. text: (3 + m,) ids, or NOTHING."""
    ids = text.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
    count = len(ids) - (CONTEXT - 1)
    raw = np.empty((count, RECORD_BYTES), np.uint8)
    for back in range(CONTEXT):
        first = CONTEXT - 1 - back
        raw[:, ID_BYTES * back : ID_BYTES * (back + 1)] = ids[first : first + count]
    raw[:, ID_BYTES * CONTEXT :] = np.arange(start, start + count, dtype=">u4").view(np.uint8).reshape(-1, 4)
    return raw.view(RECORD)[:, 0]


def bounds(records: np.ndarray, max_n: int) -> np.ndarray:
    """(2 * rows,) records: what is not below the first half's and below the second half's begins as the row does."""
    raw = records.view(np.uint8).reshape(-1, 1, RECORD_BYTES)
    keep = _PREFIXES[:max_n]
    both = np.empty((2, len(records), max_n, RECORD_BYTES), np.uint8)
    np.bitwise_and(raw, keep, out=both[0])
    np.bitwise_or(raw, ~keep, out=both[1])
    return both.reshape(-1).view(RECORD)


def positions(records: np.ndarray) -> np.ndarray:
    """(m,) int64: where the tokens of contiguous records stand."""
    return records.view(">u4").reshape(-1, RECORD_BYTES // 4)[:, -1].astype(np.int64)
