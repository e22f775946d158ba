"""Reads an event log for the tools that show it: every line checked, what a crash tore off left out and said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from megacontext.errors import ConfigError, MegaContextError
from megacontext.telemetry.events import EVENT_TYPES, Event, MemoryOpened, RunEnd, RunStart
from megacontext.telemetry.schema import InvalidEvent, validate_line

E = TypeVar("E", bound=Event)


@dataclass(frozen=True)
class EventLog:
    """One run's events. times: when each was written, ISO 8601. torn: the last line was cut off, and is left out."""

    path: Path
    run: str
    events: tuple[Event, ...]
    times: tuple[str, ...]
    torn: bool = False

    @property
    def start(self) -> RunStart:
        first = self.events[0]
        assert isinstance(first, RunStart)
        return first

    @property
    def interrupted(self) -> bool:
        """Whether the run did not come to its end, or has not yet."""
        return not isinstance(self.events[-1], RunEnd)

    def of(self, kind: type[E]) -> list[E]:
        """All events of a type."""
        return [event for event in self.events if isinstance(event, kind)]


def conversations(log: EventLog) -> list[EventLog]:
    """The log by conversation, in the order they were opened: /load and /fork open another one in the same run.

    Each has what came before the first one, and the run's end; a log without any is one by itself.
    """
    places = [i for i, event in enumerate(log.events) if isinstance(event, MemoryOpened)]
    if len(places) < 2:
        return [log]
    end = len(log.events) if log.interrupted else len(log.events) - 1
    head, tail = range(places[0]), range(end, len(log.events))
    return [_picked(log, [*head, *range(*own), *tail]) for own in pairwise([*places, end])]


def _picked(log: EventLog, places: Sequence[int]) -> EventLog:
    return replace(log, events=tuple(log.events[i] for i in places), times=tuple(log.times[i] for i in places))


def read_log(path: Path) -> EventLog:
    """The log at `path`. Raises ConfigError if it cannot be read, MegaContextError if it is empty or damaged."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): name an event log, *.log") from error
    torn = bool(lines) and not lines[-1].endswith(b"\n")
    records = _records(path, lines[:-1] if torn else lines)
    if not records:
        raise MegaContextError(f"{path}: the log holds no event; a run's first line is its run_start")
    if records[0]["type"] != RunStart.type:
        raise MegaContextError(f"{path}:1: a log begins with run_start, this one with {records[0]['type']}")
    times = tuple(record["time"] for record in records)
    return EventLog(path, records[0]["run"], tuple(map(event_of, records)), times, torn)


def _records(path: Path, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(validate_line(line))
        except InvalidEvent as error:
            raise MegaContextError(
                f"{path}:{number}: {error}. The log is damaged: `python -m tools.validate_log {path}` names every line"
            ) from None
    return records


def event_of(record: dict[str, Any]) -> Event:
    """A checked record as the event that was emitted."""
    kind = EVENT_TYPES[record["type"]]
    values = {field.name: record[field.name] for field in fields(kind) if field.name in record}
    if counts := values.get("lod_counts"):  # JSON has no integer keys
        values["lod_counts"] = {int(level): count for level, count in counts.items()}
    return kind(**values)


def newest(paths: Iterable[Path]) -> list[Path]:
    """Logs, the one written to last first."""
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)
