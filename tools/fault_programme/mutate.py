"""Inputs that are nearly right: valid ones, changed a little. Knows no format but for words that are handed to it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1)
LONGEST = 64  # bytes that one change touches, but for copies
MARKS = (b"[", b"]", b"{", b"}", b",", b":", b'"')
TEXTS = (b"null", b"-1", b"1e999", b"NaN", *MARKS, b"\\ud800", b"\xff", b"\0", b"[" * 40)


def mutated(seed: bytes, others: Sequence[bytes], words: Sequence[bytes], rng: Random) -> bytes:
    """`seed` after one to five changes. others: what may be copied from. words: of the format."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        rng.choice(CHANGES)(data, others, words, rng)
    return bytes(data)


def _place(data: bytearray, rng: Random) -> tuple[int, int]:
    """A short range."""
    start = rng.randrange(len(data) + 1)
    return start, min(start + rng.choice((1, 1, 2, 4, 8, rng.randint(1, LONGEST))), len(data))


def _flip(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], rng: Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _number(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], rng: Random) -> None:
    size = rng.choice((1, 2, 4, 8))
    start = rng.randrange(len(data) + 1) // size * size
    number = (rng.choice(NUMBERS) + rng.choice((0, 0, 1, -1))) % (1 << 64)
    data[start : start + size] = struct.pack("<Q", number)[:size]


def _noise(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], rng: Random) -> None:
    start, stop = _place(data, rng)
    data[start:stop] = rng.randbytes(stop - start)


def _remove(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], rng: Random) -> None:
    start, stop = _place(data, rng)
    del data[start:stop]


def _cut(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], rng: Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _repeat(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], rng: Random) -> None:
    start, stop = _place(data, rng)
    data[start:start] = data[start:stop] * rng.choice((1, 2, 20))


def _copy(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], rng: Random) -> None:
    other = bytearray(rng.choice(others))
    (start, stop), (at, end) = _place(data, rng), _place(other, rng)
    data[start:stop] = other[at:end]


def _word(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], rng: Random) -> None:
    start, stop = _place(data, rng)
    data[start : rng.choice((start, stop))] = rng.choice((*words, *TEXTS))


def _exchange(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], rng: Random) -> None:
    """One of the words gives way to another."""
    there = [word for word in words if word in data]
    if there:
        data[:] = data.replace(rng.choice(there), rng.choice((*words, *TEXTS)), rng.choice((1, 1, -1)))


Change = Callable[[bytearray, Sequence[bytes], Sequence[bytes], Random], None]
CHANGES: tuple[Change, ...] = (_flip, _flip, _number, _number, _noise, _remove, _cut, _repeat, _copy, _word, _exchange)


# --- JSON values ---

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 1 << 31, 1 << 63, 1 << 64, -(1 << 63), 0.5, -0.0, 1e308, float("nan")),
    *("", "x", "1", "\ud800", "\0", "../x", "a" * 300, [], {}, [[]], [None], {"a": 1}, ["a", 1], [0] * 50, "#"),
)


def mutated_json(value: Any, rng: Random) -> Any:
    """A copy of a JSON value after one to three changes, each of a node drawn from all of them."""
    root = [_copied(value)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(root))
        holder, key = rng.choice(places)
        other_holder, other_key = rng.choice(places)
        change = rng.randrange(6)
        if change == 0 and holder is not root:
            del holder[key]
        elif change == 1:
            holder[key] = _copied(other_holder[other_key])
        elif change == 2:
            holder[key] = [holder[key]]
        elif change == 3 and isinstance(holder, dict):
            holder[rng.choice(("", "x", str(other_key)))] = holder.pop(key)
        elif change == 4 and isinstance(holder[key], int):
            holder[key] += rng.choice((1, -1, 1 << 31))
        else:
            holder[key] = _copied(rng.choice(JUNK))
    return root[0]


def _copied(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Every node, as what holds it and under which key or index."""
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    for key in keys:
        yield holder, key
        if isinstance(holder[key], (dict, list)):
            yield from _places(holder[key])
