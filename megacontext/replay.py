"""Replay: what stood in view after each tick line of an event log, rebuilt from its edits.

A log never holds a whole view. It tells the edits, and while text flows only what those of up to 32 ticks come to
(telemetry/ticks.py). Blocks enter history exact, so the tokens of a tick line and the edits before it give the view.
Each view is checked against the line's own counts by level.

Events in, values out: nothing here knows of files, models or tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from megacontext.context import Collapse, Edit, LawError, WorkingContext
from megacontext.context import Expand as Opening
from megacontext.errors import MegaContextError
from megacontext.span import Grid, Span
from megacontext.telemetry import events
from megacontext.telemetry.events import Event, MemoryOpened, RunStart, Tick

MOST_BLOCKS = 1 << 14  # that enter history between two tick lines; real ones have hundreds


class ViewAt(NamedTuple):
    """The view after a tick line. In a sum of ticks `context.since` is right for the edits that lasted beyond it."""

    tick: Tick
    context: WorkingContext

    @property
    def first_tick(self) -> int:
        """The first tick that the line sums up."""
        return self.tick.tick - self.tick.ticks + 1


def replay(run: Iterable[Event], kept: WorkingContext | None = None) -> Iterator[ViewAt]:
    """The view after each tick line of a run, which begins with its run_start.

    kept: the view that an earlier run left and this one took up; then its first tick is not the memory's first one.
    Raises MegaContextError where the events do not fit together: lines are missing, or another run's.
    """
    memory: Mapping[str, Any] = {}
    context: WorkingContext | None = None
    recovered = 0
    edits: list[events.Expand | events.Collapse] = []
    for event in run:
        if isinstance(event, RunStart):
            memory = event.config.get("memory") or {}
        elif isinstance(event, MemoryOpened):
            context, edits, recovered = None, [], event.recovered_tokens
        elif isinstance(event, (events.Expand, events.Collapse)):
            edits.append(event)
        elif isinstance(event, Tick):
            if context is None:
                context = _taken_up(event, kept, recovered) or empty_view(memory)
            context = follow(context, edits, event)
            edits = []
            yield ViewAt(event, context)


def _taken_up(first: Tick, kept: WorkingContext | None, recovered: int) -> WorkingContext | None:
    """The view before a run's first tick, None if that is empty: all is read again, or nothing was there before.

    recovered: tokens that were there. Raises MegaContextError if the view is needed and not known.
    """
    number = first.tick - first.ticks + 1
    if number and recovered and kept is None:
        raise MegaContextError(
            f"it begins with tick {number:,}, so the run took up a view that an earlier one kept, whose log is needed"
        )
    return kept if number else None


def empty_view(memory: Mapping[str, Any]) -> WorkingContext:
    """The view before the first token. memory: the section of that name in a run_start's configuration."""
    try:
        block, slots, budget = int(memory["block"]), memory["gist_slots"], int(memory["budget"])
        return WorkingContext(budget, Grid(block), (0, *map(int, slots)))
    except (KeyError, TypeError, ValueError) as error:
        raise MegaContextError(
            f"the log's run_start does not say how its memory was built (memory.block, gist_slots, budget: {error}), "
            "so its views cannot be rebuilt; name a log that the chat or the demo wrote"
        ) from None


def follow(context: WorkingContext, edits: Sequence[events.Expand | events.Collapse], tick: Tick) -> WorkingContext:
    """The view after one tick line. edits: those that stand before it, in order. Raises MegaContextError."""
    if tick.history_tokens is None or tick.history_tokens < context.sealed:
        raise _misfit(tick, f"history has {tick.history_tokens} tokens after {context.history}")
    try:
        grown = _grown(context, tick.history_tokens, tick.tick - tick.ticks + 1)
        for edit in edits:
            grown = grown.apply([_as_edit(edit)], edit.tick)
    except LawError as error:
        raise _misfit(tick, str(error)) from None
    _check_counts(grown, tick)
    return grown


def _grown(context: WorkingContext, history: int, now: int) -> WorkingContext:
    """`context` with the tokens that came since, whole blocks sealed."""
    missing = history - context.history
    if missing > MOST_BLOCKS * context.grid.block:
        raise LawError(f"{missing:,} tokens came at once")
    grown = context.grow(missing) if missing >= 0 else context.shrink(-missing)
    while grown.tail >= grown.grid.block:
        grown = grown.seal(now)
    return grown


def _as_edit(event: events.Expand | events.Collapse) -> Edit:
    """The event as the edit it reports: of the gist, whichever side of it the span now is."""
    gist = Span(event.start, event.end, max(event.from_level, event.to_level))
    return Collapse(gist) if isinstance(event, events.Collapse) else Opening(gist)


def _check_counts(context: WorkingContext, tick: Tick) -> None:
    told = tick.lod_counts
    if told is not None and {int(level): count for level, count in told.items()} != context.lod_counts():
        raise _misfit(tick, f"it has {dict(told)} entries by level, its edits lead to {context.lod_counts()}")


def _misfit(tick: Tick, what: str) -> MegaContextError:
    return MegaContextError(
        f"the events do not fit together at tick {tick.tick}: {what}. Lines are missing, or stand in the log of "
        "another run: `python -m tools.validate_log LOG` looks closer"
    )
