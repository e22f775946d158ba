"""The memory's figures as text: the meter line, /context, /tree, /stats. Values in, strings out.

A plain cache has no working context; then only what it does know is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from megacontext.telemetry.events import Turn
from megacontext.telemetry.metrics import METRICS
from megacontext.telemetry.sinks import payload
from nanochat.hook import KVCache

WIDTH = 100
UNJUDGED = ("utilization",)  # between turns: a prompt's end leaves places empty on purpose


def stats_of(cache: KVCache) -> dict[str, Any]:
    """The cache's figures under the names of the metrics table."""
    stats = getattr(cache, "stats", None)
    if stats is not None:
        return dict(stats())
    usage = cache.usage
    return {"history_tokens": usage.seen, "active_slots": usage.resident_slots, "resident_bytes": usage.nbytes}


def meter(stats: dict[str, Any], turn: Turn) -> str:
    """`ctx 498/512 97% | history 18,432 tok = 96 LOD0 + 9 LOD1 | swaps 3 (0.03) | 38 ms/tick | 41 tok/s`."""
    for levels in (_levels, _short_levels):
        parts = [_view(stats), _history(stats, levels(stats)), _swaps(stats), _tick(stats), _speed(turn)]
        found = [part for part in parts if part]
        if len(line := " | ".join(found)) <= WIDTH:
            return line
    while len(line := " | ".join(found)) > WIDTH and len(found) > 1:
        del found[-2]
    return line[:WIDTH]


def _view(stats: dict[str, Any]) -> str:
    slots, budget = stats.get("active_slots"), stats.get("working_budget")
    if slots is None:
        return ""
    return f"ctx {slots:,}/{budget:,} {100 * slots // budget}%" if budget else f"ctx {slots:,}"


def _history(stats: dict[str, Any], levels: str) -> str:
    history = f"history {stats.get('history_tokens', 0):,} tok"
    return f"{history} = {levels}" if levels else history


def _levels(stats: dict[str, Any]) -> str:
    return " + ".join(f"{count:,} LOD{level}" for level, count in (stats.get("lod_counts") or {}).items())


def _short_levels(stats: dict[str, Any]) -> str:
    """Where a line is short of columns: counts by level, coarser to the right."""
    counts = stats.get("lod_counts") or {}
    return f"{'+'.join(map(str, counts.values()))} LOD{min(counts)}-{max(counts)}" if counts else ""


def _swaps(stats: dict[str, Any]) -> str:
    if "swap_rate" not in stats:
        return ""
    swaps = stats.get("num_expand", 0) + stats.get("num_collapse", 0)
    return f"swaps {swaps} ({stats['swap_rate']:.2f})"


def _tick(stats: dict[str, Any]) -> str:
    total = (stats.get("latency_ms") or {}).get("total")
    return "" if total is None else f"{_short(total)} ms/tick"


def _speed(turn: Turn) -> str:
    return "" if turn.tokens_per_second is None else f"{_short(turn.tokens_per_second)} tok/s"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def context_lines(cache: KVCache) -> list[str]:
    """What is in view, in time order; neighbours of one level stand on one line."""
    context = getattr(cache, "context", None)
    if context is None:
        return [f"{type(cache).__name__}: all {cache.usage.seen:,} tokens of history are in view"]
    lines = [f"{context.slots:,}/{context.budget:,} slots show {context.history:,} tokens of history"]
    for level, run in groupby(context.entries, key=lambda span: span.level):
        lines.append(_run_line(context, level, list(run)))
    sealed = context.history - context.tail
    lines.append(f"  [{sealed:>9,}, {context.history:>9,})  tail          {context.tail:>6,} slots")
    return lines


def _run_line(context: Any, level: int, run: list[Any]) -> str:
    what = f"{len(run)} {'page' if level == 0 else 'gist'}{'s' if len(run) > 1 else ''}"
    slots = sum(context.cost(span) for span in run)
    unseen = "" if slots else "  folded away, no slot"
    return f"  [{run[0].start:>9,}, {run[-1].end:>9,})  LOD{level} {what:<9} {slots:>6,} slots{unseen}"


def tree_lines(cache: KVCache) -> list[str]:
    """The levels of history and how much of each is in view."""
    context = getattr(cache, "context", None)
    if context is None:
        return [f"{type(cache).__name__} keeps no tree: {cache.usage.seen:,} tokens side by side"]
    shown = context.lod_counts()
    sealed = context.history - context.tail
    lines = ["level  tokens a node      nodes    in view"]
    for level in range(context.levels + 1):
        width = context.grid.width(level)
        if level > 1 and width > sealed:
            break
        lines.append(f"LOD{level}  {width:>13,} {sealed // width:>10,} {shown.get(level, 0):>10,}")
    return [*lines, f"tail   {context.tail:,} tokens, exact"]


def stats_lines(cache: KVCache, turn: Turn | None) -> list[str]:
    """All figures, with units and what the bands of the metrics table say."""
    figures = stats_of(cache)
    if turn is not None:
        figures = {name: value for name, value in payload(turn).items() if name in METRICS} | figures
    return [_stat_line(name, value) for name, value in figures.items() if value is not None]


def _stat_line(name: str, value: Any) -> str:
    metric = METRICS.get(name)
    unit = "" if metric is None or metric.unit in ("count", "name", "share") else f" {metric.unit}"
    unjudged = metric is None or name in UNJUDGED or not isinstance(value, (int, float))
    verdict = "" if metric is None or unjudged else metric.judge(value)
    mark = "  (investigate)" if verdict == "investigate" else ""
    return f"  {name:<22} {_value(value)}{unit}{mark}"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def folded_tokens(cache: KVCache) -> int:
    """Tokens of history that are not exact in view; 0 for a plain cache."""
    context = getattr(cache, "context", None)
    if context is None:
        return 0
    pages: Iterable[Any] = (span for span in context.entries if span.level == 0)
    return context.history - context.tail - sum(span.end - span.start for span in pages)
