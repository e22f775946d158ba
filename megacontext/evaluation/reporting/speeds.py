"""Tables of speed: every memory at every length of history, and the ratios that are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from megacontext.evaluation.comparison.rows import Row
from megacontext.evaluation.reporting.blocks import Block, Section, Table, cells, without_empty_columns
from megacontext.evaluation.reporting.words import DASH

TIMED = {
    "decode_ms_p50": ("ms a token", ".1f"),
    "decode_ms_p95": ("95th", ".1f"),
    "decode_tokens_per_s": ("tokens/s", ".1f"),
    "prefill_tokens_per_s": ("read, tokens/s", ",.0f"),
    "ttft_ms": ("first token, ms", ",.0f"),
    "megabytes": ("MB", ",.0f"),
    "slots": ("slots", ",d"),
    "read_slots": ("read", ",d"),
}


def speed(rows: Sequence[Row]) -> Section:
    """Of each machine and model: every memory at every length, then the ratios that are asked for."""
    blocks: list[Block] = []
    for heading in dict.fromkeys(map(_machine, rows)):
        mine = [row for row in rows if _machine(row) == heading]
        times, ratios = [row for row in mine if "cache" in row], [row for row in mine if "ratio" in row]
        if times:
            blocks.append(_speed_table(times, heading))
        if ratios:
            blocks.append(_ratio_table(ratios, heading))
    return Section("Speed", "speed", 2, blocks)


def _machine(row: Row) -> str:
    """What times depend on, as far as a row says it."""
    threads = f"{row['threads']} thread{'s' * (row['threads'] != 1)}" if row.get("threads") else ""
    clock = f"{row['clock']} clock" if row.get("clock") else ""
    said = (row.get("model"), row.get("dtype"), row.get("device"), threads, clock, row.get("config"))
    return ", ".join(str(word) for word in said if word)


def _speed_table(rows: Sequence[Row], heading: str) -> Table:
    ordered = sorted(rows, key=lambda row: _number(row, "history_tokens"))
    heads = ("memory", "history", *(words for words, _ in TIMED.values()), "remarks")
    lines = tuple(cells(str(row["cache"]), f"{row['history_tokens']:,}", *_timed(row)) for row in ordered)
    return without_empty_columns(Table(heads, lines, 1, heading))


def _timed(row: Row) -> list[str]:
    size = row.get("resident_bytes")
    more = {**row, "megabytes": size / 1e6 if isinstance(size, (int, float)) else None}
    known = [(more.get(key), spec) for key, (_, spec) in TIMED.items()]
    return [*(DASH if found is None else format(found, spec) for found, spec in known), str(row.get("note") or DASH)]


def _ratio_table(rows: Sequence[Row], heading: str) -> Table:
    lines = []
    for row in rows:
        quartiles = row.get("quartiles")
        between = " .. ".join(f"{x:.3f}" for x in quartiles) if isinstance(quartiles, list) else DASH
        reach, reached = str(row.get("reach") or DASH), {True: "yes", False: "no"}.get(bool(row.get("reached")))
        told = reached if row.get("reach") and reached else DASH
        lines.append(
            cells(str(row["ratio"]), f"{row['history_tokens']:,}", f"{_number(row, 'value'):.3f}", between, reach, told)
        )
    return Table(
        ("ratio", "history", "median", "quartiles", "asked for", "reached"), tuple(lines), 1, f"{heading}: ratios"
    )


def _number(row: Row, name: str) -> float:
    found = row.get(name)
    return float(found) if isinstance(found, (int, float)) else 0.0
