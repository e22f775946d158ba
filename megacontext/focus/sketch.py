"""Vectors in a few bits: what a search over all of history can afford to keep in memory.

Vectors are turned first (random signs, then a cosine transform), so that no channel carries more than another; of very
wide ones a part of the channels is kept. A group of turned vectors is measured from its centre and rounded to levels of
2, 4 or 8 bits, as many as make 288 bytes a vector at most. Two numbers a layer make the estimate of a product unbiased:
the length, and length^2 / (vector . levels), the idea of RaBitQ (arXiv 2405.12497, section 3.2). The first bit of each
level is its sign, so that signs alone can be compared, 64 at a time.

    payload of a group   planes: bits of each level, the sign's first; per plane and vector a row of whole 8 bytes
                         factors (GROUP, n), lengths (GROUP, n), centre (n, k): float16; zeros up to whole 8 bytes

n layers, w channels a layer, of which k are kept. Knows nothing of files, blocks or models.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np

GROUP = 128  # vectors
MOST_LEVELS, MOST_BITS = 1152, 2304  # of a vector
STEPS = {8: 0.0308, 4: 0.3352, 2: 0.9957}  # bits -> step between levels, in standard deviations (Max 1960, table II)


class Sketcher:
    """Packs groups of GROUP turned vectors (n, k), and compares turned vectors with what was packed.

    `data` is packed groups, (groups, payload) uint8; vectors in it are numbered through.
    """

    def __init__(self, layers: int, width: int) -> None:
        self.layers, self.kept = layers, max(min(width, MOST_LEVELS // layers), 1)
        self.levels = layers * self.kept
        self.bits = max((bits for bits in STEPS if bits * self.levels <= MOST_BITS), default=2)
        self._row = -(-self.levels // 64) * 8  # bytes of a plane of a vector
        planes, numbers = self.bits * GROUP * self._row, 2 * GROUP * layers
        ends = np.cumsum([0, planes, numbers, numbers, 2 * self.levels]).tolist()
        names = ("planes", "factors", "lengths", "centre")
        self._parts = {name: slice(*ends[i : i + 2]) for i, name in enumerate(names)}
        self.payload = -(-ends[-1] // 8) * 8
        self._turn = _turn(width, self.kept)

    @property
    def nbytes(self) -> int:
        """Bytes of its tables."""
        return self._turn.nbytes

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        """(..., n, w) -> (..., n, k) float32. Lengths and angles stay; where channels are left out, nearly."""
        return vectors.astype(np.float32) @ self._turn

    def pack(self, turned: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """(GROUP, n, k), seen from `centre` (n, k) -> (payload,) uint8"""
        middle = _half(centre)
        rest, half = turned - middle.astype(np.float32), 1 << self.bits - 1
        squares = (rest**2).sum(-1)
        step = np.sqrt(squares / self.kept)[..., None] * STEPS[self.bits] + 1e-30
        codes = np.clip(np.floor(rest / step) + half, 0, 2 * half - 1).astype(np.uint8)
        factors = squares / ((rest * self._level(codes)).sum(-1) + 1e-30)
        found = np.zeros(self.payload, np.uint8)
        found[self._parts["planes"]] = self._planes(codes.reshape(GROUP, -1)).reshape(-1)
        for name, numbers in (("factors", _half(factors)), ("lengths", _half(np.sqrt(squares))), ("centre", middle)):
            found[self._parts[name]] = numbers.reshape(-1).view(np.uint8)
        return found

    def differing_signs(self, data: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """(vectors,) of how many levels the sign differs from that of `asked` (n, k)."""
        signs = data[:, : GROUP * self._row].view(np.uint64).reshape(len(data), GROUP, self._row // 8)
        wanted = self._row_of(asked.reshape(-1) >= 0).view(np.uint64)
        return _ones(signs ^ wanted).sum(-1, dtype=np.int32).reshape(-1)

    def cosines(self, data: np.ndarray, which: np.ndarray, centre: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """For these vectors, the sum over layers of the cosine between (vector - centre) and `asked`, estimated.

        which: numbers of vectors. centre, asked: (n, k), the latter of length 1 in each layer.
        """
        groups, rows = np.divmod(which, GROUP)
        there, back = np.unique(groups, return_inverse=True)
        moved = self._numbers(data, "centre")[there].astype(np.float32).reshape(-1, self.layers, self.kept) - centre
        factors, lengths = (
            self._numbers(data, name).reshape(-1, GROUP, self.layers)[groups, rows].astype(np.float32)
            for name in ("factors", "lengths")
        )
        levels = self._levels(data, groups, rows)
        dots = factors * (levels * asked).sum(-1) + (moved * asked).sum(-1)[back]
        along = factors * np.einsum("vnk,vnk->vn", levels, moved[back])
        squares = lengths**2 + 2 * along + (moved**2).sum(-1)[back]
        return (dots / np.sqrt(np.maximum(squares, 1e-12))).sum(1)

    def _planes(self, codes: np.ndarray) -> np.ndarray:
        """(GROUP, levels) -> (bits, GROUP, row) uint8"""
        return np.stack([self._row_of(codes >> bit & 1) for bit in reversed(range(self.bits))])

    def _row_of(self, bits: np.ndarray) -> np.ndarray:
        """(..., levels) of 0 and 1 -> (..., row) uint8"""
        packed = np.packbits(bits, axis=-1)
        return np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, self._row - packed.shape[-1])])

    def _levels(self, data: np.ndarray, groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(vectors, n, kept) float32"""
        planes = data[:, self._parts["planes"]].reshape(len(data), self.bits, GROUP, self._row)[groups, :, rows]
        bits = np.unpackbits(planes, axis=-1, count=self.levels)  # (vectors, bits, levels)
        weights = (1 << np.arange(self.bits)[::-1]).astype(np.uint8)
        codes = (bits * weights[:, None]).sum(1, np.uint8)
        return self._level(codes).reshape(-1, self.layers, self.kept)

    def _level(self, codes: np.ndarray) -> np.ndarray:
        return codes.astype(np.float32) - ((1 << self.bits) - 1) / 2

    def _numbers(self, data: np.ndarray, name: str) -> np.ndarray:
        """(groups, numbers) float16"""
        return data[:, self._parts[name]].view(np.float16)


def _half(numbers: np.ndarray) -> np.ndarray:
    most = float(np.finfo(np.float16).max)
    return np.clip(numbers, -most, most).astype(np.float16)


def _turn(width: int, kept: int) -> np.ndarray:
    """(w, k) float32: random signs, the same everywhere and always, then the orthonormal cosine transform."""
    digest = np.frombuffer(hashlib.shake_256(b"sketch").digest(-(-width // 8)), np.uint8)
    signs = 1.0 - 2.0 * np.unpackbits(digest)[:width]
    waves = np.sqrt(2 / width) * np.cos(np.pi / width * np.outer(np.arange(width) + 0.5, np.arange(kept)))
    waves[:, 0] /= np.sqrt(2)
    return (signs[:, None] * waves * np.sqrt(width / kept)).astype(np.float32)


def _ones(words: np.ndarray) -> np.ndarray:
    """How many bits of each word are set, along the last axis perhaps in parts."""
    count = getattr(np, "bitwise_count", None)  # numpy 2.0
    return count(words) if count is not None else _table()[words.view(np.uint16)]


@cache
def _table() -> np.ndarray:
    """(65536,) how many bits of a number are set."""
    return np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(1, np.uint8)
