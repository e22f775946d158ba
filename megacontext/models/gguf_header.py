"""The header of a GGUF file, read with every count, length and offset checked before it is used.

Layout (ggml's docs/gguf.md): magic, version, tensor count, pair count; pairs (key, type, value); tensor infos (name,
dimensions, type, offset); padding to the alignment; tensor bytes. Little-endian, versions 2 and 3.
Why not the `gguf` package's own reader: it trusts the counts, and takes seconds over a vocabulary of 50,000 words.
The package still knows the quantisations: see `gguf.py`.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

from megacontext.models.base import ModelFileError

MAX_ENTRIES = 1 << 16  # pairs, and tensors; real files have some hundreds
MAX_ITEMS = 1 << 24  # of one array; real vocabularies have 2 ** 18
MAX_STRING = 1 << 24  # bytes
MAX_DIMENSIONS = 4
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class TensorInfo(NamedTuple):
    """shape: rows first, as in torch. kind: ggml's number of the quantisation. offset: from the start of the data."""

    shape: tuple[int, ...]
    kind: int
    offset: int


class Header(NamedTuple):
    """data: the byte of the file where tensor offsets count from."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    data: int


def read_header(path: Path) -> Header:
    """Raises ModelFileError for anything that is not a well-formed GGUF file. Tensor ends are the caller's to check."""
    if path.stat().st_size < 24:
        raise ModelFileError(f"{path}: too short for a GGUF file; fetch it again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Cursor(path, data).header()


class _Cursor:
    """A position in the file that never runs past the end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def header(self) -> Header:
        if self._bytes(4) != b"GGUF":
            raise self._error("not a GGUF file (the first four bytes are not 'GGUF')")
        if (version := self._scalar("I")) not in (2, 3):
            raise self._error(f"GGUF version {version} is not supported; little-endian versions 2 and 3 are")
        tensors, pairs = self._count("tensor"), self._count("key")
        metadata = {}
        for _ in range(pairs):
            key = self._string()
            metadata[key] = self._value(self._scalar("I"))
        infos = dict(self._tensor() for _ in range(tensors))
        if len(infos) != tensors:
            raise self._error("two tensors have the same name")
        return Header(metadata, infos, self._aligned(metadata.get("general.alignment", 32)))

    def _tensor(self) -> tuple[str, TensorInfo]:
        name, dimensions = self._string(), self._scalar("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self._error(f"tensor {name!r} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible")
        shape = struct.unpack(f"<{dimensions}Q", self._bytes(8 * dimensions))
        return name, TensorInfo(shape[::-1], self._scalar("I"), self._scalar("Q"))

    def _aligned(self, alignment: Any) -> int:
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise self._error(f"general.alignment is {alignment!r}; it must be a power of two")
        return -(-self.at // alignment) * alignment

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self._scalar(SCALARS[kind])
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array(self._scalar("I"), self._scalar("Q"))
        raise self._error(f"unknown value type {kind}")

    def _array(self, kind: int, count: int) -> list[Any]:
        if count > MAX_ITEMS:
            raise self._error(f"an array of {count} items; {MAX_ITEMS} are possible")
        if kind in SCALARS:
            layout = f"<{count}{SCALARS[kind]}"
            return list(struct.unpack(layout, self._bytes(struct.calcsize(layout))))
        if kind == STRING:
            return [self._string() for _ in range(count)]
        raise self._error(f"arrays of value type {kind} are not supported")

    def _count(self, what: str) -> int:
        if (count := self._scalar("Q")) > MAX_ENTRIES:
            raise self._error(f"{what} count {count}; at most {MAX_ENTRIES} are possible")
        return count

    def _string(self) -> str:
        if (length := self._scalar("Q")) > MAX_STRING:
            raise self._error(f"a string of {length} bytes; {MAX_STRING} are possible")
        try:
            return self._bytes(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self._error("a string is not UTF-8") from None

    def _scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._bytes(struct.calcsize("<" + code)))[0]

    def _bytes(self, count: int) -> bytes:
        start, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise self._error("the file ends within its header")
        return self.data[start : self.at]

    def _error(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {what} (near byte {self.at:,}); the file is damaged: fetch it again")
