"""Many frames of a token log at once: a whole window of the file is checked and taken apart by array operations.

A log that was made durable after each token has a frame or two for every token; one by one they would take a hundred
times as long as the same tokens in large frames. What counts as a good frame is what token_frames says, no more and no
less: the word, version, type, length, sequence number and checksum of each are looked at.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from megacontext.tree import token_frames as frames

SHORT = 16  # words: frames up to this are checksummed together
_WORD = int.from_bytes(frames.WORD, "little")
_HEAD = frames.HEAD_BYTES // 4  # words
_FRAME = frames.FRAME_BYTES // 4
_KINDS = {kind: frames.VERSION | kind << 8 for kind in (frames.TOKENS, frames.SYNCED)}


class Run(NamedTuple):
    """Consecutive whole frames. offsets: (f,) the first byte of each, in the file. counts: (f,) tokens in each, 0 in
    SYNCED ones. tokens: (n,) uint32, of all of them. end: the byte behind the last. sequence: the next frame's number.
    """

    offsets: np.ndarray
    counts: np.ndarray
    tokens: np.ndarray
    end: int
    sequence: int


def read_runs(
    read: Callable[[int, int], bytes], offset: int, vocab: int, *, sequence: int | None = 0, stop: int | None = None
) -> Iterator[Run]:
    """Runs from `offset` on, as long as frames are whole, undamaged, next in sequence, and all their ids below `vocab`.

    read(offset, size) returns bytes of the file, fewer at its end. sequence: the first frame's number; None: any.
    stop: a byte where a frame begins, at which to end.
    """
    while stop is None or offset < stop:
        size = max(frames.WINDOW, frames.FRAME_BYTES + 4 * frames.FRAME_TOKENS)
        run = parse(read(offset, size if stop is None else min(size, stop - offset)), offset, vocab, sequence)
        if not len(run.offsets):
            return
        yield run
        offset, sequence = run.end, run.sequence


def parse(data: bytes, base: int, vocab: int, sequence: int | None) -> Run:
    """The frames that `data`, which is byte `base` of the file, begins with."""
    words = np.frombuffer(data, "<u4", len(data) // 4)
    starts = np.flatnonzero(words[: len(words) - _HEAD + 1] == _WORD) if len(words) > _HEAD else np.empty(0, np.int64)
    if not len(starts) or starts[0]:
        return Run(np.empty(0, np.int64), np.empty(0, np.int64), words[:0], base, sequence or 0)
    kinds, lengths = words[starts + 1], words[starts + 2].astype(np.int64)
    is_tokens = kinds == _KINDS[frames.TOKENS]
    good = is_tokens & (lengths > 0) & (lengths <= 4 * frames.FRAME_TOKENS) & (lengths % 4 == 0)
    good |= (kinds == _KINDS[frames.SYNCED]) & (lengths == frames.SYNCED_BYTES)
    ends = starts + _FRAME + lengths // 4
    good &= ends <= len(words)
    chain = _chain(starts, ends)
    chain = chain[: _prefix(good[chain])]
    numbers = words[starts[chain] + 3] | words[starts[chain] + 4].astype(np.uint64) << np.uint64(32)
    first = sequence if sequence is not None else int(numbers[0]) if len(numbers) else 0
    chain = chain[: _prefix(numbers == np.uint64(first) + np.arange(len(chain), dtype=np.uint64))]
    chain = chain[: _prefix(_checked(data, words, starts[chain], ends[chain]))]
    counts = np.where(is_tokens[chain], lengths[chain] // 4, 0)
    tokens = _ranges(words, starts[chain] + _HEAD, counts)
    if len(tokens) and int(tokens.max()) >= vocab:
        whole = int(np.searchsorted(np.cumsum(counts), np.flatnonzero(tokens >= vocab)[0], "right"))
        chain, counts, tokens = chain[:whole], counts[:whole], tokens[: counts[:whole].sum()]
    end = base + 4 * int(ends[chain[-1]]) if len(chain) else base
    return Run(base + 4 * starts[chain], counts, tokens, end, first + len(chain))


def _chain(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which of the words found are the beginnings of frames that follow each other: one may stand within a frame."""
    if np.array_equal(ends[:-1], starts[1:]):
        return np.arange(len(starts))
    place = {int(start): number for number, start in enumerate(starts)}
    found, following = [0], ends.tolist()
    while (number := place.get(following[found[-1]])) is not None:
        found.append(number)
    return np.array(found)


def _prefix(good: np.ndarray) -> int:
    """How many are good before the first that is not."""
    return len(good) if good.all() else int(good.argmin())


def _ranges(words: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """words[start : start + count] of all, one after the other."""
    if counts.sum() > SHORT * len(counts):  # long ones are copied faster each by itself
        return np.concatenate([words[start : start + n] for start, n in zip(starts, counts, strict=True)])
    before = np.cumsum(counts) - counts
    return words[np.repeat(starts - before, counts) + np.arange(counts.sum())]


def _checked(data: bytes, words: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(f,) whether each frame's checksum is right."""
    good, sizes = np.zeros(len(starts), bool), ends - starts
    for size in np.unique(sizes[sizes <= SHORT]).tolist():
        alike = np.flatnonzero(sizes == size)
        sums = _crc32(words[starts[alike, None] + np.arange(size - 1)])
        good[alike] = sums == words[ends[alike] - 1]
    view = memoryview(data)
    for number in np.flatnonzero(sizes > SHORT).tolist():
        start, end = 4 * int(starts[number]), 4 * int(ends[number]) - 4
        good[number] = zlib.crc32(view[start:end]) == int(words[end // 4])
    return good


def _crc32(rows: np.ndarray) -> np.ndarray:
    """(f,) crc32 as of zlib, of (f, words) uint32, four bytes at a step."""
    sums = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    tables = _tables()
    for column in rows.T:
        sums = sums ^ column
        parts = (sums >> np.uint32(8 * byte) & np.uint32(255) for byte in range(4))
        sums = np.bitwise_xor.reduce([tables[3 - byte][part] for byte, part in enumerate(parts)])
    return ~sums


@cache
def _tables() -> np.ndarray:
    """(4, 256) uint32: what a byte does to a checksum, followed by 0 to 3 zero bytes."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> np.uint32(1) ^ np.uint32(0xEDB88320), table >> np.uint32(1))
    tables = [table]
    for _ in range(3):
        tables.append(table[tables[-1] & np.uint32(255)] ^ tables[-1] >> np.uint32(8))
    return np.stack(tables)
