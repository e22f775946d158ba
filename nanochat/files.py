"""Files that survive a crash: replace a file in one step, sync a folder, let one process in at a time.

Knows nothing of what is in the files.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

LEFTOVER = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")  # a temporary neighbour, see atomic_write
PID_BYTES = 32  # a lock file starts with its owner's process id, padded; the locked byte lies behind it


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable. Windows has no such call: its renames are journalled."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, *, mode: int = 0o700) -> None:
    """`path`, and the folders above it that are missing, all with `mode`; durable when this returns."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing or [path]):
        folder.mkdir(mode=mode, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


@contextmanager
def atomic_write(path: Path | str, *, mode: int = 0o666, sync: bool = True) -> Iterator[BinaryIO]:
    """Write to a temporary neighbour, sync it, and move it over `path`. On any error the old file stays as it was.

    mode: permissions before the umask. sync False: whole after a crash of the process, not after a power cut.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            sync_folder(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def remove_leftovers(folder: Path) -> None:
    """Clear away what a crash left of `atomic_write` in `folder`. Nobody else may be writing there."""
    for path in folder.glob(".*.tmp"):
        if LEFTOVER.fullmatch(path.name):
            path.unlink()


def write_json(path: Path | str, value: Any, *, indent: int | None = 2, mode: int = 0o666) -> None:
    """Replace `path` by `value` as UTF-8 JSON. Raises TypeError before touching the disk if it is no JSON value."""
    data = json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8")
    with atomic_write(path, mode=mode) as file:
        file.write(data)


def read_bytes(path: Path | str, *, limit: int) -> bytes:
    """Read a file, a pipe or a device of at most `limit` bytes. Raises ValueError naming it if it has more."""
    with open(path, "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) <= limit and len(data := file.read(limit + 1)) <= limit:
            return data
    raise ValueError(f"{path} has {f'{size:,}' if size > limit else 'more'} bytes; at most {limit:,} are read")


def read_json(path: Path | str, *, limit: int = 64 << 20) -> Any:
    """Read JSON of at most `limit` bytes. Raises ValueError naming the file if it is longer or no JSON."""
    data = read_bytes(path, limit=limit)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


class FileLock:
    """One process at a time. The lock goes with its process, so a crash leaves none behind; the file stays.

    Unlinking it would let two processes hold locks on two files of one name.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file: BinaryIO | None = None

    def acquire(self, *, wait: bool = False) -> bool:
        """Take the lock. Returns False if another holder has it and `wait` is off."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0)
        while not _lock(file):
            if not wait:
                file.close()
                return False
            time.sleep(0.05)
        file.seek(0)
        file.write(str(os.getpid()).encode().ljust(PID_BYTES))
        self._file = file
        return True

    def owner(self) -> str:
        """Process id of the holder, as far as its file tells."""
        with suppress(OSError):
            return self.path.read_bytes()[:PID_BYTES].decode("ascii", "replace").strip() or "unknown"
        return "unknown"

    def release(self) -> None:
        """Give the lock back. Without a lock nothing happens."""
        if self._file is not None:
            self._file.close()  # closing releases it, on every system
            self._file = None


def _lock(file: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(PID_BYTES)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
