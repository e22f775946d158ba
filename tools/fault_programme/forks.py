"""Processes that are made to be killed: copies of this one, so that they begin in a millisecond. POSIX only."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

FAILED = 70  # exit code of a body that raised

CAN_FORK = hasattr(os, "fork")


@dataclass
class Child:
    """A process. out: where what it writes to its end can be read."""

    pid: int
    out: int
    code: int | None = None  # as subprocess: negative for a signal

    def kill(self) -> None:
        """kill -9, and wait for it."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> int:
        """Its exit code."""
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def rest(self) -> bytes:
        """What it wrote and nobody read yet, up to its end."""
        with os.fdopen(self.out, "rb") as file:
            return file.read()


def start(body: Callable[[int], object]) -> Child:
    """Run `body` in a copy of this process. It is given the descriptor to write to; its result is the exit code."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    code = FAILED
    try:
        os.close(reading)
        result = body(writing)
        code = result if isinstance(result, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def finished(body: Callable[[int], object]) -> tuple[int, bytes]:
    """Run `body` in a copy of this process to its end -> exit code, and what it wrote."""
    child = start(body)
    written = child.rest()
    return child.wait(), written
