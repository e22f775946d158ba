"""The bytes of .ctx files: a header, then frames of one size, found by their number. Pure functions over bytes.

    header, 64 bytes, then zeros up to byte 4,096
        8  magic MEGACTX\\0          2  version           2  byte order 0x0102
        2  kind of file              2  encoding          4  levels: reserved, 0
        4  L layers  4  Hk KV heads  4  n rows  4  d width     4  payload bytes of a frame
       20  first 20 bytes of sha256 of the fingerprint
        4  crc32 of the 60 bytes before
    frame, at 4,096 + number * stride; stride: 32 + payload, rounded up to whole 4,096 bytes
        4  word  2  version  2  reserved, 0  8  number  4  payload bytes  4  crc32 of payload
        4  crc32 of the tokens that it is made of, u32 each; 0 for means
        4  crc32 of the 28 bytes before
        payload

All numbers are little-endian. Frames may be written in any order and again; a crash tears at most the one being
written, and its checksums tell. A frame of zeros is one that is not there.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import NamedTuple

from megacontext.tree.token_frames import DamagedHeaderError

MAGIC = b"MEGACTX\0"
VERSION = 1
BYTE_ORDER = 0x0102
PAGES, MEANS, GISTS = 1, 2, 3  # kinds of file
ENCODINGS = ("model:float32", "model:bfloat16", "model:float16", "int8", "int4", "float16", "model:float64", "sketch")
HEADER_BYTES, ALIGN = 64, 4096
FRAME_HEAD = 32
LARGEST_PAYLOAD = 1 << 30

_HEADER = struct.Struct("<8sHHHHI5I20s")
_HEAD = struct.Struct("<4sHHQIII")
_CRC = struct.Struct("<I")
WORD = b"\xc7\xe5\xa1\xf3"


class Geometry(NamedTuple):
    """What a frame holds. encoding: one of ENCODINGS. payload: bytes."""

    kind: int
    encoding: str
    layers: int
    kv_heads: int
    rows: int
    width: int
    payload: int

    @property
    def stride(self) -> int:
        """Bytes from one frame to the next: whole file system blocks, so that one can be given back."""
        return -(-(FRAME_HEAD + self.payload) // ALIGN) * ALIGN

    def offset(self, number: int) -> int:
        return ALIGN + number * self.stride


def digest_of(fingerprint: str) -> bytes:
    return hashlib.sha256(fingerprint.encode("utf-8")).digest()[:20]


def pack_header(geometry: Geometry, fingerprint: str) -> bytes:
    """The first 4,096 bytes of a file."""
    g = geometry
    digest = digest_of(fingerprint)
    sizes = (g.layers, g.kv_heads, g.rows, g.width, g.payload)
    encoding = ENCODINGS.index(g.encoding)
    body = _HEADER.pack(MAGIC, VERSION, BYTE_ORDER, g.kind, encoding, 0, *sizes, digest)
    return (body + _CRC.pack(zlib.crc32(body))).ljust(ALIGN, b"\0")


def unpack_header(data: bytes) -> tuple[Geometry, bytes]:
    """What a file that begins with `data` says of itself, and the digest of its maker's fingerprint.

    Raises DamagedHeaderError, or ValueError for another version, saying why it is no file of this program.
    """
    if len(data) < HEADER_BYTES:
        raise DamagedHeaderError(f"it has {len(data)} bytes, a header takes {HEADER_BYTES}")
    if data[:8] != MAGIC:
        raise DamagedHeaderError("it is no .ctx file")
    if zlib.crc32(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
        raise DamagedHeaderError("its header, at byte 0, is damaged")
    _, version, order, kind, encoding, reserved, *sizes, digest = _HEADER.unpack_from(data)
    if (version, order) != (VERSION, BYTE_ORDER):
        raise ValueError(f"it has version {version}, this program reads {VERSION}")
    if reserved or encoding >= len(ENCODINGS) or not 0 < sizes[-1] <= LARGEST_PAYLOAD:
        raise ValueError(f"it holds frames of an unknown encoding or size: {(kind, encoding, *sizes)}")
    return Geometry(kind, ENCODINGS[encoding], *sizes), digest


def check_header(data: bytes, geometry: Geometry, fingerprint: str) -> str:
    """Why a file that begins with `data` cannot be used for this, or ""."""
    try:
        found, digest = unpack_header(data)
    except ValueError as error:
        return str(error)
    if digest != digest_of(fingerprint):
        return "another model, number format or setting made it"
    return "" if found == geometry else f"it holds frames of another shape or encoding: {tuple(found)}"


def pack_frame(number: int, payload: bytes, made_of: int = 0) -> bytes:
    """made_of: checksum of the tokens."""
    head = _HEAD.pack(WORD, VERSION, 0, number, len(payload), zlib.crc32(payload), made_of)
    return head + _CRC.pack(zlib.crc32(head)) + payload


def unpack_frame(data: bytes, number: int, geometry: Geometry, made_of: int | None = None) -> memoryview | None:
    """The payload of a whole, undamaged frame of this number, made of these tokens (None: of any); else None."""
    if len(data) < FRAME_HEAD + geometry.payload:
        return None
    word, version, reserved, found, length, checksum, tokens = _HEAD.unpack_from(data)
    if (word, version, reserved, found, length) != (WORD, VERSION, 0, number, geometry.payload):
        return None
    if made_of not in (None, tokens):
        return None
    if zlib.crc32(data[: _HEAD.size]) != _CRC.unpack_from(data, _HEAD.size)[0]:
        return None
    payload = memoryview(data)[FRAME_HEAD : FRAME_HEAD + length]
    return payload if zlib.crc32(payload) == checksum else None


def made_of(head: bytes) -> int:
    """The checksum of the tokens that a frame is made of, as its first bytes say."""
    tokens: int = _HEAD.unpack_from(head)[-1]
    return tokens


def is_blank(head: bytes) -> bool:
    """Whether a frame was never written, or was given back."""
    return not any(head[:FRAME_HEAD])
