"""Figures as words. What is not known is a dash."""

from __future__ import annotations

from megacontext.evaluation.comparison.bootstrap import Interval
from megacontext.evaluation.reporting.figures import ACCURACY, DELTA, Measure

DASH = "-"


def figure(value: float | None, measure: Measure) -> str:
    """Shares with two digits, nats with three, differences with their sign."""
    if value is None:
        return DASH
    if measure is ACCURACY:
        return f"{value:.2f}"
    return f"{value:+.3f}" if measure is DELTA else f"{value:.3f}"


def spread(interval: Interval | None, measure: Measure) -> str:
    """`0.71 .. 0.90`."""
    if interval is None:
        return DASH
    return " .. ".join(figure(bound, measure) for bound in interval)


def apart(interval: Interval | None, measure: Measure) -> str:
    """A difference's interval: with signs."""
    digits = 2 if measure is ACCURACY else 3
    return DASH if interval is None else " .. ".join(f"{bound:+.{digits}f}" for bound in interval)


def percent(share: float | None, interval: Interval | None) -> str:
    """`91 (85 .. 95)`."""
    if share is None:
        return DASH
    spread = "" if interval is None else f" ({100 * interval[0]:.0f} .. {100 * interval[1]:.0f})"
    return f"{100 * share:.0f}{spread}"


def count(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def scaled(value: float | None, unit: float) -> str:
    """Three digits that count: `94.4`, `0.012`, `1,390`."""
    if value is None:
        return DASH
    size = value / unit
    if size == 0:
        return "0"
    return f"{size:,.0f}" if abs(size) >= 100 else f"{size:.3g}"


def listed(names: list[str], most: int = 12) -> str:
    """`a, b and 3 more`."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
