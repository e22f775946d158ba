"""Draws the picture of a comparison: milliseconds a token, and recall, against the length of history.

    python -m tools.plot_results rows.jsonl bench.jsonl --out docs/results/history.png

Reads rows of `megacontext.evaluation.compare`, `megacontext.evaluation.speed` and `tools.bench_history` from any number
of files. The whole report, with tables, is `python -m megacontext.evaluation.report`.

Exit codes: 0 drawn, 2 a file cannot be read or holds nothing to draw, 3 matplotlib (the extra `plots`) is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # `python tools/plot_results.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megacontext.errors import ConfigError
from megacontext.evaluation.comparison.rows import Row, read_rows
from megacontext.evaluation.flags import Parser, guarded, note, whole_number
from megacontext.evaluation.reporting.lines import Lines, merged, milliseconds_by_history, rounded, trained
from megacontext.evaluation.reporting.looks import LOOKS, in_order
from megacontext.evaluation.reporting.pictures import Panel, draw, from_0, history_ticks, shares
from megacontext.plotting.figures import save_png

DEFAULT_OUT = Path("docs/results/history.png")
DEFAULT_TASKS = ("late_recall", "late_recall_long")


def recall(rows: Sequence[Row], tasks: Sequence[str], budget: int | None) -> Lines:
    """Of each memory known by name the recall at each length, at one budget; the plain cache has none."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        fits = row.get("task") in tasks and row.get("budget") in (None, budget) and row.get("split", "test") == "test"
        if fits and row.get("accuracy") is not None and row.get("cache") in LOOKS:
            point = float(rounded(row["history_tokens"])), float(row["accuracy"])
            found.setdefault(row["cache"], []).append(point)
    return {name: merged(found[name]) for name in in_order(list(found))}


def usual_budget(rows: Sequence[Row], tasks: Sequence[str]) -> int | None:
    """The slots that most of these tasks' rows have; of equal ones the most."""
    counts = Counter(row["budget"] for row in rows if row.get("task") in tasks and row.get("budget"))
    return max(counts, key=lambda budget: (counts[budget], budget), default=None)


def picture(rows: Sequence[Row], tasks: Sequence[str], budget: int | None, out: Path) -> None:
    """Write the picture to `out`. Raises ConfigError if the rows have nothing to draw, MissingAsset if nothing can."""
    limit, times = trained(rows), milliseconds_by_history(row for row in rows if row.get("cache") in LOOKS)
    answers = recall(rows, tasks, budget)
    if not times and not answers:
        raise ConfigError("these files hold no rows with decode_ms_p50, and none with the accuracy of a recall task")
    slots = f", {budget:,} slots" if budget else ""
    known = {
        "speed": (times, "milliseconds a token (median)", from_0),
        "recall": (answers, f"facts recalled (share of questions){slots}", shares),
    }
    panels = {
        name: Panel(lines, title, "history, tokens", (dress, history_ticks(lines, limit)))
        for name, (lines, title, dress) in known.items()
        if lines
    }
    save_png(draw(panels), out)


def build_parser() -> Parser:
    parser = Parser("python -m tools.plot_results", __doc__ or "")
    parser.add_argument("rows", nargs="+", type=Path, metavar="FILE", help="rows, one JSON row a line")
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="PNG", help=f"default {DEFAULT_OUT.as_posix()}"
    )
    parser.add_argument(
        "--task", action="append", metavar="NAME", help=f"recall of this task ({', '.join(DEFAULT_TASKS)})"
    )
    parser.add_argument(
        "--budget", type=whole_number(1), metavar="SLOTS", help="recall at so many slots (those of most rows)"
    )
    return parser


def plot(flags: argparse.Namespace) -> int:
    """Read, draw. Returns the exit code."""
    try:
        rows = read_rows(flags.rows)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from error
    tasks = flags.task or DEFAULT_TASKS
    picture(rows, tasks, flags.budget or usual_budget(rows, tasks), flags.out)
    note(f"wrote {flags.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(plot, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
