"""Draws a run from its event log: one PNG, and one page of HTML that needs nothing else.

    python -m tools.plot_run artifacts/run_logs/NAME.log [--out FOLDER] [--against ticks] [--conversation N]

Swap rate, residency, utilization, levels of detail, the parts of a tick's time, and ΔNLL where it was measured, with
the bands of the metrics table behind them. Both files are named after the log. Where /load or /fork opened other
conversations, the one with the most ticks is drawn, or the one that is named. Needs matplotlib (the extra `plots`).

Exit codes: 0 drawn (an interrupted log is drawn, too, and says so), 1 the log is empty or damaged, 2 it cannot be read
or holds nothing to draw, 3 matplotlib is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # `python tools/plot_run.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megacontext.evaluation.flags import Parser, guarded, note

if TYPE_CHECKING:
    from tools.event_log import EventLog


def build_parser() -> Parser:
    parser = Parser("python -m tools.plot_run", __doc__ or "")
    parser.add_argument("log", type=Path, metavar="LOG", help="event log of a chat or of the demo")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where both files go (default: beside the log)")
    parser.add_argument("--conversation", type=int, metavar="N", help="which one of the log's, from 1")
    parser.add_argument(
        "--against", choices=("tokens", "ticks"), default="tokens", help="the horizontal axis (default tokens)"
    )
    return parser


def plot(flags: argparse.Namespace) -> int:
    """Read, draw, write. Returns the exit code."""
    from megacontext.errors import ConfigError
    from megacontext.plotting.figures import save_png, save_text
    from tools.event_log import read_log
    from tools.run_plots.page import page
    from tools.run_plots.panels import panels_of
    from tools.run_plots.picture import whole_picture
    from tools.run_plots.series import course_of

    log = _one_conversation(read_log(flags.log), flags.conversation)
    course = course_of(log.events, flags.against)
    if not panels_of(course):
        cache = (log.start.config.get("memory") or {}).get("cache", "unknown")
        raise ConfigError(
            f"{flags.log} holds no tick with figures (its memory.cache is {cache}): only megacontext and recency have "
            "a view that changes; run the chat with --cache megacontext, and let it read or say something"
        )
    folder = flags.out or flags.log.parent
    png, html = (folder / f"{flags.log.stem}{ending}" for ending in (".png", ".html"))
    save_png(whole_picture(log, course), png)
    save_text(page(log, course), html)
    if log.interrupted:
        note(f"{flags.log}: interrupted, or still running (no run_end){'; its torn last line is left out' * log.torn}")
    note(f"wrote {png} and {html}")
    return 0


def _one_conversation(log: EventLog, number: int | None) -> EventLog:
    """The one that is asked for, else the one with the most ticks; which one is said. Raises ConfigError."""
    from megacontext.errors import ConfigError
    from megacontext.telemetry.events import MemoryOpened, Tick
    from tools.event_log import conversations

    found = conversations(log)
    if number is not None and not 1 <= number <= len(found):
        raise ConfigError(f"--conversation {number}: {log.path} has {len(found)}, counted from 1")
    longest = max(range(len(found)), key=lambda i: sum(tick.ticks for tick in found[i].of(Tick)))
    chosen = longest if number is None else number - 1
    if len(found) > 1:
        names = ", ".join(
            f"{i} {one.of(MemoryOpened)[0].session or 'without a name'}" for i, one in enumerate(found, 1)
        )
        note(f"{log.path} holds {len(found)} conversations ({names}): drawn is {chosen + 1}")
    return found[chosen]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(plot, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
