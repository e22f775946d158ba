"""From what restarts found to rows, a table, and a word on what was reached. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from megacontext.evaluation.comparison.rows import Row
from tools.storing.disk import disk_use
from tools.storing.place import Place

WARM_REACH, FLAT_REACH, GROWTH_REACH, KEEP_REACH = 2.0, 1.2, 16.0, 0.02
BUDGETED = ("pages", "view")
COLUMNS = {
    "restart": (
        "open_ms",
        "first_token_ms",
        "restart_ms",
        "warm_first_token_ms",
        "over_warm",
        "restart_cpu_ms",
        "warm_cpu_ms",
        "score_ms",
        "read_again",
    ),
    "resident": ("tokens", "context", "lexical", "means", "turns", "log", "others", "per_token", "opening_peak"),
    "append": ("decode_ms", "keep_ms", "keep_share", "thread_share"),
    "page_in": ("ram_p50", "ram_p95", "disk_p50", "disk_p95", "computed_p50", "computed_p95"),
    "disk": ("per_token", "tokens.log", "pages.ctx", "means.ctx", "lexical", "view.snap", "turn.snap"),
}


def rows_of(place: Place, rounds: Sequence[dict[str, Any]], shorter: dict[str, Any] | None) -> Iterator[Row]:
    """The rows of one length. rounds: what each restart found. shorter: the first restart at the length before."""
    best = min(rounds, key=lambda found: found["open_ms"] + found["first_token_ms"])
    yield {"figure": "restart", "rounds": len(rounds), **_restart_row(best, rounds)}
    yield {"figure": "resident", **_resident_row(rounds[0], shorter)}
    quiet = min(rounds, key=lambda found: found["keep_ms"])
    yield {"figure": "append", **{name: quiet[name] for name in COLUMNS["append"]}}
    times = min(rounds, key=lambda found: found["page_in_ms"]["disk"]["p50"] or 0.0)["page_in_ms"]
    yield {"figure": "page_in", **{f"{tier}_{p}": found[p] for tier, found in times.items() for p in ("p50", "p95")}}
    tokens = rounds[-1]["tokens"]
    use = {name: round(size / tokens, 3) for name, size in disk_use(place.folder).items()}
    yield {"figure": "disk", "per_token": round(sum(use.values()), 3), **use}


def _restart_row(best: dict[str, Any], rounds: Sequence[dict[str, Any]]) -> Row:
    warm = min(found["warm_first_token_ms"] for found in rounds)
    restart = best["open_ms"] + best["first_token_ms"]
    names = ("process_ms", "load_ms", "open_ms", "first_token_ms", "read_again", "why", "threads")
    return {
        **{name: best[name] for name in names},
        "restart_ms": round(restart, 3),
        "warm_first_token_ms": warm,
        "restart_cpu_ms": min(round(found["open_cpu_ms"] + found["first_token_cpu_ms"], 3) for found in rounds),
        "warm_cpu_ms": min(found["warm_first_token_cpu_ms"] for found in rounds),
        "score_ms": min((found["score_ms"] for found in rounds if found["score_ms"]), default=None),
        "over_warm": round(restart / warm, 3),
    }


def _resident_row(found: dict[str, Any], shorter: dict[str, Any] | None) -> Row:
    row = {**found["resident"], "opening_peak": found["opening_peak"], "per_token": None}
    if shorter is not None:
        more = _beyond_budgets(found) - _beyond_budgets(shorter)
        row["per_token"] = round(more / (found["kept_tokens"] - shorter["kept_tokens"]), 3)
    return row


def _beyond_budgets(found: dict[str, Any]) -> int:
    return sum(size for name, size in found["resident"].items() if name not in BUDGETED)


def table_lines(rows: Sequence[Row]) -> list[str]:
    """A table for each figure: a line a length and format of pages."""
    lines: list[str] = []
    for figure, columns in COLUMNS.items():
        mine = [row for row in rows if row["figure"] == figure]
        cells = [(figure, "dtype", *columns)]
        for row in mine:
            shown = [_cell(row.get(name)) for name in columns]
            cells.append((f"{row['history_tokens']:,}", row["page_dtype"], *shown))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines += ["  ".join(map(str.rjust, line, widths)) for line in cells] + [""]
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}" if isinstance(value, float) else str(value)


def verdicts(rows: Sequence[Row]) -> list[str]:
    """What was reached, a line each."""
    by = {figure: [row for row in rows if row["figure"] == figure] for figure in COLUMNS}
    restarts, lines = by["restart"], []
    worst = max(restarts, key=lambda row: row["over_warm"])
    lines.append(_verdict(f"restart over warm at {worst['history_tokens']:,}", worst["over_warm"], WARM_REACH))
    if len(restarts) > 1:
        ratio = max(row["restart_ms"] for row in restarts) / min(row["restart_ms"] for row in restarts)
        lines.append(_verdict("slowest restart over fastest, over all lengths", round(ratio, 3), FLAT_REACH))
    grown = [row["per_token"] for row in by["resident"] if row["per_token"] is not None]
    lines += [_verdict("resident bytes a token beyond the budgets", max(grown), GROWTH_REACH)] if grown else []
    shares = [row["keep_share"] + row["thread_share"] for row in by["append"] if row["keep_share"] is not None]
    lines += [_verdict("keeping, of decode time", round(max(shares), 4), KEEP_REACH)] if shares else []
    return lines


def _verdict(what: str, found: float, reach: float) -> str:
    return f"{what}: {found} (reach {reach:g}: {'yes' if found <= reach else 'no'})"
