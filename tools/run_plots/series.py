"""From a run's events to the numbers that are drawn: steps while text flows, points where a prompt ended, turns.

A step is one tick line: its value holds from where the line before it ended to its own tokens (or ticks). A reply that
holds its view has no ticks: there the steps have a gap. Knows nothing about drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, Literal, NamedTuple

from megacontext.span import Grid
from megacontext.telemetry.events import Event, MemoryOpened, RunStart, Tick, Turn
from megacontext.telemetry.metrics import METRICS, Metric

Axis = Literal["tokens", "ticks"]
OWN_PARTS = ("score", "plan", "page", "assemble")  # what the memory costs
PARTS = (*OWN_PARTS, "forward")


class Step(NamedTuple):
    """A tick line over [start, stop) of the axis."""

    start: int
    stop: int
    tick: Tick


class Mark(NamedTuple):
    """A prompt's end at a place of the axis."""

    at: int
    tick: Tick


class TurnEnd(NamedTuple):
    """A turn that ended at a place of the axis."""

    at: int
    turn: Turn


@dataclass(frozen=True)
class Course:
    """A run along an axis. grid: of its blocks, None where the log does not say. begin: where it went on from."""

    axis: Axis
    steps: tuple[Step, ...]
    prompts: tuple[Mark, ...]
    turns: tuple[TurnEnd, ...]
    grid: Grid | None = None
    begin: int = 0

    @property
    def ticks(self) -> list[Tick]:
        """All tick lines: of text, then of prompts."""
        return [step.tick for step in self.steps] + [mark.tick for mark in self.prompts]

    @property
    def end(self) -> int:
        """The last place of the axis."""
        places = [step.stop for step in self.steps] + [mark.at for mark in self.prompts]
        return max(places + [turn.at for turn in self.turns], default=0)


def course_of(events: Iterable[Event], axis: Axis = "tokens") -> Course:
    """One conversation's ticks and turns along history's tokens, or along the ticks."""
    steps, prompts, turns, ticks, grid = [], [], [], 0, None
    events = tuple(events)
    at = begin = _begin(events, axis)
    for event in events:
        if isinstance(event, RunStart):
            block = (event.config.get("memory") or {}).get("block")
            grid = Grid(block) if isinstance(block, int) else None
        elif isinstance(event, Turn):
            at = max(at, event.history_tokens if axis == "tokens" else ticks)
            turns.append(TurnEnd(at, event))
        elif isinstance(event, Tick):
            ticks = event.tick + 1
            stop = ticks if axis == "ticks" else at if event.history_tokens is None else event.history_tokens
            if (event.reason or "").startswith("prompt"):
                prompts.append(Mark(stop, event))
            else:
                steps.append(Step(min(at, stop), stop, event))
            at = stop
    return Course(axis, tuple(steps), tuple(prompts), tuple(turns), grid, begin)


def _begin(events: Iterable[Event], axis: Axis) -> int:
    """Not 0 where the view of an earlier run goes on: then the first tick is not the memory's first one."""
    kept = 0
    for event in events:
        if isinstance(event, MemoryOpened):
            kept = event.recovered_tokens
        elif isinstance(event, Tick):
            first = event.tick - event.ticks + 1
            return 0 if first == 0 else first if axis == "ticks" else kept
    return 0


Steps = Sequence[tuple[float, float, Any]]  # (start, stop, value), None where there is none


class Stairs(NamedTuple):
    """values[i] holds over [edges[i], edges[i + 1]); None in a gap."""

    edges: list[float]
    values: list[Any]


def stairs(steps: Steps) -> list[Stairs]:
    """Runs of (start, stop, value) that touch, each as one; what has no value, or no width, is left out."""
    runs: list[Stairs] = []
    for start, stop, value in steps:
        if value is None or stop <= start:
            continue
        if not runs or runs[-1].edges[-1] != start:
            runs.append(Stairs([start], []))
        runs[-1].edges.append(stop)
        runs[-1].values.append(value)
    return runs


def metric_steps(course: Course, name: str) -> list[tuple[float, float, float | None]]:
    """A metric while text flows: (start, stop, value)."""
    return [(start, stop, getattr(tick, name)) for start, stop, tick in course.steps]


def metric_points(course: Course, name: str) -> list[tuple[int, float]]:
    """A metric where prompts ended."""
    values = ((mark.at, getattr(mark.tick, name)) for mark in course.prompts)
    return [(at, value) for at, value in values if value is not None]


