"""One vector a block, for all of history: the newest as they are, the others as sketches of a few bits a channel.

Sketches are made and written by groups, once; all of them are in memory, about 10 bytes a token at most. Asking for
the likest blocks looks at signs, 64 channels at a time, then at the sketches of the best few hundred, so that its cost
hardly grows: 1 ms for each million tokens. What the file lost is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from megacontext.errors import StoreError
from megacontext.focus.sketch import GROUP, Sketcher
from megacontext.tree.ctx_format import MEANS, Geometry
from megacontext.tree.frame_file import FrameFile

LOOKED_AT = 512 * 1152  # levels that are looked at closely: of 512 vectors, of more where these are small
MOST_LOOKED_AT = 4096  # vectors
MERGED = 8  # pieces that are put together


class MeanStore:
    """Vectors of (n layers, w), by block number. file: where groups are kept, too; None: in memory alone.

    centre: (n, w), the mean of all vectors.
    """

    def __init__(self, layers: int, width: int, file: FrameFile | None = None) -> None:
        self.shape = (layers, width)
        self.count = 0
        self._total = np.zeros(self.shape)
        self._open = np.zeros((GROUP, *self.shape), np.float16)
        self._sketcher = Sketcher(layers, width)
        self._pieces: list[tuple[np.ndarray, np.ndarray]] = []  # group numbers (g,) in order, packed groups (g, bytes)
        self._unfiled: set[int] = set()  # groups that are in no file
        self._file = file

    @staticmethod
    def geometry(layers: int, width: int) -> Geometry:
        """What the file's frames hold: a group each."""
        return Geometry(MEANS, "sketch", layers, 1, GROUP, width, Sketcher(layers, width).payload)

    @property
    def centre(self) -> np.ndarray:
        return (self._total / max(self.count, 1)).astype(np.float32)

    def append(self, vector: np.ndarray) -> None:
        """The next block's vector, (n, w)."""
        number, row = divmod(self.count, GROUP)
        self._open[row] = vector
        self._total += vector
        self.count += 1
        if row == GROUP - 1:
            data = self._sketcher.pack(self._sketcher.turn(self._open), self._sketcher.turn(self.centre))
            self._take(number, data)
            self._keep(number, data)
            self._open = np.zeros_like(self._open)

    def _take(self, number: int, data: np.ndarray) -> None:
        """Into memory. A few large pieces are faster to look through than many small ones."""
        self._pieces.append((np.array([number]), data[None]))
        while len({len(numbers) for numbers, _ in self._pieces[-MERGED:]}) == 1 and len(self._pieces) >= MERGED:
            numbers, groups = zip(*self._pieces[-MERGED:], strict=True)
            self._pieces[-MERGED:] = [(np.concatenate(numbers), np.concatenate(groups))]

    def _keep(self, number: int, data: np.ndarray) -> None:
        self._unfiled.add(number)
        try:
            if self._file is not None:
                self._file.write(number, data.tobytes())
                self._unfiled.discard(number)
        except StoreError:
            self._file = None  # the pages' store meets the same disk, and tells

    def likest(self, asked: np.ndarray, known: int, most: int) -> list[int]:
        """Of the first `known` blocks those whose vectors, seen from the centre, point most where `asked` points.

        asked: (n, w), a direction a layer, each of length 1; layers count alike. At most `most`, the likest first.
        """
        newest = self._newest(asked, known)
        turned, centre = self._sketcher.turn(asked), self._sketcher.turn(self.centre)
        turned /= np.maximum(np.linalg.norm(turned, axis=-1, keepdims=True), 1e-6)
        found = [newest]
        for piece, which in self._candidates(turned, known):
            numbers, data = self._pieces[piece]
            found.append((_blocks(numbers)[which], self._sketcher.cosines(data, which, centre, turned)))
        numbers, cosines = map(np.concatenate, zip(*found, strict=True))
        return numbers[np.argsort(-cosines, kind="stable")[:most]].tolist()

    def flops(self, known: int) -> int:
        """What `likest` costs: a bit a level of all vectors, or all levels of those that are looked at closely."""
        levels = self._sketcher.levels
        most = min(LOOKED_AT // levels, MOST_LOOKED_AT)
        return 2 * levels * min(known, most) + (levels * known if known > most else 0)

    def _newest(self, asked: np.ndarray, known: int) -> tuple[np.ndarray, np.ndarray]:
        """(block numbers, cosines) of those that are no sketches yet."""
        first = self.count // GROUP * GROUP
        rest = self._open[: max(min(known, self.count) - first, 0)].astype(np.float32) - self.centre
        cosines = ((rest * asked).sum(-1) / np.maximum(np.linalg.norm(rest, axis=-1), 1e-6)).sum(1)
        return first + np.arange(len(rest)), cosines

    def _candidates(self, asked: np.ndarray, known: int) -> list[tuple[int, np.ndarray]]:
        """(piece, which of its vectors): all if they are few, else those with the most signs of `asked`."""
        counts = [int(np.searchsorted(_blocks(numbers), known)) for numbers, _ in self._pieces]
        most = min(LOOKED_AT // self._sketcher.levels, MOST_LOOKED_AT)
        if sum(counts) <= most:
            return [(piece, np.arange(count)) for piece, count in enumerate(counts) if count]
        differing = [self._sketcher.differing_signs(data, asked) for _, data in self._pieces]
        together = np.concatenate([found[:count] for found, count in zip(differing, counts, strict=True)])
        best = np.sort(np.argpartition(together, most)[:most])
        ends = np.cumsum(counts)
        parts = np.split(best, np.searchsorted(best, ends[:-1]))
        return [(i, part - (ends[i] - counts[i])) for i, part in enumerate(parts) if len(part)]

    def state(self) -> dict[str, Any]:
        """The newest vectors, and groups that are in no file."""
        return {
            "count": self.count,
            "total": self._total,
            "open": self._open[: self.count % GROUP],
            "closed": self._closed() if self._unfiled else {},
        }

    def _closed(self) -> dict[str, np.ndarray]:
        groups = (pair for piece in self._pieces for pair in zip(piece[0].tolist(), piece[1], strict=True))
        return {str(number): data for number, data in groups if number in self._unfiled}

    def restore(self, state: dict[str, Any]) -> None:
        """Into an empty store. Groups that were in no file are written now. Raises ValueError for another shape."""
        count, newest = int(state["count"]), np.asarray(state["open"]).astype(np.float16)
        total, closed = np.asarray(state["total"]).astype(np.float64), state["closed"]
        fitting = newest.shape == (count % GROUP, *self.shape) and total.shape == self.shape
        if not fitting or any(np.asarray(data).shape != (self._sketcher.payload,) for data in closed.values()):
            raise ValueError(f"vectors of shape {newest.shape} do not fit {count} blocks of {self.shape}")
        self.count, self._total = count, total
        self._open[: len(newest)] = newest
        for number in range(count // GROUP):
            data = self._read(number) if str(number) not in closed else np.asarray(closed[str(number)])
            if data is not None:
                self._take(number, data)
            if str(number) in closed:
                self._keep(number, np.asarray(data))

    def _read(self, number: int) -> np.ndarray | None:
        try:
            payload = None if self._file is None else self._file.read(number)
        except StoreError:
            payload = None  # as if it were damaged
        return None if payload is None else np.frombuffer(payload, np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        pieces = sum(numbers.nbytes + data.nbytes for numbers, data in self._pieces)
        return self._open.nbytes + self._total.nbytes + self._sketcher.nbytes + pieces

    def copy(self) -> MeanStore:
        """An independent store with the same vectors; it writes to no file."""
        twin = MeanStore(*self.shape)
        twin.count, twin._total, twin._open = self.count, self._total.copy(), self._open.copy()
        twin._pieces = list(self._pieces)  # what is in them never changes
        twin._unfiled = {int(number) for numbers, _ in self._pieces for number in numbers}
        return twin


def _blocks(numbers: np.ndarray) -> np.ndarray:
    """The blocks of these groups, in order."""
    return (numbers[:, None] * GROUP + np.arange(GROUP)).reshape(-1)
