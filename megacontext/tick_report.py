"""What a tick did, as events: the figures of telemetry/metrics.py, and one event for each edit."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

from megacontext.context import Collapse, Edit, WorkingContext
from megacontext.delta_nll import Measured
from megacontext.edit_ledger import EditLedger
from megacontext.focus.allocator import Plan
from megacontext.focus.base import Scores
from megacontext.telemetry import events
from megacontext.telemetry.sinks import Sink
from megacontext.tree.page_store import PageTraffic


class TickClock:
    """Wall time by part since the last tick, on the host: a GPU's own time counts where the host waits for it.

    score, plan, page: the refocus. assemble, forward: the passes since the tick before, the model's time and what was
    read again included.
    """

    def __init__(self) -> None:
        self._at = perf_counter()
        self._seconds = dict.fromkeys(("score", "plan", "page", "assemble", "forward"), 0.0)

    def start(self) -> None:
        """What came since the last note belongs to no part: somebody was typing, or sampling."""
        self._at = perf_counter()

    def note(self, part: str) -> None:
        """The time since `start`, or since the last note, was spent on `part`."""
        now = perf_counter()
        self._seconds[part] += now - self._at
        self._at = now

    def take(self) -> dict[str, float]:
        """Parts that add up to their total, in milliseconds; the next tick's begin at zero."""
        parts = {name: round(seconds * 1e3, 4) for name, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        return {**parts, "total": round(sum(parts.values()), 4)}


class Losses:
    """Pages and gists that a disk lost, and that were made again: told at the first, and at ten times as many."""

    def __init__(self) -> None:
        self.count = 0
        self._next = 1

    def add(self, lost: int, sink: Sink) -> None:
        """So many more."""
        self.count += lost
        if self.count < self._next:
            return
        self._next = 10 * self.count
        message = f"pages or gists kept on disk were damaged or missing: {self.count:,} made again from their tokens"
        sink.emit(events.Warning_(message=message, hint="python -m tools.inspect_memory NAME --verify tells the files"))


@dataclass(frozen=True)
class Refocus:
    """One tick, done. moved: pages copied in. reread: blocks that the model read again. traffic: where pages came from.

    delta: what was measured, if it was. disk_bytes: None without a disk.
    """

    tick: int
    reason: str
    before: WorkingContext
    plan: Plan
    scores: Scores
    moved: int
    reread: int
    traffic: PageTraffic
    latency_ms: dict[str, float]
    delta: Measured | None = None
    disk_bytes: int | None = None


def report(done: Refocus, sink: Sink, ledger: EditLedger, *, slot_bytes: int, resident_bytes: int) -> events.Tick:
    """Emit the tick and, before it, its edits; returns the tick. ledger: is given the edits, too. slot_bytes: what
    moving one slot copies.
    """
    block = done.plan.context.grid.block
    for edit in done.plan.edits:
        told = _edit_event(edit, done, block)
        ledger.emit(told)
        sink.emit(told)
    event = _tick_event(done, bytes_moved=done.moved * block * slot_bytes, resident_bytes=resident_bytes)
    sink.emit(event)
    return event


def _edit_event(edit: Edit, done: Refocus, block: int) -> events.Expand | events.Collapse:
    span, folds = edit.span, isinstance(edit, Collapse)
    kind = events.Collapse if folds else events.Expand
    fine, coarse = span.level - 1, span.level
    score = done.scores.get(span.start // block) if span.level == 1 else None
    forced = folds and span.level == 1 and any(page.start == span.start for page in done.plan.forced)
    return kind(
        tick=done.tick,
        start=span.start,
        end=span.end,
        from_level=fine if folds else coarse,
        to_level=coarse if folds else fine,
        score=None if score is None else round(score, 4),
        reason=f"{done.reason}, forced by the budget" if forced else done.reason,
    )


def _tick_event(done: Refocus, *, bytes_moved: int, resident_bytes: int) -> events.Tick:
    before, plan, delta = done.before, done.plan, done.delta
    context, entries = plan.context, len(plan.context.entries)
    folds = sum(isinstance(edit, Collapse) for edit in plan.edits)
    if plan.edits:
        stayed = set(before.entries) & set(context.entries)
        kept = sum(map(context.cost, stayed)) + context.tail
    else:
        kept = context.slots
    return events.Tick(
        tick=done.tick,
        reason=done.reason,
        history_tokens=context.history,
        working_budget=context.budget,
        active_slots=context.slots,
        utilization=round(context.slots / context.budget, 4),
        swap_rate=round(len(plan.edits) / entries, 4) if entries else None,
        residency=round(kept / context.slots, 4) if context.slots else None,
        mean_residency_ticks=round(done.tick - sum(context.since) / entries, 2) if entries else None,
        num_expand=len(plan.edits) - folds,
        num_collapse=folds,
        refused=len(plan.refused),
        faults=done.traffic.faults,
        recomputed_blocks=done.reread + done.traffic.recomputed,
        lod_counts=context.lod_counts(),
        delta_nll=None if delta is None else round(delta.nats, 4),
        delta_nll_baseline=None if delta is None else delta.reference,
        delta_nll_ms=None if delta is None else round(delta.took_ms, 3),
        latency_ms=done.latency_ms,
        baseline_ms=None if delta is None or delta.baseline_ms is None else round(delta.baseline_ms, 3),
        resident_bytes=resident_bytes,
        disk_bytes=done.disk_bytes,
        pages_moved=done.moved,
        bytes_moved=bytes_moved,
    )
