"""Sums consecutive ticks into one event, and their edits into what these come to.

A tick per token must not become a line per token: while text flows, blocks come and go many times within a sum. The
edits that go out lead from the view before the sum to the view after it; blocks that are as they were are named in
the tick's `transient`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from megacontext.telemetry.events import Collapse, Event, Expand, Tick
from megacontext.telemetry.metrics import METRICS
from megacontext.telemetry.sinks import Sink
from megacontext.telemetry.timing import percentile

LONGEST_SUM = 32
MOST_BLOCKS = 40  # blocks that a sum may touch before it goes out: a tick's line stays below a kilobyte

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
        self._edits: list[Edit] = []
        self._at_prompt = False

    def emit(self, event: Event) -> None:
        if isinstance(event, Tick) and event.ticks == 1:
            self.add(event)
        elif isinstance(event, (Expand, Collapse)):
            self._turn_to(event)
            self._edits.append(event)
        else:
            self.flush()
            self._sink.emit(event)

    def add(self, tick: Tick) -> None:
        """Take one tick; the sum goes out when it is full."""
        self._turn_to(tick)
        self._ticks.append(tick)
        if len(self._ticks) >= self._every or len(_blocks(self._edits)) >= MOST_BLOCKS:
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
        edits, self._edits = self._edits, []
        changed = net(edits)
        for edit in changed:
            self._sink.emit(edit)
        if ticks:
            transient = sorted(_blocks(edits) - _blocks(changed))
            self._sink.emit(replace(summarise(ticks), transient=transient or None))

    def close(self) -> None:
        self.flush()
        self._sink.close()


def net(edits: Iterable[Edit]) -> list[Edit]:
    """What these edits come to: the last one of each span whose level is another than before, in an order that can be
    applied: folds from fine to coarse, then expansions from coarse to fine.
    """
    first: dict[tuple[int, int], Edit] = {}
    last: dict[tuple[int, int], Edit] = {}
    for edit in edits:
        span = (edit.start, edit.end)
        first.setdefault(span, edit)
        last[span] = edit
    changed = [edit for span, edit in last.items() if edit.to_level != first[span].from_level]
    folds = [edit for edit in changed if isinstance(edit, Collapse)]
    opened = [edit for edit in changed if isinstance(edit, Expand)]
    return [*sorted(folds, key=lambda e: e.to_level), *sorted(opened, key=lambda e: -e.from_level)]


def _blocks(edits: Iterable[Edit]) -> set[int]:
    """Where the blocks among the edited spans start; what is coarser follows from them."""
    return {edit.start for edit in edits if min(edit.from_level, edit.to_level) == 0}


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
