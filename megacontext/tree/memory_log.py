"""A token log without a disk, for conversations that leave no trace. Also the part of TokenLog that needs none."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Recovered(NamedTuple):
    """What was found on opening."""

    frames: int
    tokens: int


def checked_ids(ids: Sequence[int] | np.ndarray, vocab: int) -> np.ndarray:
    """ids as (n,) uint32. Raises ValueError, naming the first, if one is not in [0, vocab)."""
    values = np.asarray(ids)
    if values.size == 0:
        return np.empty(0, np.uint32)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"token ids must be a flat list of integers, got {values.dtype} of shape {values.shape}")
    wrong = (values < 0) | (values >= vocab)
    if wrong.any():
        raise ValueError(f"token id {int(values[wrong.argmax()])} is not in the vocabulary [0, {vocab})")
    return values.astype(np.uint32)


class MemoryLog:
    """The face of a token log, without a disk. `_pending` is all of it here, and what is yet to write in a TokenLog."""

    recovered = Recovered(0, 0)
    truncated = 0

    def __init__(self, *, vocab: int) -> None:
        self.vocab = vocab
        self._pending = array("I")

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._pending.itemsize * len(self._pending)

    def append(self, ids: Sequence[int] | np.ndarray) -> None:
        """Take ids at the end. Raises ValueError if one is out of the vocabulary; then none is taken."""
        self._pending.frombytes(checked_ids(ids, self.vocab).tobytes())

    def flush(self) -> None:
        """Hand everything so far to the system."""

    def sync(self) -> None:
        """Make everything so far durable."""

    def close(self) -> None:
        """Sync and let go."""

    def array(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) as (stop - start,) uint32. Raises ValueError if they are not all there."""
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"tokens [{start}, {stop}) are not within the log's [0, {len(self)})")
        return np.array(self._pending[start:stop], dtype=np.uint32)

    def tokens(self, start: int, stop: int) -> list[int]:
        """Tokens [start, stop). Raises ValueError if they are not all there."""
        return self.array(start, stop).tolist()
