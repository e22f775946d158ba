"""The runs of a session, as event logs tell of them: which log holds which, and the views from one to the next.

A log tells only what changes. Where a run took up the view that an earlier one had kept, the earlier one's log is read
first; a fork goes on with the view of the conversation that was open before it in the same run.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from megacontext.edit_ledger import EditLedger
from megacontext.errors import ConfigError, MegaContextError
from megacontext.replay import ViewAt, replay
from megacontext.telemetry.events import Collapse, Event, Expand, MemoryOpened, Tick
from tools.event_log import EventLog, conversations, newest, read_log


class Story(NamedTuple):
    """How a view came about. runs: of one conversation, oldest first. views: after each of their tick lines."""

    runs: tuple[EventLog, ...]
    views: tuple[ViewAt, ...]

    def edits_until(self, last: Tick) -> EditLedger:
        """The last edits of all spans up to a tick line."""
        ledger = EditLedger()
        for event in self._events():
            ledger.emit(event)
            if event is last:
                break
        return ledger

    def _events(self) -> Iterator[Event]:
        """Edits and ticks in order, less those after which a run was killed and the next one began before them."""
        firsts = [_first_tick(run) for run in self.runs]
        for place, run in enumerate(self.runs):
            end = min((first for first in firsts[place + 1 :] if first is not None), default=None)
            for event in run.events:
                if isinstance(event, (Expand, Collapse, Tick)) and (end is None or event.tick < end):
                    yield event


def find_log(folder: Path, session: Path) -> Path | None:
    """The log written to last among those that opened this session."""
    return next(
        (path for path in newest(folder.glob("*.log")) if _mentions(path, session.name) and _has(path, session)), None
    )


def _has(path: Path, session: Path) -> bool:
    """Whether a log opened the session; a damaged one did, as far as can be told."""
    try:
        return bool(runs_in(path, session))
    except MegaContextError:
        return True


def runs_in(path: Path, session: Path) -> list[EventLog]:
    """The conversations of a log that were this session's: by its name, and by the folder that kept sessions."""
    return [run for run in _conversations(path) if _opened(run) == session.resolve()]


def story_of(path: Path, session: Path) -> Story:
    """How the session's view came about, up to the end of its last run in this log.

    Raises ConfigError if there is none, MegaContextError if a log is damaged or an earlier one is missing.
    """
    runs = runs_in(path, session)
    if not runs:
        opened = [run.session for log in _conversations(path) for run in log.of(MemoryOpened)]
        raise ConfigError(
            f"{path} is not a log of the session in {session}: it opened {opened[-1] if opened else None!r}"
        )
    return _story(runs[-1])


def _story(run: EventLog) -> Story:
    first = _first_tick(run)
    went_on = any(event.recovered_tokens for event in run.of(MemoryOpened))
    for earlier in _candidates(run) if first or (first is None and went_on) else ():
        story = _story(earlier)
        views = [view for view in story.views if first is None or view.tick.tick < first]
        if views and first in (None, views[-1].tick.tick + 1):
            return Story((*story.runs, run), (*views, *replay(run.events, views[-1].context)))
    return Story((run,), tuple(replay(run.events)))  # says what is missing, if something is


def _candidates(run: EventLog) -> Iterator[EventLog]:
    """Runs whose view this one may have taken up, the likeliest first."""
    here = _conversations(run.path)
    place = next(i for i, other in enumerate(here) if other.events == run.events)
    session = _opened(run)
    yield from reversed(here[:place])  # its own, or the one that was forked
    for path in newest(run.path.parent.glob("*.log")):
        if session is not None and path != run.path and _mentions(path, session.name):
            yield from (other for other in reversed(runs_in(path, session)) if other.times[0] < run.times[0])


def _first_tick(run: EventLog) -> int | None:
    ticks = run.of(Tick)
    return ticks[0].tick - ticks[0].ticks + 1 if ticks else None


def _opened(run: EventLog) -> Path | None:
    """The folder of the session that a conversation was about."""
    root = (run.start.config.get("session") or {}).get("root")
    name = next((event.session for event in run.of(MemoryOpened)), None)
    return (Path(root) / name).resolve() if isinstance(root, str) and name is not None else None


def _mentions(path: Path, name: str) -> bool:
    """Whether a log may be about a session of that name; reading all of it costs more."""
    try:
        return f'"session":"{name}"'.encode() in path.read_bytes()
    except OSError:
        return False


@lru_cache(maxsize=64)
def _conversations(path: Path) -> tuple[EventLog, ...]:
    return tuple(conversations(read_log(path)))
