"""The fault programme: does harm to a memory in every way that is known, and counts what does not survive.

    python -m tools.faults                 at the figures of CI, about three minutes on two cores
    python -m tools.faults --scale 10      ten times as much (make faults)
    python -m tools.faults --only soak     one row; may be repeated

    kill_writers    kill -9 of a writer of the token log      restored        sessions taken up bit for bit
    kill_chats      kill -9 of the real chat as it streams    state_machine   a memory on disk against a dictionary
    crash_sites     an end at every write, sync and rename    fuzz            nearly right inputs for every parser
    damage          files cut and flipped at every byte       soak            hundreds of turns, flat memory and time
    failing_disk    errors, a full disk, short writes         power_cuts      what was not synced is lost, in any order

A line a row goes to stderr as it ends, what was lost with it; the last line, on stdout, sums up. Everything that is
drawn depends on --seed alone, but for the moment of a kill. Exit code 0: nothing was lost; 1: something was, and the
files that show it stay where the row's line says; 2 usage.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

if __package__ in (None, ""):  # `python tools/faults.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.fault_programme import forks
from tools.fault_programme.row import Outcome, Plan, Row

ROOT = Path(__file__).resolve().parents[1]
ROWS = (  # those that take longest first, so that two at a time end together
    *("fuzz", "crash_sites", "failing_disk", "state_machine", "kill_chats"),
    *("soak", "power_cuts", "damage", "restored", "kill_writers"),
)
NEED_NO_FORK = ("damage", "state_machine", "soak")
IN_MEMORY = (  # no need of a real disk: theirs is ours
    *("failing_disk", "crash_sites", "power_cuts", "damage", "fuzz", "state_machine"),
)
MEMORY_DISK = Path("/dev/shm")


def run_row(name: str, scale: float, seed: int) -> Outcome:
    """One row in this process."""
    if name not in NEED_NO_FORK and not forks.CAN_FORK:
        return Outcome(said="left out: this system has no fork")
    row: Row = importlib.import_module(f"tools.fault_programme.{name}").run
    fast = MEMORY_DISK if name in IN_MEMORY and os.access(MEMORY_DISK, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{name}-", dir=fast))
    started, outcome = time.monotonic(), Outcome()
    try:
        outcome = row(Plan(name, folder, scale, seed))
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        outcome.said = "left out: it needs hypothesis, of the development tools"
    finally:
        if not outcome.missing:
            shutil.rmtree(folder, ignore_errors=True)
    outcome.seconds = time.monotonic() - started
    outcome.lost += [f"the files are in {folder}"] * bool(outcome.missing)
    return outcome


def run_apart(name: str, scale: float, seed: int) -> Outcome:
    """One row in a process of its own, which nothing of this one's environment steers."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MEGACONTEXT_")}
    environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "tools.faults", "--only", name, "--json"]
    command += ["--scale", str(scale), "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, encoding="utf-8", errors="replace")
    try:
        return Outcome(**json.loads(done.stdout)["rows"][name])
    except (ValueError, KeyError, TypeError):
        said = f"the row itself ended with exit code {done.returncode}"
        return Outcome(missing=1, lost=[f"{said}: {done.stderr.strip()[-2000:]}"], said=said)


def summary(outcomes: Iterable[Outcome]) -> str:
    """The one line."""
    done = list(outcomes)
    faults, survived, kills, torn, missing = (
        sum(getattr(outcome, name) for outcome in done) for name in ("faults", "survived", "kills", "torn", "missing")
    )
    counts = Counter(count for outcome in done for count in outcome.fuzzed.values())
    fuzz = " + ".join(f"{parsers} x {count:,}" for count, parsers in sorted(counts.items(), reverse=True))
    return (
        f"faults {faults:,} injected, {survived:,} survived; {kills:,} kill -9 ({torn:,} torn tails); "
        f"fuzz {fuzz or '0 x 0'}; {missing:,} lost"
    )


def tell(name: str, outcome: Outcome) -> None:
    """A row's line, and what it lost, on stderr."""
    figures = [f"{outcome.survived:,} of {outcome.faults:,} faults survived"] if outcome.faults else []
    figures += [f"{outcome.kills:,} kill -9, {outcome.torn:,} torn tails"] if outcome.kills else []
    figures += [f"{sum(outcome.fuzzed.values()):,} inputs"] if outcome.fuzzed else []
    lost = f"{outcome.missing:,} LOST" if outcome.missing else "0 lost"
    print(
        f"{name:<14}{outcome.seconds:>6.0f} s  {'; '.join([lost, *figures, outcome.said])}", file=sys.stderr, flush=True
    )
    for line in outcome.lost:
        print(f"    {line}", file=sys.stderr, flush=True)


def run_all(names: Sequence[str], scale: float, seed: int, jobs: int) -> dict[str, Outcome]:
    """Rows side by side, each told as it ends."""
    found: dict[str, Outcome] = {}
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(run_apart, name, scale, seed): name for name in names}
        for done in as_completed(waiting):
            found[waiting[done]] = done.result()
            tell(waiting[done], done.result())
    return found


def build_parser() -> argparse.ArgumentParser:
    about, _, more = (__doc__ or "").partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tools.faults", description=about, epilog=more, formatter_class=raw)
    parser.add_argument("--scale", type=float, default=1.0, metavar="N", help="times the figures of CI (default 1)")
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW", help="this row; may be repeated")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default 0)")
    parser.add_argument("--jobs", type=int, metavar="N", help="rows at a time (default: one a core, two at most)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the last line")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if anything was lost."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if not 0 < args.scale <= 1000:
        parser.error(f"--scale {args.scale}: between 0 and 1000")
    names = args.only or ROWS
    print(f"seed {args.seed}, scale {args.scale:g}", file=sys.stderr, flush=True)
    if len(names) == 1:
        found = {names[0]: run_row(names[0], args.scale, args.seed)}
        tell(names[0], found[names[0]])
    else:
        found = run_all(names, args.scale, args.seed, args.jobs or min(os.cpu_count() or 1, 2))
    line = summary(found.values())
    rows = {name: outcome.as_json() for name, outcome in found.items()}
    print(json.dumps({"summary": line, "seed": args.seed, "rows": rows}) if args.json else line)
    return int(any(outcome.missing for outcome in found.values()))


if __name__ == "__main__":
    sys.exit(main())
