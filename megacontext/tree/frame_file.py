"""Frames of bytes in one file: each at its place, written and read by number, in any order and again.

What is in it is derived: a frame that is missing, torn or damaged is simply not there, and is made again from tokens.
So nothing is synced but on demand, and opening looks at the header alone, however long history is. The bytes are in
ctx_format.py. Knows nothing of what the frames hold.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from megacontext.errors import StoreError
from megacontext.tree import ctx_format as ctx

_BINARY = getattr(os, "O_BINARY", 0)
_SEEK_DATA = getattr(os, "SEEK_DATA", None)


class FrameFile:
    """Use `open`. damaged: frames that were there and could not be read, so far."""

    def __init__(self, path: Path, geometry: ctx.Geometry, descriptor: int) -> None:
        self.path, self.geometry, self.damaged = path, geometry, 0
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path | str, geometry: ctx.Geometry, *, fingerprint: str, writable: bool = True) -> FrameFile:
        """Open the file, or begin it where there is none.

        fingerprint: of what makes the frames. Raises StoreError if the file was made by something else or for
        another shape, if its header is damaged, or if the disk refuses; what to do then is up to the caller.
        """
        path = Path(path)
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        try:
            descriptor = os.open(path, flags | _BINARY, 0o600)
        except OSError as error:
            raise StoreError(f"{path}: cannot be opened ({error.strerror})") from error
        file = cls(path, geometry, descriptor)
        try:
            found = file._read(ctx.HEADER_BYTES, 0)
            if not found and writable:
                found = ctx.pack_header(geometry, fingerprint)
                file._write(found, 0)
            if wrong := ctx.check_header(found, geometry, fingerprint):
                raise StoreError(f"{path}: {wrong}. What it holds can be made again from the tokens.")
        except BaseException:
            file.close()
            raise
        return file

    @classmethod
    def open_any(cls, path: Path, *, writable: bool = False) -> FrameFile:
        """Open a file whoever made it, as its header says. Raises ValueError for what is none, OSError."""
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | _BINARY)
        try:
            return cls(path, ctx.unpack_header(_read(descriptor, ctx.HEADER_BYTES, 0))[0], descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def write(self, number: int, payload: bytes, made_of: int = 0) -> None:
        """Put a frame at its place. made_of: checksum of its tokens. Raises StoreError when the disk fails."""
        self._write(ctx.pack_frame(number, payload, made_of), self.geometry.offset(number))

    def read(self, number: int, made_of: int | None = None) -> memoryview | None:
        """The payload, or None: never written, forgotten, torn, damaged, or made of other tokens than those of checksum
        `made_of` (None: any will do). Raises StoreError when the disk fails.
        """
        data = self._read(ctx.FRAME_HEAD + self.geometry.payload, self.geometry.offset(number))
        payload = ctx.unpack_frame(data, number, self.geometry, made_of)
        if payload is None:
            self.damaged += not ctx.is_blank(data)
        return payload

    def made_of(self, number: int) -> int:
        """The checksum of a frame's tokens, as a frame that was read tells it. Raises as `read`."""
        return ctx.made_of(self._read(ctx.FRAME_HEAD, self.geometry.offset(number)))

    def has(self, number: int) -> bool:
        """Whether a frame was written at this place; whether it is whole shows when it is read. Raises as `read`."""
        return not ctx.is_blank(self._read(ctx.FRAME_HEAD, self.geometry.offset(number)))

    def forget(self, number: int) -> None:
        """The frame is not there any more, and the disk gets its bytes back where the system can."""
        offset, stride = self.geometry.offset(number), self.geometry.stride
        self._write(bytes(ctx.FRAME_HEAD), offset)
        _punch(self._descriptor, offset, stride)

    def numbers(self, start: int = 0) -> Iterator[int]:
        """Numbers of the frames that were written, from `start` on, in order. Raises as `read`.

        Holes of the file are skipped where the system tells them: a file may claim to be far larger than it is.
        """
        while (place := self._data_from(start)) < self.places:
            if self.has(place):
                yield place
            start = place + 1

    def _data_from(self, number: int) -> int:
        """The first place from `number` on that may hold something; `places` if there is none."""
        if _SEEK_DATA is None or number >= self.places:
            return number
        try:
            found = os.lseek(self._descriptor, self.geometry.offset(number), _SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return self.places
            return number
        return max((found - ctx.ALIGN) // self.geometry.stride, number)

    @property
    def places(self) -> int:
        """Places in the file, those of missing frames included."""
        return max(-(-(os.fstat(self._descriptor).st_size - ctx.ALIGN) // self.geometry.stride), 0)

    @property
    def disk_bytes(self) -> int:
        """Bytes that the file takes on disk; what was given back is not counted, where the system tells."""
        status = os.fstat(self._descriptor)
        blocks = getattr(status, "st_blocks", None)
        return status.st_size if blocks is None else 512 * blocks

    def sync(self) -> None:
        """Make what was written durable."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be synced ({error.strerror})") from error

    def close(self) -> None:
        """May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _read(self, size: int, offset: int) -> bytes:
        try:
            return _read(self._descriptor, size, offset)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read at byte {offset:,} ({error.strerror})") from error

    def _write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        try:
            while view:
                written = _pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written ({error.strerror})") from error


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset`, fewer at the file's end."""
    parts: list[bytes] = []
    while size and (part := _pread(descriptor, size, offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


if sys.platform == "win32":  # no positional reads and writes: the store's own lock keeps seek and read together

    def _pread(descriptor: int, size: int, offset: int) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)

    def _pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)

else:
    _pread, _pwrite = os.pread, os.pwrite


def _punch(descriptor: int, offset: int, size: int) -> None:
    """Give a range back to the file system; where that cannot be done, the bytes stay until they are written again."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if fallocate is not None:
        keep_size_and_punch = 0x01 | 0x02
        fallocate(descriptor, keep_size_and_punch, ctypes.c_int64(offset), ctypes.c_int64(size))
