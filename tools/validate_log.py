"""Checks event logs: every line against the schema, and what the schema cannot say.

`seq` without gaps, run_start first, run_end last, one run, named as the file is; ticks counted upwards; the parts of a
tick's time add up to its total; utilization is slots by budget; shares lie in [0, 1]; an expansion leads to a finer
level, a collapse to a coarser one.

    python -m tools.validate_log artifacts/run_logs/NAME.log
    python -m tools.validate_log --schema          prints the JSON Schema of a line

Exit codes: 0 valid (a log without run_end is reported as interrupted; --strict makes that 1), 1 a line is wrong,
2 a file cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # `python tools/validate_log.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megacontext.telemetry.checks import OrderOfTicks, name_problem, problems
from megacontext.telemetry.schema import InvalidEvent, json_schema, validate_line

MOST_PROBLEMS = 20


@dataclass
class Verdict:
    """What a log is worth. problems: (line number from 1, reason)."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[int, str]] = field(default_factory=list)
    interrupted: bool = False


def check(lines: Iterable[bytes], stem: str | None = None) -> Verdict:
    """All lines of one log. stem: its file's name without the ending."""
    reader = _Reader(stem)
    for number, line in enumerate(lines, 1):
        reader.take(number, line)
    return reader.end()


class _Reader:
    """A log, line by line, and what it is worth so far."""

    def __init__(self, stem: str | None) -> None:
        self.verdict = Verdict()
        self._stem = stem
        self._run: str | None = None
        self._last: str | None = None
        self._next = 0  # the seq that is due
        self._order = OrderOfTicks()

    def take(self, number: int, line: bytes) -> None:
        try:
            record = validate_line(line)
        except InvalidEvent as error:
            self.verdict.problems.append((number, str(error)))
            self._next += 1
            return
        wrong = [self._place(record, number), self._order.problem(record), *problems(record)]
        self.verdict.problems += [(number, reason) for reason in wrong if reason]
        self._last = record["type"]
        self.verdict.counts[record["type"]] += 1

    def end(self) -> Verdict:
        if self._last is None and not self.verdict.problems:
            self.verdict.problems.append((1, "the log is empty: it has no run_start"))
        self.verdict.interrupted = self._last != "run_end"
        return self.verdict

    def _place(self, record: dict[str, Any], number: int) -> str:
        """What is wrong with a valid event standing where it stands."""
        due, self._next = self._next, record["seq"] + 1
        if record["seq"] != due:
            return f"seq: {record['seq']}, this line must have {due}"
        if (record["type"] == "run_start") != (number == 1):
            return "run_start must be the first line, and only that"
        if self._last == "run_end":
            return f"{record['type']} after run_end"
        return self._other_run(record["run"])

    def _other_run(self, run: str) -> str:
        """A log holds one run, and its file is named after it."""
        if self._run is None:
            self._run = run
            return name_problem(self._stem, run) if self._stem is not None else ""
        return "" if run == self._run else f"run: {run!r} in the log of {self._run!r}"


def report(path: Path, verdict: Verdict) -> None:
    """One line for a valid log; one per problem, on stderr, for another."""
    for number, reason in verdict.problems[:MOST_PROBLEMS]:
        print(f"{path}:{number}: {reason}", file=sys.stderr)
    if len(verdict.problems) > MOST_PROBLEMS:
        print(f"{path}: {len(verdict.problems) - MOST_PROBLEMS} more problems", file=sys.stderr)
    state = "invalid" if verdict.problems else "valid, interrupted (no run_end)" if verdict.interrupted else "valid"
    counts = ", ".join(f"{count} {kind}" for kind, count in verdict.counts.items())
    print(f"{path}: {state}; {verdict.counts.total()} events: {counts or 'none'}")


def check_file(path: Path, *, strict: bool) -> int:
    """Exit code for one log."""
    try:
        with path.open("rb") as lines:
            verdict = check(lines, path.stem)
    except OSError as error:
        print(f"{path}: cannot be read ({error.strerror})", file=sys.stderr)
        return 2
    report(path, verdict)
    return int(bool(verdict.problems) or (strict and verdict.interrupted))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the worst exit code of all logs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("logs", nargs="*", type=Path, metavar="LOG")
    parser.add_argument("--strict", action="store_true", help="a log without run_end is wrong")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of a line")
    args = parser.parse_args(argv)
    if args.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    if not args.logs:
        parser.error("name at least one log, for example artifacts/run_logs/*.log")
    return max(check_file(path, strict=args.strict) for path in args.logs)


if __name__ == "__main__":
    sys.exit(main())
