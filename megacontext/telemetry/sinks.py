"""Where events go: a file of JSON Lines, the terminal, nowhere, or several of these.

A sink is anything with `emit` and `close`; the memory, the chat and the tools only know that much. Emitting costs tens
of microseconds and never raises: a full disk must not end a conversation, so a sink that fails goes quiet and keeps
the reason in `failure`.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, TextIO

from megacontext.errors import ConfigError
from megacontext.telemetry.events import SCHEMA_VERSION, Event

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
    """Hands every event to several sinks."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self.sinks = tuple(sinks)

    def emit(self, event: Event) -> None:
        for sink in self.sinks:
            sink.emit(event)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()


class JsonlSink:
    """The event log of one run: `<folder>/<run>-<YYYYmmddTHHMMSSZ>.log`, mode 0600, one write per event.

    `counts` holds the number of events by type; `failure` the error that silenced the sink, or None.
    Raises ConfigError if the run's name is not a safe file name, or the file cannot be made.
    """

    def __init__(self, folder: str | Path, run: str) -> None:
        if not RUN_NAME.fullmatch(run) or run in (".", ".."):
            raise ConfigError(f"run name {run!r}: use 1 to 64 of the characters A-Z a-z 0-9 . _ -")
        self.run = run
        self.counts: dict[str, int] = {}
        self.failure: OSError | None = None
        self.path, self._fd = _create(Path(folder), run)
        self._seq = 0
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        with self._lock:
            if self._fd is None or self.failure is not None:
                return
            record = {"v": SCHEMA_VERSION, "seq": self._seq, "time": utc_now(), "type": event.type, "run": self.run}
            record |= payload(event)
            try:
                _write(self._fd, encode(record))
            except OSError as error:
                self.failure = error
                return
            self._seq += 1
            self.counts[event.type] = self.counts.get(event.type, 0) + 1

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


class ConsoleSink:
    """One short line per event on the terminal (stderr), for watching a run."""

    def __init__(self, stream: TextIO | None = None, types: Iterable[str] | None = None) -> None:
        self.stream = stream
        self.types = None if types is None else frozenset(types)

    def emit(self, event: Event) -> None:
        if self.types is not None and event.type not in self.types:
            return
        facts = (f"{name}={_short(value)}" for name, value in payload(event).items())
        try:
            print(f"[{event.type}]", *facts, file=self.stream or sys.stderr)
        except (OSError, ValueError):
            self.types = frozenset()

    def close(self) -> None:
        pass


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


def _write(fd: int, data: bytes) -> None:
    """One write; the rest, should the system take less."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