def levels(course: Course) -> list[int]:
    """The levels that were ever in view, exact first, which the open tail always is."""
    told = [tick.lod_counts for tick in course.ticks if tick.lod_counts is not None]
    return sorted({0}.union(*told)) if told else []


def level_steps(course: Course) -> list[tuple[float, float, list[float] | None]]:
    """Tokens of history shown at each level, in the order of `levels`; the open tail counts as exact."""
    known = levels(course)
    return [(start, stop, _by_level(course, tick, known)) for start, stop, tick in course.steps]


def _by_level(course: Course, tick: Tick, known: Sequence[int]) -> list[float] | None:
    if tick.lod_counts is None or tick.history_tokens is None or course.grid is None:
        return None
    shown = {level: course.grid.width(level) * count for level, count in tick.lod_counts.items()}
    shown[0] = shown.get(0, 0) + tick.history_tokens - sum(shown.values())
    return [float(shown.get(level, 0)) for level in known]


def parts(course: Course) -> list[str]:
    """The parts of a tick that the log knows of."""
    known = {part for tick in course.ticks for part in tick.latency_ms or {}}
    return [part for part in PARTS if part in known]


def part_steps(course: Course, names: Sequence[str]) -> list[tuple[float, float, list[float] | None]]:
    """Milliseconds of a tick by part, in the order of `names`, while text flows."""
    return [(start, stop, _by_part(tick, names)) for start, stop, tick in course.steps]


def part_bars(course: Course, names: Sequence[str]) -> list[tuple[Mark, list[float]]]:
    """Milliseconds by part where prompts ended."""
    bars = ((mark, _by_part(mark.tick, names)) for mark in course.prompts)
    return [(mark, bar) for mark, bar in bars if bar is not None]


def _by_part(tick: Tick, names: Sequence[str]) -> list[float] | None:
    return [tick.latency_ms.get(name, 0.0) for name in names] if tick.latency_ms and names else None


class Summary(NamedTuple):
    """A metric over a run's flowing text. healthy, investigate: shares of the ticks; None where no band is known."""

    ticks: int
    median: float
    low: float
    high: float
    healthy: float | None
    investigate: float | None


def summarise(course: Course, name: str) -> Summary | None:
    """None where no tick has the metric. A view is judged for its utilization once history exceeds the budget."""
    once = METRICS[name].fold == "sample"  # measured at one of a line's ticks
    known = [(1 if once else t.ticks, float(getattr(t, name))) for _, _, t in course.steps if _counts(t, name)]
    if not known:
        return None
    values, total = [value for _, value in known], sum(ticks for ticks, _ in known)
    healthy, investigate = (_share(known, METRICS[name], verdict) for verdict in ("healthy", "investigate"))
    return Summary(total, median(values), min(values), max(values), healthy, investigate)


def _counts(tick: Tick, name: str) -> bool:
    if getattr(tick, name) is None:
        return False
    full = (tick.history_tokens or 0) > (tick.working_budget or 0)
    return full or name != "utilization"


def _share(known: Sequence[tuple[int, float]], metric: Metric, verdict: str) -> float | None:
    if metric.healthy is None:
        return None
    return sum(ticks for ticks, value in known if metric.judge(value) == verdict) / sum(ticks for ticks, _ in known)


def band_words(metric: Metric) -> str:
    """`healthy 0.9 to 1, investigate < 0.8`; empty where no band is known."""
    if metric.healthy is None or metric.tolerable is None:
        return ""
    bounds = list(zip("<>", metric.healthy, metric.tolerable, strict=True))
    moved = [(sign, far) for sign, near, far in bounds if near != far and far is not None]
    same = [(sign, far) for sign, _, far in bounds if far is not None]
    outside = " or ".join(f"{sign} {bound:g}" for sign, bound in moved or same)
    return f"healthy {metric.healthy}, investigate {outside}"


def spaced(places: Sequence[float], least: float) -> list[bool]:
    """Which labels at ascending `places` have room: at least `least` from the last one shown. The newest wins."""
    shown, last = [], None
    for place in reversed(places):
        fits = last is None or last - place >= least
        last = place if fits else last
        shown.append(fits)
    assert all(a <= b for a, b in pairwise(places))
    return shown[::-1]
