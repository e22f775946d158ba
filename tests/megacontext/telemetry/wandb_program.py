"""A program that records a run of two turns with the W&B sink, for tests to start: `python wandb_program.py FOLDER`.

Beside it an event log as every run has one. stdout: one JSON object with the seconds that beginning and closing took.
A second argument names what happens half-way: `kill` (wandb's service dies), `raise`, or a path that is then made.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from megacontext.telemetry.events import ModelLoaded, RunEnd, RunStart, Tick, Turn
from megacontext.telemetry.sinks import FanOut, JsonlSink
from megacontext.telemetry.ticks import TickSummary
from megacontext.telemetry.wandb_sink import WandbSink

SECRET = "canary-in-the-config"
TICKS_A_TURN = 70


def tick(index: int) -> Tick:
    """Every kind of field: counts, shares, times, a name, a list, levels, a number that is none."""
    return Tick(
        tick=index,
        reason="text",
        active_slots=100 + index,
        swap_rate=index / 7,
        utilization=math.nan,
        num_expand=index % 3,
        lod_counts={0: index, 1: 2},
        latency_ms={"plan": 0.25 + index, "total": 1.5 + index},
        delta_nll=0.125 if index % 10 == 0 else None,
        delta_nll_baseline="exact" if index % 10 == 0 else None,
        transient=[32 * index],
    )


def turn(index: int) -> Turn:
    return Turn(turn=index, prompt_tokens=5 + index, generated_tokens=7, history_tokens=12 * index, stop="stop")


def half_way(what: str) -> None:
    if what == "raise":
        raise RuntimeError("half-way")
    if what == "kill":
        for child in Path("/proc/self/task", str(os.getpid()), "children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        time.sleep(0.5)
    elif what:
        Path(what).touch()


def note(line: str) -> None:
    print(line, file=sys.stderr)


def main(folder: Path, what: str = "") -> None:
    file = JsonlSink(folder, "program")
    config = {"budget": 512, "api_key": SECRET, "note": f"uses {os.environ.get('WANDB_API_KEY', '')}"}
    wandb = WandbSink("chat/20250131T120000Z", "tests", None, config, folder, note, warn=file.emit)
    sink = TickSummary(FanOut([file, wandb]))
    started = time.monotonic()
    sink.emit(RunStart(program="chat", versions={"python": "3"}))
    begun = time.monotonic()
    try:
        sink.emit(ModelLoaded(name="toy", fingerprint="f00", load_ms=1.0, summary={"layers": 2}))
        for index in (1, 2):
            for step in range(TICKS_A_TURN):
                sink.emit(tick(index * TICKS_A_TURN + step))
            sink.emit(turn(index))
            if index == 1:
                half_way(what)
        sink.emit(RunEnd(exit_code=0, seconds=1.0, totals=file.counts))
    finally:
        closing = time.monotonic()
        sink.close()
        times = {"begin_s": begun - started, "close_s": time.monotonic() - closing, "failure": repr(wandb.failure)}
        print(json.dumps(times))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
