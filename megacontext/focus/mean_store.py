"""One small vector a block, for all of history, in groups: the newest in memory, the others in a file if there is one.

A group is written once, when it is complete, and read whole. What the file lost can be made again from pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from megacontext.errors import StoreError
from megacontext.tree.ctx_format import MEANS, Geometry
from megacontext.tree.frame_file import FrameFile

GROUP = 128  # blocks


class MeanStore:
    """Vectors of (n layers, w) float16, by block number. file: None keeps all of them in memory."""

    def __init__(self, layers: int, width: int, file: FrameFile | None = None) -> None:
        self.shape = (layers, width)
        self.count = 0
        self._file = file
        self._lent: FrameFile | None = None  # read from, never written to
        self._groups: dict[int, np.ndarray] = {}  # complete ones in memory: all without a file, else those it refused
        self._open = np.zeros((GROUP, *self.shape), np.float16)

    @staticmethod
    def geometry(layers: int, width: int) -> Geometry:
        """What the file's frames hold: a group each."""
        return Geometry(MEANS, "float16", layers, 1, GROUP, width, GROUP * layers * width * 2)

    def append(self, vector: np.ndarray) -> None:
        """The next block's vector, (n, w)."""
        number, row = divmod(self.count, GROUP)
        self._open[row] = vector
        self.count += 1
        if row == GROUP - 1:
            self._keep(number, self._open)
            self._open = np.zeros_like(self._open)

    def _keep(self, number: int, group: np.ndarray) -> None:
        try:
            if self._file is not None:
                self._file.write(number, group.tobytes())
                return
        except StoreError:
            self._file = None  # the pages' store meets the same disk, and tells
        self._groups[number] = group

    def groups(self, known: int) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the first block, vectors (m, n, w)) for the first `known` blocks; what was lost is left out."""
        for number in range(-(-known // GROUP)):
            group = self._group(number)
            if group is not None:
                yield number * GROUP, group[: known - number * GROUP]

    def _group(self, number: int) -> np.ndarray | None:
        if number == self.count // GROUP:
            return self._open
        if number in self._groups:
            return self._groups[number]
        file = self._file or self._lent
        try:
            payload = None if file is None else file.read(number)
        except StoreError:
            payload = None  # as if it were damaged
        return None if payload is None else np.frombuffer(payload, np.float16).reshape(GROUP, *self.shape)

    def state(self) -> dict[str, Any]:
        """The open group; without a file all of them."""
        return {
            "count": self.count,
            "open": self._open[: self.count % GROUP],
            "closed": {str(number): group for number, group in self._groups.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Into an empty store. Raises ValueError for vectors of another shape."""
        count, newest = int(state["count"]), np.asarray(state["open"]).astype(np.float16)
        closed = {int(number): np.asarray(group).astype(np.float16) for number, group in state["closed"].items()}
        if newest.shape != (count % GROUP, *self.shape) or any(g.shape != self._open.shape for g in closed.values()):
            raise ValueError(f"vectors of shape {newest.shape} do not fit {count} blocks of {self.shape}")
        self.count, self._groups = count, closed
        self._open[: len(newest)] = newest

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._open.nbytes + sum(group.nbytes for group in self._groups.values())

    def copy(self) -> MeanStore:
        """An independent store with the same vectors; it reads from the same file and writes nothing there."""
        twin = MeanStore(*self.shape)
        twin.count, twin._open = self.count, self._open.copy()
        twin._groups, twin._lent = self._groups.copy(), self._file or self._lent
        return twin
