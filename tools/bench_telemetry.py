"""What telemetry costs: microseconds and bytes an event, through the whole chain of sinks of a run.

    python -m tools.bench_telemetry            a table
    python -m tools.bench_telemetry --json     the same for programs
    python -m tools.bench_telemetry --check    exit code 1 if a limit is passed

Events go into a real log file, through the sinks that a run has: scrubbing, sums of ticks, JSON lines. A case is a
cycle of events, and its time is shared out to them:

    tick       32 ticks with every figure there is; one line
    edit       32 edits of different blocks, and the tick that brings them out; 33 lines
    line       a tick that is written at once: what one line costs
    turn       a tick, and the turn that it belongs to; 2 lines

Limits: 50 us an event, median and 95th percentile, and 1,024 bytes a line. Times are those of the quietest of some
rounds: another program on the machine is not the telemetry's cost. Exit code 0; with --check 1 if a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # `python tools/bench_telemetry.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from megacontext.telemetry.events import Event
    from megacontext.telemetry.sinks import Sink

LIMIT_US = 50.0
LIMIT_BYTES = 1024
ROUNDS, CYCLES, LONGEST = 10, 50, 100
HISTORY, BLOCK = 131_072, 32

Cycle = Callable[[int], "list[Event]"]  # number of the cycle -> its events


def full_tick(index: int, ticks: int = 1) -> Event:
    """A tick that has every figure."""
    from megacontext.telemetry.events import Tick

    times = {"score": 0.2131, "plan": 0.1042, "page": 0.3173, "assemble": 0.2514, "forward": 15.0125}
    return Tick(
        tick=index,
        ticks=ticks,
        reason="text",
        history_tokens=HISTORY + index,
        working_budget=1024,
        active_slots=1020,
        utilization=0.9961,
        swap_rate=0.0312,
        residency=0.9706,
        mean_residency_ticks=12.51,
        num_expand=2,
        num_collapse=2,
        refused=1,
        faults=2,
        recomputed_blocks=0,
        lod_counts={0: 30, 1: 4062, 2: 31},
        delta_nll=0.0213,
        delta_nll_baseline="exact",
        delta_nll_ms=141.2,
        latency_ms={**times, "total": round(sum(times.values()), 4)},
        baseline_ms=15.012,
        resident_bytes=1_503_238_553,
        disk_bytes=2_503_238_553,
        pages_moved=2,
        bytes_moved=4_718_592,
    )


def edit(index: int, finer: int | None = None) -> Event:
    """A block comes or goes: by turns, or as `finer` (1: it comes) says."""
    from megacontext.telemetry.events import Collapse, Expand

    start = index % (HISTORY // BLOCK) * BLOCK
    before = index % 2 if finer is None else finer
    kind = Expand if before else Collapse
    return kind(
        tick=HISTORY,
        start=start,
        end=start + BLOCK,
        from_level=before,
        to_level=1 - before,
        score=0.3512,
        reason="text, forced by the budget",
    )


def turn(number: int) -> Event:
    from megacontext.telemetry.events import Turn

    return Turn(
        turn=number,
        prompt_tokens=2048,
        generated_tokens=256,
        history_tokens=HISTORY + number,
        stop="max_tokens",
        name="a-document-with-a-name.txt",
        ttft_ms=1234.567,
        tokens_per_second=21.31,
        itl_p50_ms=46.912,
        itl_p95_ms=58.138,
        resident_bytes=1_503_238_553,
        notes="configs/megacontext_demo.yaml",
    )


CASES: dict[str, Cycle] = {
    "tick": lambda n: [full_tick(32 * n + i) for i in range(32)],
    "edit": lambda n: [*(edit(32 * n + i) for i in range(32)), full_tick(n, ticks=2)],
    "line": lambda n: [full_tick(n, ticks=2)],
    "turn": lambda n: [full_tick(n), turn(n)],
}


def measure(cycle: Cycle, sink: Sink) -> dict[str, float]:
    """Microseconds an event, median and 95th percentile over the cycles of the quietest round."""
    from megacontext.telemetry.timing import percentile

    rounds = [[timed(cycle(round_ * CYCLES + i), sink) for i in range(CYCLES)] for round_ in range(ROUNDS)]
    quiet = min(rounds, key=lambda took: percentile(took, 0.95))
    return {"us_median": round(median(quiet), 1), "us_p95": round(percentile(quiet, 0.95), 1)}


def timed(events: list[Event], sink: Sink) -> float:
    """Microseconds an event."""
    started = perf_counter()
    for event in events:
        sink.emit(event)
    return (perf_counter() - started) / len(events) * 1e6


def longest_lines(sink: Sink) -> None:
    """Ticks with every figure, and in each four more blocks that came and went: sums as long as they get."""
    far = HISTORY // BLOCK - 4 * LONGEST
    for tick in range(LONGEST):
        for index in range(far + 4 * tick, far + 4 * tick + 4):
            sink.emit(edit(index, finer=0))
            sink.emit(edit(index, finer=1))
        sink.emit(full_tick(HISTORY + tick))


def line_sizes(log: Path) -> dict[str, dict[str, float]]:
    """Bytes of the lines by type of event, the newline included."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for line in log.read_bytes().splitlines(keepends=True):
        sizes[json.loads(line)["type"]].append(len(line))
    return {kind: {"bytes_median": median(found), "bytes_max": max(found)} for kind, found in sizes.items()}


def bench(folder: Path) -> dict[str, Any]:
    """All cases into one log below `folder`."""
    from megacontext.telemetry.run import RunLog
    from megacontext.telemetry.sinks import JsonlSink

    log = RunLog(JsonlSink(folder, "bench_telemetry"), sinks=[], extra=[], note=print)
    events = {name: measure(cycle, log.sink) for name, cycle in CASES.items()}
    longest_lines(log.sink)
    log.sink.close()
    return {"limit_us": LIMIT_US, "limit_bytes": LIMIT_BYTES, "events": events, "lines": line_sizes(log.path)}


def passed_limits(found: dict[str, Any]) -> list[str]:
    """What is over a limit, in words."""
    slow = [(name, key, value, LIMIT_US) for name, row in found["events"].items() for key, value in row.items()]
    long = [(name, key, value, LIMIT_BYTES) for name, row in found["lines"].items() for key, value in row.items()]
    return [
        f"{name}: {key} {value:g}, the limit is {limit:g}" for name, key, value, limit in slow + long if value > limit
    ]


def show(found: dict[str, Any]) -> None:
    print(f"{'event':<10}{'us, median':>12}{'us, p95':>12}   limit {LIMIT_US:g}")
    for name, row in found["events"].items():
        print(f"{name:<10}{row['us_median']:>12}{row['us_p95']:>12}")
    print(f"\n{'line':<10}{'bytes, median':>14}{'bytes, max':>12}   limit {LIMIT_BYTES}")
    for name, row in found["lines"].items():
        print(f"{name:<10}{row['bytes_median']:>14g}{row['bytes_max']:>12}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if --check found a limit passed, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--check", action="store_true", help="fail if a limit is passed")
    args = parser.parse_args(argv)
    with TemporaryDirectory() as folder:
        found = bench(Path(folder))
    if args.json:
        print(json.dumps(found))
    else:
        show(found)
    passed = passed_limits(found)
    for line in passed:
        print(line, file=sys.stderr)
    return int(args.check and bool(passed))


if __name__ == "__main__":
    sys.exit(main())
