"""Events at the terminal, one short line each, for watching a run (`--debug`).

A tick is told as one reads it; every other event as its fields. Nothing in it can steer the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from megacontext.telemetry.events import Event, Tick
from megacontext.telemetry.sinks import payload
from nanochat.harmless import harmless

LONGEST_VALUE = 60  # characters shown of one


class ConsoleSink:
    """Writes to `stream` (stderr); types: show only these. A stream that is gone is left alone."""

    def __init__(self, stream: TextIO | None = None, types: Iterable[str] | None = None) -> None:
        self.stream = stream
        self.types = None if types is None else frozenset(types)

    def emit(self, event: Event) -> None:
        if self.types is not None and event.type not in self.types:
            return
        try:
            (self.stream or sys.stderr).write(line_of(event) + "\n")
        except (OSError, ValueError):
            self.types = frozenset()

    def close(self) -> None:
        pass


def line_of(event: Event) -> str:
    """The event in one line, its newlines as `\\n`."""
    facts = [f"{name}={_short(value)}" for name, value in payload(event).items()]
    told = ", ".join(_tick_facts(event)) if isinstance(event, Tick) else " ".join(facts)
    return f"[{event.type}] " + harmless(told).replace("\n", "\\n").replace("\t", " ")


def _tick_facts(tick: Tick) -> list[str]:
    """What one looks for while ticks go by; the log has the rest."""
    summed = f" ({tick.ticks} ticks)" if tick.ticks > 1 else ""
    return [f"{tick.tick}{summed} {tick.reason or ''}".rstrip(), *_view_facts(tick), *_cost_facts(tick)]


def _view_facts(tick: Tick) -> list[str]:
    shares = (("use", tick.utilization), ("swap", tick.swap_rate), ("residency", tick.residency))
    facts = [f"{name} {value:.2f}" for name, value in shares if value is not None]
    if tick.active_slots is not None:
        of = "" if tick.working_budget is None else f"/{tick.working_budget}"
        facts.insert(0, f"{tick.active_slots}{of} slots")
    if tick.num_expand or tick.num_collapse:
        facts.append(f"edits +{tick.num_expand or 0} -{tick.num_collapse or 0}")
    if tick.lod_counts:
        facts.append(" ".join(f"LOD{level}:{count}" for level, count in tick.lod_counts.items()))
    return facts


def _cost_facts(tick: Tick) -> list[str]:
    times = dict(tick.latency_ms or {})
    total = times.pop("total", None)
    parts = " + ".join(f"{part} {took:.1f}" for part, took in times.items() if took >= 0.05)
    facts = [] if total is None else [f"{total:.1f} ms" + (f" = {parts}" if parts else "")]
    if tick.delta_nll is not None:
        facts.append(f"ΔNLL {tick.delta_nll:+.3f} against {tick.delta_nll_baseline}")
    return facts


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
