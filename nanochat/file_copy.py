"""Copies a file: whole and synced, in blocks shared with the source or with its holes kept, where the system can.

Never a hard link: both files may be written in place afterwards. Standard library only.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

PIECE = 1 << 20
_BINARY = getattr(os, "O_BINARY", 0)
_FICLONE = 0x40049409  # ioctl of Linux: share all blocks until one side writes (btrfs, XFS, bcachefs)


def copy_file(source: Path, target: Path, *, mode: int = 0o600) -> None:
    """Copy to a new file. Raises OSError: no plain file there, a file here already, a disk that is full."""
    reading = os.open(source, os.O_RDONLY | _BINARY | getattr(os, "O_NOFOLLOW", 0))
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, mode)
        try:
            if not _clone(reading, writing):
                _copy(reading, writing)
            os.fsync(writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _clone(reading: int, writing: int) -> bool:
    """Whether the file system made a copy that shares its blocks."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    try:
        fcntl.ioctl(writing, _FICLONE, reading)
    except OSError:
        return False
    return True


def _copy(reading: int, writing: int) -> None:
    size = os.fstat(reading).st_size
    for start, stop in _written_ranges(reading, size):
        os.lseek(reading, start, os.SEEK_SET)
        os.lseek(writing, start, os.SEEK_SET)
        while start < stop and (piece := os.read(reading, min(PIECE, stop - start))):
            _write(writing, piece)
            start += len(piece)
    os.ftruncate(writing, size)


def _write(descriptor: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]


def _written_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Byte ranges that hold data; all of it where the system does not tell."""
    data, hole = getattr(os, "SEEK_DATA", None), getattr(os, "SEEK_HOLE", None)
    if data is None or hole is None:
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, data)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            if error.errno != errno.EINVAL:
                raise
            yield end, size  # a file system that does not tell
            return
        end = os.lseek(descriptor, start, hole)
        yield start, end
