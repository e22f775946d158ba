"""What several ticks come to, as the metrics table folds them: one tick event, or the figures of a turn.

Knows nothing of when a sum is due (`ticks.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from megacontext.telemetry.events import Tick, Turn
from megacontext.telemetry.metrics import METRICS, Fold
from megacontext.telemetry.timing import percentile

OF_TICK = tuple(name for name in METRICS if name in Tick.__dataclass_fields__ and name != "transient")
OF_TURN = tuple(name for name in OF_TICK if name in Turn.__dataclass_fields__)


class Sums:
    """Running sums of some of the ticks' figures. What no tick had is absent.

    A tick event that is a sum itself counts as often as it has ticks; what was only sampled counts once, as how many of
    its ticks measured it is not known.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.ticks = 0
        self._folds: list[tuple[str, Fold]] = [(name, METRICS[name].fold) for name in names if name != "latency_ms"]
        self._found: dict[str, Any] = {}
        self._weights: dict[str, int] = {}  # of what is averaged
        self._times: dict[str, float] = {}  # ms by part
        self._timed = 0

    def add(self, tick: Tick) -> None:
        self.ticks += tick.ticks
        for name, fold in self._folds:
            value = getattr(tick, name)
            if value is not None:
                self._fold(name, fold, value, tick.ticks)
        if tick.latency_ms:
            self._timed += tick.ticks
            for part, took in tick.latency_ms.items():
                self._times[part] = self._times.get(part, 0.0) + took * tick.ticks

    def _fold(self, name: str, fold: Fold, value: Any, ticks: int) -> None:
        if fold == "last":
            self._found[name] = value
        elif isfinite(value):  # what is not finite was not computed
            weight = ticks if fold == "mean" else 1
            self._weights[name] = self._weights.get(name, 0) + weight
            self._found[name] = self._found.get(name, 0) + value * weight

    def figures(self) -> dict[str, Any]:
        """By name; rounded. A part that some ticks lack counts as 0 there, so that parts add up to the total."""
        means = {name for name, fold in self._folds if fold in ("mean", "sample")}
        found = {
            name: round(value / self._weights[name], 6) if name in means else value
            for name, value in self._found.items()
        }
        if self._times:
            found["latency_ms"] = {part: round(took / self._timed, 4) for part, took in self._times.items()}
        return found


def summarise(ticks: Sequence[Tick]) -> Tick:
    """Consecutive ticks as one. latency_p95_ms is the 95th percentile of each part by itself."""
    last = ticks[-1]
    if len(ticks) == 1:
        return last
    sums = Sums(OF_TICK)
    for tick in ticks:
        sums.add(tick)
    return Tick(
        tick=last.tick, ticks=sums.ticks, reason=last.reason, latency_p95_ms=_slowest(ticks, 0.95), **sums.figures()
    )


def with_figures(turn: Turn, sums: Sums) -> Turn:
    """The turn with what its ticks come to. What it says itself stays."""
    return replace(turn, **{name: value for name, value in sums.figures().items() if getattr(turn, name) is None})


def _slowest(ticks: Sequence[Tick], share: float) -> dict[str, float] | None:
    """Per part of a tick, the percentile of its wall time in ms."""
    times = [tick.latency_ms for tick in ticks if tick.latency_ms]
    parts = dict.fromkeys(part for one in times for part in one)
    by_part = {part: [one[part] for one in times if part in one] for part in parts}
    return {part: round(percentile(values, share), 4) for part, values in by_part.items()} or None
