"""The fault programme: harm done to sessions on purpose, and what was lost, which must be nothing.

    python -m tools.faults                      all rows at CI's figures
    python -m tools.faults --only kill_chats --scale 0.1
    make faults                                 all rows at ten times CI's figures

A line a row as it goes, and one for all of them at the end. Everything drawn comes from --seed. Exit codes: 0 nothing
was lost, 1 something was, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # `python tools/faults.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from tools.fault_programme.row import Outcome

ROWS = {
    "kill_writers": "kill -9 of a writer of tokens, at random moments",
    "kill_chats": "kill -9 of a chat that streams a reply",
    "crash_sites": "the process ends at each write, sync and rename",
    "damage": "every file of a session cut and flipped at every byte",
    "failing_disk": "EIO, ENOSPC and short writes at the k-th call",
    "restored": "a session brought back says the same bits, and computes nothing anew",
    "state_machine": "a memory against a dict, over random steps",
    "fuzz": "damaged inputs to each parser",
    "soak": "many turns: memory and time stay flat",
}


def build_parser() -> argparse.ArgumentParser:
    rows = "\n".join(f"  {name:<14} {words}" for name, words in ROWS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tools.faults",
        description=f"{__doc__ or ''}\nrows\n{rows}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="of CI's figures (1)")
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW", help="this row; repeatable")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (0)")
    parser.add_argument("--json", action="store_true", help="a line of JSON a row on stdout")
    return parser


def summary(outcomes: Sequence[Outcome]) -> str:
    """The one line: `faults n injected, n survived; k kill -9 (t torn tails); fuzz p x m; x lost`."""
    total = {
        name: sum(getattr(o, name) for o in outcomes) for name in ("faults", "survived", "kills", "torn", "missing")
    }
    fuzzed = [count for outcome in outcomes for count in outcome.fuzzed.values()]
    least = f"{len(fuzzed)} x {min(fuzzed):,}" if fuzzed else "0"
    return (
        f"faults {total['faults']:,} injected, {total['survived']:,} survived; "
        f"{total['kills']:,} kill -9 ({total['torn']:,} torn tails); fuzz {least}; {total['missing']:,} lost"
    )


def run_row(name: str, folder: Path, scale: float, seed: int) -> Outcome:
    """One row, in a folder of its own."""
    from importlib import import_module

    from tools.fault_programme.row import Plan

    place = folder / name
    place.mkdir()
    outcome: Outcome = import_module(f"tools.fault_programme.{name}").run(Plan(name, place, scale, seed))
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    flags = build_parser().parse_args(argv)
    outcomes = []
    with TemporaryDirectory(prefix="megacontext-faults-") as folder:
        for name in dict.fromkeys(flags.only or ROWS):
            started = time.monotonic()
            outcome = run_row(name, Path(folder), flags.scale, flags.seed)
            outcomes.append(outcome)
            took = time.monotonic() - started
            print(f"{name:<14} {summary([outcome])}  {outcome.said}  {took:.0f} s", file=sys.stderr)
            for problem in outcome.lost:
                print(f"  lost, seed {flags.seed}: {problem}", file=sys.stderr)
            if flags.json:
                print(json.dumps({"row": name, "seconds": round(took, 1), **outcome.as_json()}))
    print(summary(outcomes), file=sys.stderr if flags.json else sys.stdout)
    return int(any(outcome.missing for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
