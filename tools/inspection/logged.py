"""What an event log knows of a session's view: which spans stand in it, since when, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from megacontext.context import WorkingContext
from megacontext.edit_ledger import EditLedger, Protected
from megacontext.errors import ConfigError, MegaContextError
from megacontext.replay import ViewAt
from megacontext.telemetry.events import MemoryOpened, Turn
from tools.event_log import EventLog
from tools.inspection.runs import story_of


class LoggedView(NamedTuple):
    """A view after a tick line, with the tokens that came later if it is the last one. log: the run it is of.
    protected: of `context`.
    """

    log: EventLog
    at: ViewAt
    context: WorkingContext
    protected: Protected
    edits: EditLedger


def read_view(path: Path, session: Path, tokens: int, at: int | None) -> LoggedView:
    """The view of `session`, which holds so many tokens, by this log. at: a tick; None: the last one.

    Raises ConfigError for a log that is not the session's, or has no such tick; MegaContextError for a damaged one.
    """
    story = story_of(path, session)
    log, views = story.runs[-1], story.views
    found = _at(path, views, at)
    last = found is views[-1] if views else False
    context = _grown(found.context, _history(log, tokens)) if last else found.context
    protected = _protected(_section(log.start.config, "memory"), context)
    return LoggedView(log, found, context, protected, story.edits_until(found.tick))


def _history(log: EventLog, tokens: int) -> int:
    """Where the log's last run left a session that has so many tokens now: a later run may have gone on with it."""
    told = [opened.recovered_tokens for opened in log.of(MemoryOpened)] + [turn.history_tokens for turn in log.of(Turn)]
    return tokens if log.interrupted or not told else told[-1]


def _at(path: Path, views: Sequence[ViewAt], at: int | None) -> ViewAt:
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


def _section(config: Any, name: str) -> Mapping[str, Any]:
    found = config.get(name) if isinstance(config, Mapping) else None
    return found if isinstance(found, Mapping) else {}
