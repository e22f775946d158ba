"""Compares memories on tasks: one row for each task, budget and cache.

    python -m megacontext.evaluation.compare --config configs/compare/recall_quick.yaml --json --out rows.jsonl

Caches run with the model and the memory section of the configuration that the comparison names (`demo`), so a row says
what a user of that configuration gets. Full attention, the oracle and random pages are in every table. Episodes run
seed by seed, short tasks first, and each is written to --out at once: after an interruption --resume goes on. With
--tune the settings that every method may try run on a development split of their own, and the best are written to
where later comparisons find them. Exit codes: 0 ok, 1 failure, 2 usage or config, 3 assets missing, 5 budget
impossible, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from megacontext.evaluation.flags import Parser, add_common, guarded, note, whole_number
from megacontext.evaluation.names import OURS, all_names
from megacontext.evaluation.tasks import TASKS

if TYPE_CHECKING:
    from megacontext.evaluation.comparison.rows import Row

DEFAULT_CONFIG, TUNING_CONFIG = "configs/compare/recall_quick.yaml", "configs/compare/tuning.yaml"


def build_parser() -> Parser:
    others = [name for name in all_names() if name not in OURS]
    names = {"tasks": TASKS, "caches": OURS, "baselines": others}
    told = "\n".join(map(_listed, names, names.values()))
    parser = Parser("python -m megacontext.evaluation.compare", f"{__doc__ or ''}\n{told}\n")
    parser.add_argument(
        "--config", metavar="FILE", help=f"YAML file (default {DEFAULT_CONFIG}; with --tune {TUNING_CONFIG})"
    )
    _add_choices(parser)
    add_common(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the episodes that --out has of the same settings; those measured with other code are counted",
    )
    parser.add_argument(
        "--jobs", type=whole_number(1), default=1, metavar="N", help="episodes at a time; then times say nothing (1)"
    )
    return parser


def _listed(heading: str, names: Iterable[str]) -> str:
    """In lines of a terminal's width."""
    return fill(f"{heading:<11}{', '.join(names)}", 100, subsequent_indent=" " * 11, break_on_hyphens=False)


def _add_choices(parser: Parser) -> None:
    parser.add_argument("--task", action="append", metavar="NAME", help="only this task; repeatable")
    parser.add_argument(
        "--cache",
        action="append",
        metavar="NAME",
        help="only this cache and the controls; repeatable; or ours, or baselines",
    )
    parser.add_argument("--budget", action="append", type=whole_number(1), metavar="SLOTS", help="slots; repeatable")
    parser.add_argument("--model", action="append", metavar="PATH", help="model file or folder; repeatable")
    parser.add_argument("--seeds", type=whole_number(1), metavar="N", help="episodes of every task")
    parser.add_argument("--no-controls", action="store_true", help="no full, oracle and random where none is named")
    parser.add_argument("--private-seed", default="", metavar="TEXT", help="draw cases that only its holder can draw")
    parser.add_argument("--untuned", action="store_true", help="every method with its own defaults")
    parser.add_argument("--tune", action="store_true", help="choose every method's settings on the development split")


def measure(flags: argparse.Namespace) -> int:
    """Load, compare, show what there is, even when interrupted. Returns the exit code."""
    from megacontext.evaluation.comparison.loop import Comparison

    comparison = Comparison.open(flags, flags.config or (TUNING_CONFIG if flags.tune else DEFAULT_CONFIG))
    try:
        code = comparison.run(flags.jobs)
    finally:
        show(comparison.rows(), as_json=flags.json)
    if flags.tune:
        comparison.keep_best()
    return code


def show(rows: Sequence[Row], *, as_json: bool) -> None:
    """All rows on stdout."""
    from megacontext.evaluation.comparison.rows import SHOWN, for_table, line, print_table

    if as_json:
        sys.stdout.writelines(map(line, rows))
        sys.stdout.flush()
        return
    for name in dict.fromkeys((row["model"], row["dtype"]) for row in rows):
        mine = [for_table(row) for row in rows if (row["model"], row["dtype"]) == name]
        print_table(mine, SHOWN, title=", ".join(name))
    if not rows:
        note("no row")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(measure, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
