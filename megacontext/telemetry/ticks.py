"""Sums consecutive ticks into one event, and their edits into what these come to.

A tick per token must not become a line per token: while text flows, blocks come and go many times within a sum. The
edits that go out lead from the view before the sum to the view after it; blocks that are as they were are named in
the tick's `transient`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from megacontext.telemetry.events import Collapse, Event, Expand, Tick
from megacontext.telemetry.metrics import METRICS
from megacontext.telemetry.sinks import Sink
from megacontext.telemetry.timing import percentile

LONGEST_SUM = 32
MOST_TRANSIENT = 40  # blocks that may come and go before a sum goes out: a tick's line stays below a kilobyte

Edit = Expand | Collapse


class TickSummary:
    """A sink before a sink: ticks leave it as sums of up to `every`, preceded by their edits; all else as it is.

    Whatever is neither (a turn, an error, the end) brings out what came before it. A prompt's end is never summed with
    running text: its few edits are what one looks for in a log.
    """

    def __init__(self, sink: Sink, every: int = LONGEST_SUM) -> None:
        if not 1 <= every <= LONGEST_SUM:
            raise ValueError(f"every={every}: a tick event sums 1 to {LONGEST_SUM} ticks")
        self._sink = sink
        self._every = every
        self._ticks: list[Tick] = []
        self._edits = Edits()
        self._at_prompt = False

    def emit(self, event: Event) -> None:
        if isinstance(event, Tick) and event.ticks == 1:
            self.add(event)
        elif isinstance(event, (Expand, Collapse)):
            self._turn_to(event)
            self._edits.add(event)
        else:
            self.flush()
            self._sink.emit(event)

    def add(self, tick: Tick) -> None:
        """Take one tick; the sum goes out when it is full."""
        self._turn_to(tick)
        self._ticks.append(tick)
        if len(self._ticks) >= self._every or len(self._edits.transient) >= MOST_TRANSIENT:
            self.flush()

    def _turn_to(self, event: Tick | Edit) -> None:
        """A prompt's end and running text are summed apart."""
        at_prompt = (event.reason or "").startswith("prompt")
        if at_prompt != self._at_prompt:
            self.flush()
        self._at_prompt = at_prompt

    def flush(self) -> None:
        """Emit what has been collected, if anything."""
        ticks, self._ticks = self._ticks, []
        edits, self._edits = self._edits, Edits()
        for edit in edits.net():
            self._sink.emit(edit)
        if ticks:
            self._sink.emit(replace(summarise(ticks), transient=sorted(edits.transient) or None))

    def close(self) -> None:
        self.flush()
        self._sink.close()


class Edits:
    """Edits by span: the level before the first, and the last. transient: starts of blocks that are as they were."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, int], int] = {}
        self._last: dict[tuple[int, int], Edit] = {}
        self.transient: set[int] = set()

    def add(self, edit: Edit) -> None:
        span = (edit.start, edit.end)
        before = self._before.setdefault(span, edit.from_level)
        self._last[span] = edit
        if min(edit.from_level, edit.to_level) == 0:  # a block; what is coarser follows from its blocks
            (self.transient.add if edit.to_level == before else self.transient.discard)(edit.start)

    def net(self) -> list[Edit]:
        """The last edit of each span whose level changed, in an order that can be applied: folds from fine to coarse,
        then expansions from coarse to fine.
        """
        changed = [edit for span, edit in self._last.items() if edit.to_level != self._before[span]]
        folds = [edit for edit in changed if isinstance(edit, Collapse)]
        opened = [edit for edit in changed if isinstance(edit, Expand)]
        return [*sorted(folds, key=lambda e: e.to_level), *sorted(opened, key=lambda e: -e.from_level)]


def summarise(ticks: Sequence[Tick]) -> Tick:
    """Counts added, shares averaged, times as median and p95, the rest from the last tick. Absent stays absent."""
    last = ticks[-1]
    if len(ticks) == 1:
        return last
    folded = {name: _fold(metric.fold, [getattr(tick, name) for tick in ticks]) for name, metric in _FOLDED.items()}
    return Tick(
        **folded,
        tick=last.tick,
        ticks=sum(tick.ticks for tick in ticks),
        reason=last.reason,
        delta_nll_baseline=last.delta_nll_baseline,
        latency_ms=_times(ticks, 0.5),
        latency_p95_ms=_times(ticks, 0.95),
    )


_FOLDED = {
    name: metric
    for name, metric in METRICS.items()
    if name in Tick.__dataclass_fields__ and name not in ("latency_ms", "delta_nll_baseline")
}
_FOLDS: dict[str, Callable[[list[Any]], Any]] = {
    "sum": sum,
    "mean": lambda values: round(sum(values) / len(values), 6),
    "median": lambda values: round(percentile(values, 0.5), 4),
    "last": lambda values: values[-1],
}


def _fold(fold: str, values: list[Any]) -> Any:
    known = [value for value in values if value is not None]
    return _FOLDS[fold](known) if known else None


def _times(ticks: Sequence[Tick], share: float) -> dict[str, float] | None:
    """Per part of a tick, the percentile of its wall time in ms."""
    times = [tick.latency_ms for tick in ticks if tick.latency_ms]
    parts = dict.fromkeys(part for one in times for part in one)
    by_part = {part: [one[part] for one in times if part in one] for part in parts}
    return {part: round(percentile(values, share), 4) for part, values in by_part.items()} or None
