"""What the terminal can do: escape codes or none, progress bars, Ctrl-C."""

from __future__ import annotations

import os
import signal
import stat
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


class Ended(SystemExit):
    """SIGTERM, or SIGHUP when the terminal is closed: leave, in order. code: 128 + the signal's number."""

    code: int

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class SecondCtrlC(KeyboardInterrupt):
    """Ctrl-C again, while the first one still waited for the end of a pass."""


class CtrlC:
    """Ctrl-C as a question: the first press sets a flag, a second one interrupts for good. So do SIGTERM and SIGHUP.

    Inside `with`, a model's pass is never torn in two: the reply asks between tokens.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._ended: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.pressed

    def __enter__(self) -> CtrlC:
        self.pressed = False
        self._before = {number: signal.signal(number, self._press) for number in (signal.SIGINT, *_endings())}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave_if_ended(self) -> None:
        """Raises Ended if one of the other two signals came; to be asked when the turn is done."""
        if self._ended is not None:
            raise Ended(self._ended)

    def _press(self, number: int, _: object) -> None:
        if number != signal.SIGINT:
            self._ended = _note_ending(number)
        elif self.pressed:
            raise SecondCtrlC
        self.pressed = True


@contextmanager
def orderly_end() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Ended inside, wherever nothing else waits for them, so that everything is closed."""

    def end(number: int, _: object) -> None:
        raise Ended(_note_ending(number))

    before = {number: signal.signal(number, end) for number in _endings()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def let_go_of_terminal() -> None:
    """It is gone: what is still said to it goes nowhere, instead of failing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):  # a file or a pipe still gets the rest
            os.dup2(nowhere, stream)
    os.close(nowhere)


def _endings() -> list[signal.Signals]:
    """The signals that end a program; one that is ignored (nohup) stays so."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _note_ending(number: int) -> int:
    if number == getattr(signal, "SIGHUP", None):
        let_go_of_terminal()
    return number


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
