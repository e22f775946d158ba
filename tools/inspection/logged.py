"""What an event log knows of a session's view: which spans stand in it, since when, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from megacontext.context import WorkingContext
from megacontext.edit_ledger import EditLedger, Protected
from megacontext.errors import ConfigError, MegaContextError
from megacontext.replay import ViewAt, replay
from megacontext.telemetry.events import Event, MemoryOpened, Tick
from tools.event_log import EventLog, newest, read_log

FIRST_LINES = 64  # of a log, among which its memory_opened stands


class LoggedView(NamedTuple):
    """A view after a tick line, with the tokens that came later if it is the last one. protected: of `context`."""

    log: EventLog
    at: ViewAt
    context: WorkingContext
    protected: Protected
    edits: EditLedger


def find_log(log_dir: Path, session: Path) -> Path | None:
    """The log written to last among those whose memory was this session's."""
    return next((path for path in newest(log_dir.glob("*.log")) if _is_of(path, session)), None)


def _is_of(path: Path, session: Path) -> bool:
    """By the session's name, and by the folder where the run kept its sessions."""
    name, root = _told_session(path)
    return name == session.name and (root is None or (Path(root) / name).resolve() == session.resolve())


def _told_session(path: Path) -> tuple[str | None, str | None]:
    """(session, folder of sessions), as the log's first lines tell them."""
    root = None
    for record in _first_records(path):
        if record.get("type") == "run_start":
            root = _section(record.get("config"), "session").get("root")
        elif record.get("type") == MemoryOpened.type:
            return record.get("session"), root
    return None, root


def _first_records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as lines:
            for line in islice(lines, FIRST_LINES):
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record
    except (OSError, ValueError):  # no log, or a damaged one: not this session's, as far as can be told
        return


def read_view(path: Path, session: Path, tokens: int, at: int | None) -> LoggedView:
    """The view of `session`, which holds so many tokens, by this log. at: a tick; None: the last one.

    Raises ConfigError for a log that is not the session's, or has no such tick; MegaContextError for a damaged one.
    """
    if not _is_of(path, session):
        raise ConfigError(f"{path} is not a log of the session in {session}: it opened {_told_session(path)[0]!r}")
    log = read_log(path)
    memory = _section(log.start.config, "memory")
    views = list(replay(log.events))
    found = _at(path, views, at)
    context = found.context if found is not views[-1] else _grown(found.context, tokens)
    return LoggedView(log, found, context, _protected(memory, context), _edits_until(log.events, found.tick))


def _at(path: Path, views: list[ViewAt], at: int | None) -> ViewAt:
    """The line that holds tick `at`, or the last one."""
    if not views:
        raise MegaContextError(f"{path} holds no tick: its view never changed, or its cache has none")
    last = views[-1].tick.tick
    if at is not None and not 0 <= at <= last:
        raise ConfigError(f"--at {at}: {path} has ticks 0 to {last:,}")
    return views[-1] if at is None else next(view for view in views if view.tick.tick >= at)


def _grown(context: WorkingContext, tokens: int) -> WorkingContext:
    """With the tokens that came since the last tick, as an answer brings them: they are exact."""
    context = context.grow(max(tokens - context.history, 0))
    while context.tail >= context.grid.block:
        context = context.seal(max(context.since, default=0))
    return context


def _protected(memory: Mapping[str, Any], context: WorkingContext) -> Protected:
    """The ends that this run's allocator never folds."""
    from megacontext.config import MemoryConfig
    from megacontext.focus.allocator import FocusAllocator

    config = MemoryConfig(**{name: memory[name] for name in MemoryConfig.model_fields if name in memory})
    config = config.recency_only() if config.cache == "recency" else config
    allocator = FocusAllocator(protect_first=config.protect_first, recent_tokens=config.recent_tokens)
    return Protected(allocator.first_end(context), allocator.recent_start(context))


def _edits_until(events: tuple[Event, ...], last: Tick) -> EditLedger:
    ledger = EditLedger()
    for event in events:
        ledger.emit(event)
        if event is last:
            break
    return ledger


def _section(config: Any, name: str) -> Mapping[str, Any]:
    found = config.get(name) if isinstance(config, Mapping) else None
    return found if isinstance(found, Mapping) else {}
