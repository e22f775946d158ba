"""What a tick did, as events: the figures of telemetry/metrics.py, and one event for each edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from megacontext.context import Collapse, Edit, WorkingContext
from megacontext.focus.allocator import Plan
from megacontext.focus.base import Scores
from megacontext.telemetry import events
from megacontext.telemetry.sinks import Sink
from megacontext.view import View
from nanochat.hook import CacheUsage


class Reporting(Protocol):
    """What a report asks of the cache whose tick it was."""

    sink: Sink
    view: View

    @property
    def usage(self) -> CacheUsage: ...


@dataclass
class TickTimes:
    """perf_counter at the start, and after each part."""

    start: float
    score: float = 0.0
    plan: float = 0.0
    page: float = 0.0

    def in_ms(self) -> dict[str, float]:
        """Parts that add up to their total, in milliseconds."""
        parts = {"score": self.score - self.start, "plan": self.plan - self.score, "page": self.page - self.plan}
        rounded = {name: round(seconds * 1e3, 4) for name, seconds in parts.items()}
        return {**rounded, "total": round(sum(rounded.values()), 4)}


def report(
    before: WorkingContext,
    plan: Plan,
    scores: Scores,
    tick: int,
    reason: str,
    moved: int,
    times: TickTimes,
    cache: Reporting,
) -> events.Tick:
    """Emit the tick and its edits to the cache's sink; returns the tick."""
    context = plan.context
    for edit in plan.edits:
        cache.sink.emit(_edit_event(edit, plan, scores, tick, reason, context.grid.block))
    event = _tick_event(before, plan, tick, reason, moved, times, cache)
    cache.sink.emit(event)
    return event


def _edit_event(
    edit: Edit, plan: Plan, scores: Scores, tick: int, reason: str, block: int
) -> events.Expand | events.Collapse:
    span, folds = edit.span, isinstance(edit, Collapse)
    kind = events.Collapse if folds else events.Expand
    fine, coarse = span.level - 1, span.level
    score = scores.get(span.start // block) if span.level == 1 else None
    forced = folds and span.level == 1 and any(page.start == span.start for page in plan.forced)
    return kind(
        tick=tick,
        start=span.start,
        end=span.end,
        from_level=fine if folds else coarse,
        to_level=coarse if folds else fine,
        score=None if score is None else round(score, 4),
        reason=f"{reason}, forced by the budget" if forced else reason,
    )


def _tick_event(
    before: WorkingContext, plan: Plan, tick: int, reason: str, moved: int, times: TickTimes, cache: Reporting
) -> events.Tick:
    context, entries = plan.context, len(plan.context.entries)
    folds = sum(isinstance(edit, Collapse) for edit in plan.edits)
    if plan.edits:
        stayed = set(before.entries) & set(context.entries)
        kept = sum(map(context.cost, stayed)) + context.tail
    else:
        kept = context.slots
    page_bytes = moved * cache.view.arena.frame_bytes(context.grid.block)
    return events.Tick(
        tick=tick,
        reason=reason,
        history_tokens=context.history,
        working_budget=context.budget,
        active_slots=context.slots,
        utilization=round(context.slots / context.budget, 4),
        swap_rate=round(len(plan.edits) / entries, 4) if entries else None,
        residency=round(kept / context.slots, 4) if context.slots else None,
        mean_residency_ticks=round(tick - sum(context.since) / entries, 2) if entries else None,
        num_expand=len(plan.edits) - folds,
        num_collapse=folds,
        refused=len(plan.refused),
        faults=moved,
        lod_counts=context.lod_counts(),
        latency_ms=times.in_ms(),
        resident_bytes=cache.usage.nbytes,
        pages_moved=moved,
        bytes_moved=page_bytes,
    )
