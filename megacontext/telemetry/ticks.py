"""Sums consecutive ticks into one event, so that a tick per token does not become a line per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from megacontext.telemetry.events import Collapse, Event, Expand, Tick
from megacontext.telemetry.metrics import METRICS
from megacontext.telemetry.sinks import Sink
from megacontext.telemetry.timing import percentile

LONGEST_SUM = 32


class TickSummary:
    """A sink before a sink: `Tick` events leave it as sums of up to `every`, all others as they are.

    Whatever is not an edit of the view (a turn, an error, the end) brings out the ticks that came before it.
    """

    def __init__(self, sink: Sink, every: int = LONGEST_SUM) -> None:
        if not 1 <= every <= LONGEST_SUM:
            raise ValueError(f"every={every}: a tick event sums 1 to {LONGEST_SUM} ticks")
        self._sink = sink
        self._every = every
        self._ticks: list[Tick] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Tick) and event.ticks == 1:
            self.add(event)
            return
        if not isinstance(event, (Expand, Collapse)):
            self.flush()
        self._sink.emit(event)

    def add(self, tick: Tick) -> None:
        """Take one tick; the sum goes out when it is full."""
        self._ticks.append(tick)
        if len(self._ticks) >= self._every:
            self.flush()

    def flush(self) -> None:
        """Emit what has been collected, if anything."""
        if self._ticks:
            ticks, self._ticks = self._ticks, []
            self._sink.emit(summarise(ticks))

    def close(self) -> None:
        self.flush()
        self._sink.close()


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
