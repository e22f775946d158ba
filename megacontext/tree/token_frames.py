"""The bytes of a token log: a header, then frames. Pure functions over bytes; no file is opened here.

    header, 64 bytes   magic, version, byte order, vocab, sha256 of the fingerprint, checksum
    frame              word, version, type, reserved, payload length, sequence number | payload | checksum
    TOKENS payload     ids, u32
    SYNCED payload     u64: the bytes of the file that were durable when it was written

All numbers are little-endian. A frame's checksum covers its head and its payload. Frames start at multiples of four,
and a frame's word is larger than any id, so ids can never be taken for a frame.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

MAGIC = b"MEGATOKS"
VERSION = 1
BYTE_ORDER = 0x0102
WORD = struct.pack("<I", 0xF7A3C5E1)
TOKENS, SYNCED = 1, 2
TAIL_LIMIT = 64 << 20  # bytes behind the last whole frame that are looked at: a crash leaves no more by itself
FRAME_TOKENS = 4096  # most ids in a frame: bounds what one damaged byte can hide, and the work of a scan
VOCAB_LIMIT = 1 << 31
WINDOW = 1 << 20  # bytes read at a time; many frames fit

_HEADER = struct.Struct("<8sHHI12x32s")  # 12 bytes are reserved
_HEAD = struct.Struct("<4sBBHIQ")
_CHECKSUM = struct.Struct("<I")
_SYNCED = struct.Struct("<Q")
HEADER_BYTES = 64
HEAD_BYTES, FRAME_BYTES = _HEAD.size, _HEAD.size + _CHECKSUM.size  # a frame is FRAME_BYTES longer than its payload
SYNCED_BYTES = _SYNCED.size


class DamagedHeaderError(ValueError):
    """The first bytes are no header; what follows them may be whole."""


class Header(NamedTuple):
    """vocab: ids are below it. digest: sha256 of the fingerprint, 32 bytes."""

    vocab: int
    digest: bytes


class Frame(NamedTuple):
    """One frame at [offset, end) of the file."""

    type: int
    sequence: int
    offset: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.offset + FRAME_BYTES + len(self.payload)

    @property
    def tokens(self) -> np.ndarray:
        """(n,) uint32"""
        return np.frombuffer(self.payload, dtype="<u4")

    @property
    def synced(self) -> int:
        """Bytes of the file that were durable, for a SYNCED frame."""
        return _SYNCED.unpack(self.payload)[0]


def digest_of(fingerprint: str) -> bytes:
    return hashlib.sha256(fingerprint.encode("utf-8")).digest()


def pack_header(header: Header) -> bytes:
    body = _HEADER.pack(MAGIC, VERSION, BYTE_ORDER, header.vocab, header.digest)
    return body + _CHECKSUM.pack(zlib.crc32(body))


def unpack_header(data: bytes) -> Header:
    """Raises DamagedHeaderError, or ValueError for another version, saying what is wrong with the first 64 bytes."""
    if len(data) < HEADER_BYTES:
        raise DamagedHeaderError(f"it has {len(data)} bytes, a header takes {HEADER_BYTES}")
    if data[:8] != MAGIC:
        raise DamagedHeaderError("it is no token log")
    if zlib.crc32(data[: _HEADER.size]) != _CHECKSUM.unpack_from(data, _HEADER.size)[0]:
        raise DamagedHeaderError("its header, at byte 0, is damaged")
    _, version, order, vocab, digest = _HEADER.unpack_from(data)
    if version != VERSION or order != BYTE_ORDER:
        raise ValueError(f"it has version {version}, this program reads {VERSION}")
    return Header(vocab, digest)


def pack_tokens(tokens: np.ndarray, sequence: int) -> bytes:
    """A frame of at most FRAME_TOKENS ids."""
    return _pack(TOKENS, sequence, tokens.astype("<u4").tobytes())


def pack_synced(durable: int, sequence: int) -> bytes:
    """A frame that says that the first `durable` bytes of the file are on disk."""
    return _pack(SYNCED, sequence, _SYNCED.pack(durable))


def _pack(kind: int, sequence: int, payload: bytes) -> bytes:
    head = _HEAD.pack(WORD, VERSION, kind, 0, len(payload), sequence)
    return head + payload + _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(head)))


def unpack_frame(data: bytes, place: int, offset: int) -> Frame | None:
    """The frame at data[place:], which is byte `offset` of the file; None if there is no whole and undamaged one."""
    if len(data) < place + FRAME_BYTES:
        return None
    word, version, kind, reserved, length, sequence = _HEAD.unpack_from(data, place)
    fits = {TOKENS: 0 < length <= 4 * FRAME_TOKENS and length % 4 == 0, SYNCED: length == _SYNCED.size}
    if word != WORD or version != VERSION or reserved or not fits.get(kind, False):
        return None
    end = place + HEAD_BYTES + length
    if len(data) < end + _CHECKSUM.size or zlib.crc32(data[place:end]) != _CHECKSUM.unpack_from(data, end)[0]:
        return None
    return Frame(kind, sequence, offset, data[place + HEAD_BYTES : end])


def read_frames(read: Callable[[int, int], bytes], offset: int, sequence: int = 0) -> Iterator[Frame]:
    """Frames from `offset` on, as long as each is whole, undamaged and next in sequence.

    read(offset, size) returns bytes of the file, fewer at its end.
    """
    window, base = read(offset, WINDOW), offset
    while True:
        frame = unpack_frame(window, offset - base, offset)
        if frame is None and base < offset:  # it may just be cut off by the window's end
            window, base = read(offset, WINDOW), offset
            frame = unpack_frame(window, 0, offset)
        if frame is None or frame.sequence != sequence:
            return
        yield frame
        offset, sequence = frame.end, sequence + 1


def durable_length(data: bytes) -> int:
    """How many bytes of the file were once durable, by the SYNCED frames found anywhere in `data`; 0 without one.

    data: what stands from a bad frame on. An answer beyond its offset means that bytes which had reached the disk are
    damaged now; otherwise it is a torn tail.
    """
    words = np.frombuffer(data, dtype="<u4", count=len(data) // 4)
    places = np.flatnonzero(words == int.from_bytes(WORD, "little")) * 4
    frames = (unpack_frame(data, int(place), int(place)) for place in places)
    return max((frame.synced for frame in frames if frame is not None and frame.type == SYNCED), default=0)
