"""Which tokens make an example: a context of whole blocks and the future that follows it, both inside one document.

An example begins at every `stride`-th block of its document from which context and future still fit. Documents lie one
after the other in the token spool, each cut to whole blocks. Pure arithmetic: no files, no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Read = Callable[[int, int], np.ndarray]  # (start, count) -> ids of the spool


class Examples:
    """All examples of a split, counted from 0. `lengths`: tokens of each document; all sizes in tokens."""

    def __init__(self, lengths: Sequence[int], *, tokens: int, stride: int) -> None:
        """tokens: of one example, context and future together."""
        self.tokens, self.stride = tokens, stride
        documents = np.asarray(lengths, dtype=np.int64)
        fitting = np.maximum((documents - tokens) // stride + 1, 0)
        self._ends = np.cumsum(fitting)  # per document: examples up to its end
        self._firsts = self._ends - fitting
        self._offsets = np.cumsum(documents) - documents

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def starts(self, first: int, stop: int) -> np.ndarray:
        """Where examples [first, stop) begin in the spool, (stop - first,) int64."""
        rows = np.arange(first, stop)
        document = np.searchsorted(self._ends, rows, side="right")
        return self._offsets[document] + (rows - self._firsts[document]) * self.stride

    def gather(self, read: Read, first: int, stop: int) -> np.ndarray:
        """Ids of examples [first, stop), (stop - first, tokens) int64."""
        return np.array([read(start, self.tokens) for start in self.starts(first, stop).tolist()], dtype=np.int64)


def whole_blocks(tokens: int, block: int) -> int:
    """`tokens` without a last block that is not full."""
    return tokens // block * block


def limit_of(most: int | None, block: int) -> int | None:
    """Tokens up to the end of the block that reaches `most`; None for no limit."""
    return None if most is None else -(-most // block) * block
