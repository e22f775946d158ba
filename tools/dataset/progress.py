"""Progress on stderr of what takes over a second: a bar on a capable terminal, a line on a plain one, else nothing."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any

PATIENCE = 1.0  # seconds before anything is shown


class Bar:
    """Called with what has been done since the last call. unit: "bytes", or a word for what is counted."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._started = time.monotonic()
        self._shown: Any = None
        self._told = False

    def __call__(self, more: int) -> None:
        self.done += more
        if not sys.stderr.isatty() or time.monotonic() - self._started < PATIENCE:
            return
        if os.environ.get("TERM") == "dumb" or os.environ.get("NO_COLOR"):
            self._tell()
            return
        if self._shown is None:
            self._show()
        self._shown.update(self._task, completed=self.done)

    def _tell(self) -> None:
        if not self._told:
            print(f"{self.label}: {self.total:,} {self.unit} ...", file=sys.stderr)
            self._told = True

    def _show(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        amount = DownloadColumn() if self.unit == "bytes" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
        self._shown = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._shown.add_task(escape(self.label), total=self.total, completed=self.done)
        self._shown.start()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._shown is not None:
            self._shown.stop()
