"""What holds of a log beyond its schema: of each record by itself, and of each after the one before it.

Figures are compared as they stand in the log, rounded. Knows nothing about files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Record = dict[str, Any]

ROUNDING_MS = 1e-3  # of six times with four decimals
ROUNDING_SHARE = 1e-4
SHARES = ("residency", "utilization")
FILE_NAME = re.compile(r"(?P<run>.+?)(\.\d+)?-\d{8}T\d{6}Z")


class OrderOfTicks:
    """Ticks are counted upwards, and none is told twice; a memory that is opened begins anew."""

    def __init__(self) -> None:
        self._last: int | None = None

    def problem(self, record: Record) -> str:
        """What is wrong with a record following those before it; empty if nothing is."""
        if record["type"] == "memory_opened":
            self._last = None
        if record["type"] != "tick":
            return ""
        last, self._last = self._last, record["tick"]
        first = record["tick"] - record.get("ticks", 1) + 1
        if last is None or first > last:
            return ""
        return f"tick: {record['tick']} of {record.get('ticks', 1)} ticks, after tick {last}"


def problems(record: Record) -> Iterator[str]:
    """What is wrong with a record that fits the schema."""
    if record["type"] in ("tick", "turn"):
        yield from _parts(record)
        yield from _shares(record)
        yield from _slots(record)
    elif record["type"] in ("expand", "collapse"):
        yield from _edit(record)


def name_problem(stem: str, run: str) -> str:
    """What is wrong with a run in a file of that name, without its ending. A renamed file says nothing of its run."""
    match = FILE_NAME.fullmatch(stem)
    if match is None or run in (match["run"], match["run"] + (match[2] or "")):
        return ""
    return f"run: {run!r} in a file named after {match['run']!r}"


def _parts(record: Record) -> Iterator[str]:
    times = dict(record.get("latency_ms", {}))
    total = times.pop("total", None)
    if any(took < 0 for took in times.values()):
        yield f"latency_ms: {min(times, key=times.__getitem__)} is negative"
    if total is not None and times and abs(sum(times.values()) - total) > ROUNDING_MS:
        yield f"latency_ms: the parts add up to {sum(times.values()):.4f}, total is {total}"


def _shares(record: Record) -> Iterator[str]:
    for name in SHARES:
        if name in record and not 0 <= record[name] <= 1:
            yield f"{name}: {record[name]} is no share, from 0 to 1"
    if record.get("swap_rate", 0) < 0:
        yield f"swap_rate: {record['swap_rate']} is negative"


def _slots(record: Record) -> Iterator[str]:
    """A sum's utilization is the mean of its ticks', its slots are those of the last."""
    used, budget = record.get("active_slots"), record.get("working_budget")
    if used is None or not budget:
        return
    if used > budget:
        yield f"active_slots: {used} of {budget}, the working_budget"
    alone = record["type"] == "tick" and record.get("ticks", 1) == 1
    share = record.get("utilization")
    if alone and share is not None and abs(share - used / budget) > ROUNDING_SHARE:
        yield f"utilization: {share}, active_slots / working_budget is {used / budget:.4f}"


def _edit(record: Record) -> Iterator[str]:
    if not 0 <= record["start"] < record["end"]:
        yield f"start: [{record['start']}, {record['end']}) is no span"
    finer = record["to_level"] < record["from_level"]
    if record["from_level"] == record["to_level"] or finer != (record["type"] == "expand"):
        yield f"to_level: {record['to_level']} from {record['from_level']} is no {record['type']}"
