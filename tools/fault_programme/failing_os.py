"""An operating system that fails on demand: what the packages write, sync, rename or open goes through here first.

Every such call that comes from the packages has a site, the function it was called for and what it does, and a number.
A `Decide` says what happens to it: nothing, an error, a short write, or the end of the process, before it or in the
middle of it. It works on this process alone, so it belongs into a fork. Knows nothing of what the packages do.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

PACKAGES = ("megacontext", "nanochat", "tools/inspection")
SHARED = ("nanochat/files.py", "nanochat/file_copy.py", "megacontext/tree/frame_file.py")  # the site is who calls them
CALLS = ("write", "pwrite", "fsync", "replace", "rename", "ftruncate", "unlink", "mkdir", "open", "read", "pread")
WRITES = ("write", "pwrite")
CHANGES = (*WRITES, "fsync", "replace", "rename", "ftruncate", "unlink", "mkdir")  # what a crash can come between

Kind = Literal["before", "within", "error", "short"]


class Call(NamedTuple):
    """number: of all calls, from 0. nth: of its site, from 1. size: bytes of a write."""

    number: int
    site: str
    nth: int
    name: str
    size: int


class Fault(NamedTuple):
    """before, within: the process ends there, as by kill -9. error: OSError of this number. short: a write takes half
    of its bytes.
    """

    kind: Kind
    error: int = errno.EIO


Decide = Callable[[Call], "Fault | None"]
Note = Callable[[str, "tuple[Any, ...]"], None]


class FailingOS:
    """root: calls that name a path elsewhere are left alone. note: hears of each call that is made as it was meant, its
    name and arguments, before it is. seen: calls by site, so far.
    """

    def __init__(self, decide: Decide, root: Path, note: Note = lambda name, args: None) -> None:
        self.seen: Counter[str] = Counter()
        self._decide, self._root, self._note = decide, root, note
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def installed(self) -> Iterator[FailingOS]:
        """Until the end of the context, calls of the packages come here first."""
        from megacontext.tree import frame_file

        real: list[tuple[Any, str, Any]] = [(os, name, getattr(os, name)) for name in CALLS]
        real += [(frame_file, "_pwrite", frame_file._pwrite), (frame_file, "_pread", frame_file._pread)]
        for module, name, function in real:
            setattr(module, name, self._wrapped(name.removeprefix("_"), function))
        real += [(os, "fdopen", os.fdopen), (io, "open", io.open)]
        os.fdopen, io.open = _unbuffered(os.fdopen), self._wrapped("open", io.open)
        try:
            yield self
        finally:
            for module, name, function in real:
                setattr(module, name, function)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            site = _site(name) if self._is_ours(args[0]) else None
            if site is None:
                return real(*args, **options)
            return self._carried_out(name, site, real, args, options)

        return call

    def _is_ours(self, what: object) -> bool:
        """A descriptor, or a path below the root."""
        if isinstance(what, int):
            return True
        path = Path(os.fsdecode(what))  # type: ignore[arg-type]
        return self._root in path.parents and (self._root / "model") not in path.parents

    def _carried_out(
        self, name: str, site: str, real: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        size = len(args[1]) if name in WRITES else 0
        with self._lock:
            call = Call(self.seen.total(), site, self.seen[site] + 1, name, size)
            self.seen[site] += 1
        fault = self._decide(call)
        if fault is None or (fault.kind == "short" and size < 2):
            self._note(name, args)
            return real(*args, **options)
        if fault.kind == "error":
            raise OSError(fault.error, os.strerror(fault.error))
        if fault.kind == "before":
            end_here()
        if name in WRITES and fault.kind in ("within", "short"):
            args = (args[0], memoryview(args[1])[: size // 2], *args[2:])
        done = real(*args, **options)
        if fault.kind != "short":
            end_here()
        return done


def end_here() -> None:
    """kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def _site(name: str) -> str | None:
    """`token_log._write: write`, for the function of the packages that this call is for; None for anybody else's."""
    frame = sys._getframe(2)
    found = None
    while frame is not None:
        file = frame.f_code.co_filename.replace(os.sep, "/")
        part = next((file[at:] for package in PACKAGES if (at := file.find(f"/{package}/") + 1)), None)
        if part is not None:
            found = f"{part.rpartition('/')[2].removesuffix('.py')}.{frame.f_code.co_name}: {name}"
            if part not in SHARED:
                break
        frame = frame.f_back  # type: ignore[assignment]
    return found


class _Raw(io.FileIO):
    """A file whose writes and reads can be met."""

    def write(self, data: Any) -> int:
        return os.write(self.fileno(), memoryview(data))


def _unbuffered(real: Callable[..., Any]) -> Callable[..., Any]:
    """os.fdopen, whose files write by os.write."""

    def fdopen(descriptor: int, mode: str = "r", buffering: int = -1, **options: Any) -> Any:
        if "b" not in mode or not set(mode) & set("wa+"):
            return real(descriptor, mode, buffering, **options)
        raw = _Raw(descriptor, mode)
        return raw if buffering == 0 else io.BufferedWriter(raw)

    return fdopen
