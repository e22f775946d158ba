"""What an event log tells: whether it is whole, what failed, what went on in a lesser way, how the memory did.

What the figures of the memory mean is `memory.py`'s.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megacontext.telemetry.schema import InvalidEvent, validate_line
from tools.diagnosis.finding import Finding, fail, ok, warn
from tools.diagnosis.memory import examine as examine_memory
from tools.event_log import newest as newest_of
from tools.validate_log import check

Record = dict[str, Any]
Problem = tuple[int, str]  # line number from 1, reason
INTERRUPTED = 130
LONGEST_MESSAGE = 600
SEVERAL = 5  # errors and warnings that are shown; the rest is counted


@dataclass(frozen=True)
class Log:
    """The events of one file. damaged: lines that are none, with the reason. odd: events that stand in a wrong place,
    or whose figures disagree. torn: the last line has no end.
    """

    path: Path
    records: list[Record] = field(default_factory=list)
    damaged: list[Problem] = field(default_factory=list)
    odd: list[Problem] = field(default_factory=list)
    interrupted: bool = False
    torn: bool = False

    def of_type(self, *types: str) -> list[Record]:
        return [record for record in self.records if record["type"] in types]


def newest(folder: Path) -> Path | None:
    """The event log that was written to last."""
    return next(iter(newest_of(folder.glob("*.log"))), None)


def read(path: Path) -> Log:
    """Raises OSError."""
    lines = path.read_bytes().splitlines(keepends=True)
    torn = bool(lines) and not lines[-1].endswith(b"\n")
    whole = lines[:-1] if torn else lines
    verdict = check(whole)
    doubtful = {number for number, _ in verdict.problems}
    wrong = {number for number in doubtful if number > len(whole) or not _is_event(whole[number - 1])}
    records = [json.loads(line) for number, line in enumerate(whole, 1) if number not in wrong]
    damaged = [problem for problem in verdict.problems if problem[0] in wrong]
    odd = [problem for problem in verdict.problems if problem[0] not in wrong]
    return Log(path, records, damaged, odd, verdict.interrupted, torn)


def _is_event(line: bytes) -> bool:
    """Whether a line is right in itself, and only stands in a wrong place."""
    try:
        validate_line(line)
    except InvalidEvent:
        return False
    return True


def examine(log: Log) -> Iterator[Finding]:
    """All checks of this family."""
    yield _summary(log)
    yield from _shape(log)
    yield from _errors(log.of_type("error", "run_end"))
    yield from _warnings(log.of_type("warning"))
    yield from _model(log.of_type("model_loaded"))
    yield from _replies(log.of_type("turn"))
    yield from examine_memory(log.records)


def _summary(log: Log) -> Finding:
    counts = Counter(record["type"] for record in log.records)
    program = next((record["program"] for record in log.of_type("run_start")), "an unknown program")
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return ok("log", f"{log.path}: {program}; {said or 'no event'}")


def _shape(log: Log) -> Iterator[Finding]:
    names_all = f"python -m tools.validate_log {log.path} names all"
    if log.damaged:
        yield fail("log lines", _first(log.damaged), f"{names_all}; a log of another version needs that version")
    if log.odd:
        yield warn("log figures", _first(log.odd), f"{names_all}; lines may be missing, or an older version wrote them")
    if log.torn:
        remedy = (
            "the run was killed while it wrote, or still writes; what stands before is whole. Check the disk's room"
        )
        yield warn("log end", "the last line is torn", remedy)
    if log.interrupted and log.records:
        last = log.records[-1]
        remedy = (
            "if it is not still running it was killed: look for an out-of-memory kill, or run it again with --debug"
        )
        yield Finding("warn", "run", f"no run_end: interrupted after {last['type']}", remedy, seq=last["seq"])


def _first(problems: list[Problem]) -> str:
    number, reason = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"line {number}: {_short(reason)}{more}"


def _errors(records: Sequence[Record]) -> Iterator[Finding]:
    errors = [record for record in records if record["type"] == "error"]
    for record in errors[:SEVERAL]:
        said = f"{record['kind']}: {_short(record['message'])}"
        yield Finding("fail", "error", said, _error_remedy(record), seq=record["seq"])
    if len(errors) > SEVERAL:
        yield fail("error", f"{len(errors) - SEVERAL} more errors", "see the log")
    code = next((record["exit_code"] for record in records if record["type"] == "run_end"), 0)
    if code not in (0, INTERRUPTED) and not errors:
        remedy = "run it again with --debug, which shows every event"
        yield warn("run", f"exit code {code}, and no error in the log", remedy)


def _error_remedy(record: Record) -> str:
    """An error that a user can mend says how in its message; any other is a bug with a traceback."""
    known = ("ConfigError", "MissingAsset", "StoreError", "BudgetError", "ModelFileError")
    if record["kind"] in known:
        return "as the message says"
    return f"the traceback is in the log, seq {record['seq']}; send log and configuration with a report"


def _warnings(records: Sequence[Record]) -> Iterator[Finding]:
    """One finding a message, however often it was said."""
    counts = Counter(record["message"] for record in records)
    first = {record["message"]: record for record in reversed(records)}
    for message, count in counts.most_common(SEVERAL):
        times = f" ({count} times)" if count > 1 else ""
        remedy = first[message].get("hint") or "see the events around it in the log"
        yield Finding("warn", "warning", f"{_short(message)}{times}", remedy, seq=first[message]["seq"])
    if len(counts) > SEVERAL:
        yield warn("warning", f"{len(counts) - SEVERAL} more kinds of warnings", "see the log")


def _model(records: Sequence[Record]) -> Iterator[Finding]:
    for record in records:
        seed = record.get("summary", {}).get("seeded")
        if seed is not None:
            said = f"{record['name']} is made up: random weights (seed {seed}); its text means nothing"
            remedy = "with a network, python tools/bootstrap_env.py --hub sshleifer/tiny-gpt2 brings the real one"
            yield Finding("warn", "model", said, remedy, seq=record["seq"])


def _replies(records: Sequence[Record]) -> Iterator[Finding]:
    """An empty output is one of the runbook's troubles; a document that was read, or a stop by hand, is none."""
    empty = [r for r in records if not r["generated_tokens"] and r["stop"] not in ("read", "interrupted")]
    if empty:
        said = f"{len(empty)} of {len(records)} replies are empty"
        remedy = "say it in other words, or raise chat.temperature; look at the memory's findings below"
        yield Finding("warn", "replies", said, remedy, seq=empty[0]["seq"])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[: LONGEST_MESSAGE - 3]}..."
