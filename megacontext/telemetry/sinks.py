"""Where events go: a file of JSON Lines, nowhere, or several places (the terminal's is in `console.py`).

A sink is anything with `emit` and `close`; the memory, the chat and the tools only know that much. Emitting costs tens
of microseconds and never raises: a full disk must not end a conversation, so a sink that fails goes quiet and keeps
the reason. Sinks may be used from several threads.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from megacontext.errors import ConfigError
from megacontext.telemetry.events import SCHEMA_VERSION, Event, Warning_

RUN_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Sink(Protocol):
    """A place for events."""

    def emit(self, event: Event) -> None:
        """Take one event. Never raises."""

    def close(self) -> None:
        """No event comes after this. May be called twice."""


class NullSink:
    """Takes everything, keeps nothing."""

    def emit(self, event: Event) -> None:
        pass

    def close(self) -> None:
        pass


class FanOut:
    """Hands every event to several sinks. One that raises gets no more events, and the others are told.

    failures: name of a sink -> the exception that ended it.
    """

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self.sinks = tuple(sinks)
        self.failures: dict[str, Exception] = {}

    def emit(self, event: Event) -> None:
        for sink in self.sinks:
            try:
                sink.emit(event)
            except Exception as error:
                self._dismiss(sink, error)

    def _dismiss(self, broken: Sink, error: Exception) -> None:
        name = type(broken).__name__
        self.failures[name] = error
        self.sinks = tuple(sink for sink in self.sinks if sink is not broken)
        _quietly(broken.close)
        why = f"{name} failed ({type(error).__name__}: {error})"
        self.emit(Warning_(message=why, hint="it gets no more events"))

    def close(self) -> None:
        for sink in self.sinks:
            try:
                sink.close()
            except Exception as error:
                self.failures[type(sink).__name__] = error


class Telling:
    """A sink before a sink: a warning that passes is told as well, as `warning: <message>: <hint>`."""

    def __init__(self, sink: Sink, note: Callable[[str], None]) -> None:
        self._sink, self._note = sink, note

    def emit(self, event: Event) -> None:
        self._sink.emit(event)
        if isinstance(event, Warning_):
            self._note(f"warning: {event.message}" + (f": {event.hint}" if event.hint else ""))

    def close(self) -> None:
        self._sink.close()


class JsonlSink:
    """The event log of one run: `<folder>/<run>-<YYYYmmddTHHMMSSZ>.log`, mode 0600, one write per event.

    `counts` holds the number of events by type; `failure` the error that silenced the sink, or None. An interrupt in
    the middle of an event tears no line and no numbering: the next call ends what it began.
    Raises ConfigError if the run's name is not a safe file name, or the file cannot be made.
    """

    def __init__(self, folder: str | Path, run: str) -> None:
        if not RUN_NAME.fullmatch(run) or run in (".", ".."):
            raise ConfigError(f"run name {run!r}: use 1 to 64 of the characters A-Z a-z 0-9 . _ -")
        self.run = run
        self.counts: dict[str, int] = {}
        self.failure: OSError | None = None
        self.path, self._fd = _create(Path(folder), run)
        self._lines = _Lines()
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        with self._lock:
            if self._fd is None or self.failure is not None:
                return
            try:
                self._lines.finish(self._fd)
                self._lines.add(self._fd, self._line(event))
            except OSError as error:
                self.failure = error
                return
            self.counts[event.type] = self.counts.get(event.type, 0) + 1

    def _line(self, event: Event) -> bytes:
        record = {"v": SCHEMA_VERSION, "seq": self._lines.count, "time": utc_now(), "type": event.type, "run": self.run}
        try:
            return encode(record | payload(event))
        except Exception as error:  # a value that is no JSON: a defect that must not end the run, nor be lost
            record["type"] = Warning_.type
            return encode(record | {"message": f"an event of type {event.type} cannot be written: {error}"})

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, None
        if fd is not None:
            if self.failure is None:
                _quietly(lambda: self._lines.finish(fd))
            os.close(fd)


class _Lines:
    """The lines of a file that nobody else writes to. A line that an interrupt cut short can be finished."""

    def __init__(self) -> None:
        self._state: tuple[int, int, bytes] = (0, 0, b"")  # lines done, their bytes, the line begun: changed at once

    @property
    def count(self) -> int:
        """Lines done."""
        return self._state[0]

    def add(self, fd: int, line: bytes) -> None:
        self._state = (*self._state[:2], line)
        self._write(fd, 0)

    def finish(self, fd: int) -> None:
        """Write what is missing of a line that was begun, if there is one."""
        if self._state[2]:
            self._write(fd, max(0, os.fstat(fd).st_size - self._state[1]))

    def _write(self, fd: int, written: int) -> None:
        """One write; the rest, should the system take less."""
        count, before, line = self._state
        while written < len(line):
            written += os.write(fd, line[written:])
        self._state = (count + 1, before + len(line), b"")


def payload(event: Event) -> dict[str, Any]:
    """The event's own fields, those that were computed."""
    values = ((name, getattr(event, name)) for name in event.__dataclass_fields__ if name != "type")
    return {name: value for name, value in values if value is not None}


def encode(record: dict[str, Any]) -> bytes:
    """One line of UTF-8 JSON. Numbers that are not finite were not computed: they are left out."""
    try:
        text = _ENCODER.encode(record)
    except ValueError:
        text = _ENCODER.encode(_finite(record))
    return (text + "\n").encode("utf-8", "backslashreplace")  # a lone surrogate becomes its JSON escape


def utc_now() -> str:
    """ISO 8601, UTC, milliseconds: 2025-01-31T12:00:00.123Z."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items() if not _broken(item)}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value if not _broken(item)]
    return value


def _broken(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _create(folder: Path, run: str) -> tuple[Path, int | None]:
    """A new file that nobody else has, even when two runs begin in the same second."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for attempt in range(1, 1000):
            path = folder / (f"{run}-{stamp}.log" if attempt == 1 else f"{run}.{attempt}-{stamp}.log")
            try:
                return path, os.open(path, flags, 0o600)
            except FileExistsError:
                continue
    except OSError as error:
        raise ConfigError(
            f"{folder}: the event log cannot be written here ({error.strerror}). "
            "Make the folder writable, or name another with --log-dir."
        ) from error
    raise ConfigError(f"{folder}: a thousand logs of run {run!r} in one second")


def _quietly(action: Callable[[], None]) -> None:
    """For what is being left behind anyway."""
    with contextlib.suppress(Exception):
        action()
