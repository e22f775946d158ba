"""Events as rows of W&B charts: the same numbers as in the event log, under keys that sort into charts by themselves.

    allocator/<metric>, latency/<part>, latency/<part>_p95, quality/<metric>   along the axis `tick`
    turn/<metric>                                                              along the axis `turn`

The last part of a key is the metric's name in `metrics.py`. What is no number stays in the event log (lists, words),
save the name of ΔNLL's reference, without which the number says nothing. Knows nothing of W&B.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from megacontext.telemetry.events import Event, Tick, Turn
from megacontext.telemetry.metrics import METRICS
from megacontext.telemetry.sinks import payload

Row = dict[str, float | str]

AXES = {"allocator": "tick", "latency": "tick", "quality": "tick", "turn": "turn"}
"""The step metric of each group of keys."""

_GROUPS = {"latency_ms": "latency", "latency_p95_ms": "latency", "baseline_ms": "latency"} | dict.fromkeys(
    ("delta_nll", "delta_nll_baseline", "delta_nll_ms"), "quality"
)


def tick_row(tick: Tick) -> Row:
    """The row of a tick, or of a sum of ticks (`allocator/ticks` of them). Absent stays absent."""
    row: Row = {}
    for name, value in payload(tick).items():
        group = _GROUPS.get(name, "allocator")
        if name == "latency_ms":
            row |= _numbers({f"{group}/{part}": ms for part, ms in value.items()})
        elif name == "latency_p95_ms":
            row |= _numbers({f"{group}/{part}_p95": ms for part, ms in value.items()})
        elif name != "tick":
            row |= _numbers(dict(_flat(f"{group}/{name}", value)))
    return row | {"tick": tick.tick}


def turn_row(turn: Turn) -> Row:
    """The row of a turn; `latency_ms` by part."""
    row: Row = {}
    for name, value in payload(turn).items():
        if name != "turn":
            row |= _numbers(dict(_flat(f"turn/{name}", value)))
    return row | {"turn": turn.turn}


class Totals:
    """What a run comes to: ticks, turns, and each metric that adds up, over all events so far."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {"ticks": 0, "turns": 0}

    def add(self, event: Event) -> None:
        """Count a tick or a turn. A turn adds what its ticks do not have: its tokens."""
        if isinstance(event, Tick):
            self._sums["ticks"] += event.ticks
            self._add(event, _SUMMED_IN_TICKS)
        elif isinstance(event, Turn):
            self._sums["turns"] += 1
            self._add(event, _SUMMED_IN_TURNS)

    def _add(self, event: Event, names: tuple[str, ...]) -> None:
        for name in names:
            value = getattr(event, name)
            if value is not None and math.isfinite(value):
                self._sums[name] = self._sums.get(name, 0) + value

    def row(self) -> Row:
        """As `total/<metric>`."""
        return {f"total/{name}": value for name, value in self._sums.items()}


_SUMMED = [name for name, metric in METRICS.items() if metric.fold == "sum"]
_SUMMED_IN_TICKS = tuple(name for name in _SUMMED if name in Tick.__dataclass_fields__)
_SUMMED_IN_TURNS = tuple(
    name for name in _SUMMED if name in Turn.__dataclass_fields__ and name not in Tick.__dataclass_fields__
)


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """`lod_counts` {1: 9} becomes `lod_counts/1`: 9."""
    if isinstance(value, dict):
        yield from ((f"{key}/{part}", item) for part, item in value.items())
    else:
        yield key, value


def _numbers(values: dict[str, Any]) -> Row:
    return {key: value for key, value in values.items() if key.endswith("/delta_nll_baseline") or _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
