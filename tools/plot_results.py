"""Draws the picture of a comparison: milliseconds a token, and recall, against the length of history.

    python -m tools.plot_results rows.jsonl bench.jsonl --out docs/results/history.png

Reads rows of both commands (`megacontext.evaluation.compare --json`, `tools.bench_history --json`) from any number of
files. Needs matplotlib (the extra `plots`).
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if __package__ in (None, ""):  # `python tools/plot_results.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megacontext.errors import ConfigError
from megacontext.evaluation.flags import Parser, guarded, note
from megacontext.evaluation.rows import Row, read_rows
from megacontext.plotting.figures import BLUE, FAINT, GREEN, INK, VERMILION, new_figure, save_png, tidy

if TYPE_CHECKING:
    from megacontext.plotting.figures import Axes, Figure

DEFAULT_OUT = Path("docs/results/history.png")
DEFAULT_TASKS = ("late_recall", "late_recall_long")


class Look(NamedTuple):
    """How one memory is drawn, here and in any later picture."""

    label: str
    colour: str
    marker: str


LOOKS = {
    "megacontext": Look("MegaContext", BLUE, "o"),
    "full": Look("plain cache", VERMILION, "s"),
    "recency": Look("sliding window", FAINT, "^"),
    "oracle": Look("the right blocks", GREEN, "D"),
}

Lines = dict[str, list[tuple[int, float]]]  # cache -> (history in tokens, value), ascending


def lines_of(rows: Sequence[Row], value: str, tasks: Sequence[str] | None = None) -> Lines:
    """The points of each known cache; where several rows have one length, their mean."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.get(value) is not None and row.get("cache") in LOOKS and (tasks is None or row.get("task") in tasks):
            found[row["cache"]][_rounded(row["history_tokens"])].append(float(row[value]))
    means = {name: [(x, sum(y) / len(y)) for x, y in sorted(points.items())] for name, points in found.items()}
    return {name: means[name] for name in LOOKS if name in means}


def _rounded(tokens: int) -> int:
    """To two figures: 5,987 and 6,012 tokens of the same task are one point."""
    unit = 10 ** max(len(str(tokens)) - 2, 0)
    return round(tokens / unit) * unit


def draw(rows: Sequence[Row], tasks: Sequence[str], out: Path) -> None:
    """Write the picture to `out`. Raises ConfigError if the rows have nothing to draw or matplotlib is missing."""
    speed, recall = lines_of(rows, "decode_ms_p50"), lines_of(rows, "accuracy", tasks)
    if not speed and not recall:
        raise ConfigError("these files hold no rows with decode_ms_p50, and none with the accuracy of a recall task")
    figure, axes = new_figure([["speed", "recall"]], (10, 3.8))
    _panel(axes["speed"], speed, "milliseconds a token (median)", trained(rows))
    _panel(axes["recall"], recall, "facts recalled (share of questions)", trained(rows))
    axes["speed"].set_ylim(bottom=0)
    axes["recall"].set_ylim(-0.03, 1.05)
    _legend(figure, *axes.values())
    save_png(figure, out)


def trained(rows: Sequence[Row]) -> int | None:
    """The length the model was trained on, if a row says it."""
    return next((row["trained_positions"] for row in rows if row.get("trained_positions")), None)


def _panel(axes: Axes, lines: Lines, title: str, trained: int | None) -> None:
    for name, points in lines.items():
        look = LOOKS[name]
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=look.colour, marker=look.marker, markersize=5, linewidth=2, label=look.label)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("history, tokens", color=INK)
    axes.set_xscale("log", base=2)
    ticks = sorted({x for points in lines.values() for x, _ in points})
    axes.set_xticks(ticks, [_short(tick) for tick in ticks], rotation=45 if len(ticks) > 6 else 0)
    axes.minorticks_off()
    tidy(axes)
    if trained and ticks and ticks[-1] > trained:
        axes.axvline(trained, color=FAINT, linestyle=":", linewidth=1)
        axes.annotate(
            "trained length", (trained, 0.7), (3, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", rotation=90, va="top", fontsize=7, color=FAINT,
        )  # fmt: skip


def _legend(figure: Figure, *panels: Axes) -> None:
    """One for both panels, above them."""
    entries = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=len(entries), frameon=False)


def _short(tokens: int) -> str:
    return f"{tokens / 1000:.3g}k" if tokens >= 1000 else str(tokens)


def build_parser() -> Parser:
    parser = Parser("python -m tools.plot_results", __doc__ or "")
    parser.add_argument("rows", nargs="+", type=Path, metavar="FILE", help="rows of both commands, one JSON row a line")
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="PNG", help=f"default {DEFAULT_OUT.as_posix()}"
    )
    parser.add_argument(
        "--task", action="append", metavar="NAME", help=f"recall of this task ({', '.join(DEFAULT_TASKS)})"
    )
    return parser


def plot(flags: argparse.Namespace) -> int:
    """Read, draw. Returns the exit code."""
    try:
        rows = read_rows(flags.rows)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from error
    draw(rows, flags.task or DEFAULT_TASKS, flags.out)
    note(f"wrote {flags.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(plot, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
