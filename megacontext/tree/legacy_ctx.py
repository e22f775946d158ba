"""Reads the .ctx files of MegaContext's earlier design notes: token ids, or gist vectors, behind a header of 64 bytes.

The notes give two headers, both as version 1 (docs/ctx_format.md shows them side by side): one that only names the
model, one that also counts the entries. Which one a file has shows in whether its length is what it counts. Nothing
writes these files any more; what they hold cannot be used by another model's memory, but for the tokens of level 0.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megacontext.errors import StoreError

MAGIC, VERSION = 0x4D434354, 1  # as a little-endian number: the file begins with "TCCM"
HEADER_BYTES = 64
LEVELS = 3
DTYPES = ("uint32", "fp16", "bf16", "fp32")
ITEM_BYTES = (4, 2, 2, 4)

_NAMED = struct.Struct("<IHHHHH32s18s")  # the name at byte 14
_COUNTED = struct.Struct("<IHHHHHQ32s10s")  # the count at byte 14, the name at byte 22


class LegacyHeader(NamedTuple):
    """level: 0 tokens, 1 or 2 gists. block: tokens a gist of level 1. width: numbers in a gist. dtype: of DTYPES.

    entries: tokens, or gists. counted: whether the header says how many.
    """

    level: int
    block: int
    width: int
    dtype: str
    entries: int
    model: str
    counted: bool


class LegacyCtx(NamedTuple):
    """entries: tokens as (n,) uint32, or gists as (n, width) float32."""

    header: LegacyHeader
    entries: np.ndarray


def is_legacy(data: bytes) -> bool:
    """Whether a file that begins with `data` is of this kind."""
    return data[:4] == struct.pack("<I", MAGIC)


def read_header(data: bytes, size: int) -> LegacyHeader:
    """The header of a file of `size` bytes that begins with `data`. Raises ValueError saying what does not fit."""
    if len(data) < HEADER_BYTES or not is_legacy(data):
        raise ValueError("it does not begin with the 64 bytes of an earlier .ctx file")
    _, version, level, block, width, code = _NAMED.unpack_from(data)[:6]
    if version != VERSION or level >= LEVELS or not block or code >= len(DTYPES) or (code == 0) != (level == 0):
        raise ValueError(f"its header makes no sense: version {version}, level {level}, block {block}, dtype {code}")
    entry = ITEM_BYTES[code] * (width if level else 1)
    if not entry:
        raise ValueError("its gists have no width")
    known = level, block, width, DTYPES[code]
    count, name, rest = _COUNTED.unpack_from(data)[6:]
    if HEADER_BYTES + count * entry == size and not any(rest):
        return LegacyHeader(*known, count, _text(name), counted=True)
    name, rest = _NAMED.unpack_from(data)[6:]
    count, left_over = divmod(size - HEADER_BYTES, entry)
    if left_over or any(rest):
        raise ValueError(f"its {size:,} bytes are not what its header says")
    return LegacyHeader(*known, count, _text(name), counted=False)


def _text(name: bytes) -> str:
    """A model's name, up to the first zero byte. Raises ValueError (UnicodeDecodeError is one) if it is none."""
    text = name.partition(b"\0")[0].decode("utf-8")
    if not text.isprintable():
        raise ValueError(f"its model's name makes no sense: {text!r}")
    return text


def read_legacy(path: Path | str) -> LegacyCtx:
    """Read a whole file. Raises StoreError if it cannot be read or is none of this kind."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            header = read_header(file.read(HEADER_BYTES), path.stat().st_size)
            return LegacyCtx(header, _entries(header, file.read()))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from error


def _entries(header: LegacyHeader, data: bytes) -> np.ndarray:
    if header.dtype == "uint32":
        return np.frombuffer(data, "<u4").astype(np.uint32)
    if header.dtype == "bf16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(-1, header.width)
    kind = "<f2" if header.dtype == "fp16" else "<f4"
    return np.frombuffer(data, kind).astype(np.float32).reshape(-1, header.width)
