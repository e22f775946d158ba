"""The runbook's list of troubles as a tool: looks at configuration, folders, model and packages, and at event logs.

    python -m tools.doctor                                 everything that the chat needs
    python -m tools.doctor --config FILE                   what another configuration needs
    python -m tools.doctor --log artifacts/run_logs/NAME.log      and how that run went
    python -m tools.doctor --log latest                    the newest log in the configuration's folder
    python -m tools.doctor --online                        asks the hub, too; nothing else uses the network

A line a check: ok, warn (works, in a lesser way) or fail, with the remedy below it.
Exit codes: 0 nothing fails, 1 something does, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # `python tools/doctor.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from tools.diagnosis.finding import Finding

CONFIG = "configs/megacontext_demo.yaml"
LATEST = "latest"
WORST_FIRST = ("fail", "warn", "ok")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = parser().parse_args(argv)
    if options.log and options.log != LATEST and not Path(options.log).is_file():
        parser().error(f"no log at {options.log}; `--log {LATEST}` takes the newest")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    found = list(findings(options.config, options.log, online=options.online))
    show_json(found) if options.json else show(found)
    return int(any(finding.state == "fail" for finding in found))


def findings(config: str, log: str | None, *, online: bool) -> Iterator[Finding]:
    """All families of checks. Where a package is missing the rest is skipped: the first family says how to get it."""
    from tools.diagnosis import environment
    from tools.diagnosis.finding import BOOTSTRAP, fail

    yield from environment.examine(os.environ, online=online)
    try:
        from tools.diagnosis import assets
    except ImportError as error:
        yield fail("config", f"cannot be checked: {error}", f"`{BOOTSTRAP} --only env`, then run with .venv's Python")
        return
    subject, found = assets.examine(config)
    yield from found
    if log:
        yield from of_log(subject.log_dir, log)


def of_log(folder: Path, log: str) -> Iterator[Finding]:
    """How a run went. log: a file, or `latest`."""
    from tools.diagnosis import log as logs
    from tools.diagnosis.finding import fail

    path = logs.newest(folder) if log == LATEST else Path(log)
    if path is None:
        remedy = "run the chat once, with MEGACONTEXT_ENABLE_WANDB=0; if there still is none, see run_logs above"
        yield fail("log", f"there is no event log in {folder}", remedy)
        return
    try:
        read = logs.read(path)
    except OSError as error:
        yield fail(
            "log", f"{path} cannot be read ({error.strerror})", "logs are for their owner alone: become that user"
        )
        return
    yield from logs.examine(read)


def show(found: list[Finding]) -> None:
    """A line a check, the remedy below; a line for all at the end."""
    for finding in found:
        print(f"{finding.state:<5} {finding.check:<12} {finding.what}{finding.place}")
        if finding.remedy:
            print(f"{'':<18} -> {finding.remedy}")
    counts = {state: sum(finding.state == state for finding in found) for state in WORST_FIRST}
    print(", ".join(f"{count} {state}" for state, count in counts.items()))


def show_json(found: list[Finding]) -> None:
    """One object: the worst state, and every check."""
    worst = next(state for state in WORST_FIRST if any(f.state == state for f in found) or state == "ok")
    print(json.dumps({"state": worst, "checks": [finding.as_json() for finding in found]}, indent=1))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m tools.doctor",
        description=(__doc__ or "").partition("\n")[0],
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--config", default=CONFIG, metavar="FILE", help=f"the chat's, or an earlier one ({CONFIG})")
    result.add_argument("--log", metavar="LOG", help=f"an event log, or {LATEST}")
    result.add_argument("--online", action="store_true", help="ask the hub, with a few seconds of patience")
    result.add_argument("--json", action="store_true", help="one JSON object")
    return result


if __name__ == "__main__":
    sys.exit(main())
