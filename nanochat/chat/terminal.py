"""What the terminal can do: escape codes or none, progress bars, Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from nanochat.harmless import harmless

PATIENCE = 1.0  # seconds before a progress bar appears


def escapes_allowed(stream: TextIO) -> bool:
    """Whether `stream` may get escape codes: a real terminal, not dumb, and NO_COLOR is not set."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


class CtrlC:
    """Ctrl-C as a question: the first press sets a flag, a second one interrupts for good.

    Inside `with`, a model's pass is never torn in two: the reply asks between tokens.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._before: Any = None

    def __call__(self) -> bool:
        return self.pressed

    def __enter__(self) -> CtrlC:
        self.pressed = False
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _press(self, *_: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True


class Bar:
    """Progress for what takes over a second: a bar on a capable terminal, one line on a plain one, else nothing."""

    def __init__(self, label: str, unit: str = "tok") -> None:
        self.label, self.unit = harmless(label), unit
        self._started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._told = False

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._started < PATIENCE or not sys.stderr.isatty():
            return
        if not escapes_allowed(sys.stderr):
            self._tell(total)
            return
        if self._bar is None:
            self._open(total)
        self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _tell(self, total: int) -> None:
        if not self._told:
            print(f"{self.label}: {total:,} {self.unit} ...", file=sys.stderr)
            self._told = True

    def _open(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(self.label.replace("[", "\\["), total=total)
        self._bar.start()


@contextmanager
def progress(label: str) -> Iterator[Bar]:
    """A `Bar` that is gone afterwards, whatever happened."""
    bar = Bar(label)
    try:
        yield bar
    finally:
        bar.close()
