"""Hundreds of turns of one conversation on disk: resident memory and the time of a tick stay what they were.

What the process holds may grow by MOST_A_TOKEN bytes a token between the first half and the end: the ids themselves,
and what is known of each block, here of 8 tokens. What a token takes of the processor may be SLOWER times what it was;
other programs on the machine touch that less than the time on the wall.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, NamedTuple

from tools.fault_programme import toy_talk
from tools.fault_programme.row import Outcome, Plan

if TYPE_CHECKING:
    from megacontext.telemetry.events import Event

TURNS, PARTS = 500, 10  # what is measured is measured so many times
MAX_TOKENS = 6
MOST_A_TOKEN = 100  # bytes
SLOWER = 1.5


class Mark(NamedTuple):
    """After some turns: tokens of history, resident bytes; and since the mark before, ms of a tick and us of processor
    a token.
    """

    tokens: int
    resident: int
    tick_ms: float
    token_us: float


def run(plan: Plan) -> Outcome:
    outcome, turns = Outcome(), plan.count(TURNS, least=2 * PARTS)
    marks = _marks(plan, turns)
    half, last = marks[PARTS // 2 - 1], marks[-1]
    growth = (last.resident - half.resident) / (last.tokens - half.tokens)
    slower = _best(marks[-3:]) / _best(marks[PARTS // 2 - 3 : PARTS // 2])
    if turns >= TURNS:  # a short run says nothing
        outcome.check(f"{growth:.0f} more bytes a token" if growth > MOST_A_TOKEN else "")
        outcome.check(f"tokens take {slower:.2f} times as long" if slower > SLOWER else "")
    outcome.said = (
        f"{turns} turns, {last.tokens:,} tokens; {last.resident / 1e6:.0f} MB resident, {growth:+.0f} bytes a token "
        f"since turn {turns // 2}; a token takes {slower:.2f} times what it did then, a tick {last.tick_ms:.1f} ms"
    )
    return outcome


def _best(marks: Sequence[Mark]) -> float:
    return min(mark.token_us for mark in marks)


def _marks(plan: Plan, turns: int) -> list[Mark]:
    loaded, ticks, rng, marks = toy_talk.load("llama", plan.folder / "model"), Ticks(), plan.rng(), list[Mark]()
    talk = toy_talk.open_talk(
        loaded, plan.folder, lambda logits: int(logits.argmax()), max_tokens=MAX_TOKENS, sink=ticks
    )
    for part in range(PARTS):
        before, started = len(talk.session), time.process_time()
        for _ in range(turns * (part + 1) // PARTS - turns * part // PARTS):
            talk.say(toy_talk.sentence(rng))
        took = (time.process_time() - started) / (len(talk.session) - before) * 1e6
        marks.append(Mark(len(talk.session), resident_bytes(), ticks.lower_quartile(), took))
    talk.close()
    return marks


class Ticks:
    """A sink: how long ticks took."""

    def __init__(self) -> None:
        self._ms: list[float] = []

    def emit(self, event: Event) -> None:
        from megacontext.telemetry.events import Tick

        if isinstance(event, Tick) and event.latency_ms is not None:
            self._ms.append(event.latency_ms["total"])

    def close(self) -> None:
        """Nothing to close."""

    def lower_quartile(self) -> float:
        """Of the ticks since this was last asked, ms."""
        found, self._ms = self._ms, []
        return quantiles(found, n=4)[0] if len(found) > 1 else found[0]


def resident_bytes() -> int:
    """What the process holds now, mapped files aside, garbage given back before; where Linux is not, its peak."""
    gc.collect()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).malloc_trim(0)
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
