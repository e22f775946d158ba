"""A power cut: what was written, made, renamed or removed and not synced since may be gone.

Each change of a file is noted with what undoes it, until a sync makes it durable: of the file for its bytes, of the
folder for its names. At the cut names are undone from some point on, as a journalling file system loses them, and each
write by itself is lost or not, since a disk writes in any order; or everything goes. Linux only: it finds files by
/proc. Knows nothing of what the files are.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

CAN_CUT = sys.platform.startswith("linux")
ALL_LOST = 0.3  # of the cuts: nothing unsynced is left

Inode = tuple[int, int]


class Change(NamedTuple):
    """durable_by: the file or folder whose sync makes it durable. name: whether it is of a folder's names."""

    durable_by: Inode
    name: bool
    undo: Callable[[], object]


@dataclass(frozen=True)
class Real:
    """The system's own functions, as they are before anybody replaces them."""

    write: Callable[..., Any] = os.pwrite
    read: Callable[..., Any] = os.pread
    replace: Callable[..., Any] = os.replace
    unlink: Callable[..., Any] = os.unlink
    open: Callable[..., Any] = os.open


class Unsynced:
    """Changes that a power cut may undo. aside: a folder on the same disk, for what was removed or replaced.

    Make it before the system's functions are replaced. lost: changes that the cut undid.
    """

    def __init__(self, aside: Path) -> None:
        self.lost = 0
        self._aside, self._real = aside, Real()
        self._changes: list[Change] = []
        self._files: dict[Inode, int] = {}  # descriptors of our own: their inodes are not used again
        self._count, self._is_cut = 0, False
        self._lock = threading.Lock()
        self._notes: dict[str, Callable[..., None]] = {
            "fsync": self._fsync,
            "write": self._write,
            "pwrite": self._pwrite,
            "ftruncate": self._ftruncate,
            "replace": self._replace,
            "rename": self._replace,
            "unlink": self._unlink,
            "mkdir": self._mkdir,
            "open": self._open,
        }

    def note(self, name: str, args: tuple[Any, ...]) -> None:
        """A call is about to be made."""
        if name in self._notes and not self._is_cut:  # undoing makes calls, too
            with self._lock, suppress(FileNotFoundError):  # then the call fails, too
                self._notes[name](*args)

    def cut(self, rng: Random) -> None:
        """Undo what is lost, the last first."""
        self._is_cut = True
        with self._lock:
            everything = rng.random() < ALL_LOST
            names = [change for change in self._changes if change.name]
            lost_names = set(map(id, names[0 if everything else rng.randint(0, len(names)) :]))
            for change in reversed(self._changes):
                if id(change) in lost_names if change.name else everything or rng.random() < 0.5:
                    self.lost += 1
                    with suppress(FileNotFoundError):
                        change.undo()

    # --- the calls ---

    def _fsync(self, descriptor: int) -> None:
        durable = _inode(os.fstat(descriptor))
        self._changes = [change for change in self._changes if change.durable_by != durable]

    def _write(self, descriptor: int, data: Any) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            appends = _flags(descriptor) & os.O_APPEND
            self._pwrite(descriptor, data, status.st_size if appends else os.lseek(descriptor, 0, os.SEEK_CUR))

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> None:
        size, length, file = os.fstat(descriptor).st_size, len(data), self._own(descriptor)
        before = self._real.read(file, length, offset)

        def undo() -> None:
            """Zeros where nothing stood, if something stands behind it by now."""
            self._real.write(file, before.ljust(length, b"\0"), offset)
            if os.fstat(file).st_size == offset + length:
                os.truncate(file, size)

        self._changes.append(Change(_inode(os.fstat(file)), False, undo))

    def _ftruncate(self, descriptor: int, size: int) -> None:
        file = self._own(descriptor)
        gone = self._real.read(file, max(os.fstat(file).st_size - size, 0), size)
        self._changes.append(Change(_inode(os.fstat(file)), False, lambda: self._real.write(file, gone, size)))

    def _replace(self, source: Any, target: Any) -> None:
        kept = self._kept(target)
        back = (target, source) if kept is None else (kept, target)
        self._name(target, lambda: self._real.replace(*back))

    def _unlink(self, path: Any) -> None:
        kept = self._kept(path)
        if kept is not None:
            self._name(path, lambda: self._real.replace(kept, path))

    def _mkdir(self, path: Any, *_: Any) -> None:
        if not os.path.exists(path):
            self._name(path, lambda: shutil.rmtree(path))

    def _open(self, path: Any, flags: Any = 0, *_: Any) -> None:
        if isinstance(flags, int) and flags & os.O_CREAT and not os.path.exists(path):
            self._name(path, lambda: self._real.unlink(path))

    # --- inside ---

    def _name(self, path: Any, undo: Callable[[], object]) -> None:
        self._changes.append(Change(_inode(os.stat(Path(os.fsdecode(path)).parent)), True, undo))

    def _kept(self, path: Any) -> Path | None:
        """Another name of what is there."""
        if not os.path.exists(path):
            return None
        self._count += 1
        kept = self._aside / f"{os.getpid()}-{self._count}"
        os.link(path, kept)
        return kept

    def _own(self, descriptor: int) -> int:
        """A descriptor that can read and write, and that nobody closes."""
        inode = _inode(os.fstat(descriptor))
        if inode not in self._files:
            self._files[inode] = self._real.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
        return self._files[inode]


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


def _flags(descriptor: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_GETFL)
