"""The bytes of a segment of the lexical index: a header, checksums, sorted records. Pure functions over bytes.

    header, 64 bytes
        8  magic MEGALEX\\0        2  version              2  byte order 0x0102      4  unit: tokens
        8  position of its first token                     4  records, one a token
        4  crc32 of its newest `unit` tokens, u32 each     4  crc32 of the bytes from 64 to the records
       20  first 20 bytes of sha256 of the fingerprint     4  reserved, 0
        4  crc32 of the 60 bytes before
    checksums                 crc32 of each 4,096 bytes of records, u32; zeros up to a multiple of 4,096 bytes
    records, 16 bytes each    in order; two float64, as focus/lexical/records.py says

The file is called by the positions it covers, `<start>-<stop>.lex`, twelve digits each. All numbers are little-endian.
A file is written once and never changed.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from typing import NamedTuple

import numpy as np

from megacontext.focus.lexical.records import RECORD

MAGIC = b"MEGALEX\0"
VERSION = 1
BYTE_ORDER = 0x0102
ALIGN = 4096
GROUP = ALIGN // RECORD.itemsize  # records under one checksum
HEADER_BYTES = 64
NAME = re.compile(r"(\d{12})-(\d{12})\.lex")
LEFTOVER = re.compile(r"\.\d{12}-\d{12}\.lex\..*\.tmp")  # of a write that a crash cut off

_HEADER = struct.Struct("<8sHHIQIII20s4x")
_CRC = struct.Struct("<I")


class Head(NamedTuple):
    """length: records, for positions [start, stop). newest: crc32 of its last `unit` tokens."""

    start: int
    length: int
    unit: int
    newest: int
    digest: bytes

    @property
    def stop(self) -> int:
        return self.start + self.length

    @property
    def name(self) -> str:
        return f"{self.start:012d}-{self.stop:012d}.lex"

    @property
    def offset(self) -> int:
        """Where records begin."""
        return -(-(HEADER_BYTES + 4 * -(-self.length // GROUP)) // ALIGN) * ALIGN

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.offset + RECORD.itemsize * self.length


def digest_of(fingerprint: str) -> bytes:
    return hashlib.sha256(fingerprint.encode("utf-8")).digest()[:20]


def checksum_of_tokens(tokens: np.ndarray) -> int:
    """What a header says of its newest tokens."""
    return zlib.crc32(tokens.astype("<u4").tobytes())


def checksums(records: np.ndarray) -> list[int]:
    """Of each group of records, the last of which may be short."""
    data = records.view(np.uint8).data
    return [zlib.crc32(data[at : at + ALIGN]) for at in range(0, len(data), ALIGN)]


def pack_front(head: Head, sums: list[int]) -> bytes:
    """Everything before the records. sums: a checksum for each group of them."""
    table = np.array(sums, "<u4").tobytes().ljust(head.offset - HEADER_BYTES, b"\0")
    fields = (head.unit, head.start, head.length, head.newest, zlib.crc32(table), head.digest)
    body = _HEADER.pack(MAGIC, VERSION, BYTE_ORDER, *fields)
    return body + _CRC.pack(zlib.crc32(body)) + table


def unpack_head(data: bytes) -> tuple[Head, int]:
    """The header, and the checksum of what follows up to the records. Raises ValueError saying what is wrong."""
    if len(data) < HEADER_BYTES:
        raise ValueError(f"it has {len(data)} bytes, a header takes {HEADER_BYTES}")
    if data[:8] != MAGIC:
        raise ValueError("it is no segment of a lexical index")
    if zlib.crc32(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
        raise ValueError("its header, at byte 0, is damaged")
    _, version, order, unit, start, count, newest, table, digest = _HEADER.unpack_from(data)
    if version != VERSION or order != BYTE_ORDER:
        raise ValueError(f"it has version {version}, this program reads {VERSION}")
    return Head(start, count, unit, newest, digest), table


def unpack_checksums(head: Head, table: bytes, checksum: int) -> np.ndarray:
    """(groups,) checksums. Raises ValueError if they are damaged."""
    if len(table) != head.offset - HEADER_BYTES or zlib.crc32(table) != checksum:
        raise ValueError(f"its checksums, from byte {HEADER_BYTES}, are damaged")
    return np.frombuffer(table, "<u4", -(-head.length // GROUP))
