"""Sums consecutive ticks into one event, and their edits into what these come to.

A tick per token must not become a line per token: while text flows, blocks come and go many times within a sum. The
edits that go out lead from the view before the sum to the view after it; blocks that are as they were are named in
the tick's `transient`. A turn leaves with what its own ticks come to.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from megacontext.telemetry.events import Collapse, Event, Expand, MemoryOpened, Tick, Turn
from megacontext.telemetry.sinks import Sink
from megacontext.telemetry.sums import OF_TURN, Sums, summarise, with_figures

LONGEST_SUM = 32
TRANSIENT_ROOM = 200  # characters for naming blocks that came and went: a sum's line stays below a kilobyte
RARE_ROOM = 110  # of these, what the figures take that few ticks have

Edit = Expand | Collapse


class TickSummary:
    """A sink before a sink: ticks leave it as sums of up to `every`, preceded by their edits; all else in its order.

    Whatever is neither (a turn, an error, the end) brings out what came before it. A prompt's end is never summed with
    running text: its few edits are what one looks for in a log. May be used from several threads.
    """

    def __init__(self, sink: Sink, every: int = LONGEST_SUM) -> None:
        if not 1 <= every <= LONGEST_SUM:
            raise ValueError(f"every={every}: a tick event sums 1 to {LONGEST_SUM} ticks")
        self._sink = sink
        self._every = every
        self._ticks: list[Tick] = []
        self._edits = Edits()
        self._at_prompt = False
        self._turn = Sums(OF_TURN)
        self._read_again = 0  # tokens of a session from before: its ticks are no turn's
        self._lock = threading.RLock()

    def emit(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Tick):
                self.add(event)
            elif isinstance(event, (Expand, Collapse)):
                self._turn_to(event)
                self._edits.add(event)
            else:
                self.flush()
                self._sink.emit(self._to_turn(event))

    def add(self, tick: Tick) -> None:
        """Take one tick; the sum goes out when it is full. A tick that is a sum already goes out by itself."""
        if tick.history_tokens is None or tick.history_tokens > self._read_again:
            self._turn.add(tick)
        self._turn_to(tick)
        if tick.ticks > 1:
            self.flush()
            self._sink.emit(tick)
            return
        self._ticks.append(tick)
        if len(self._ticks) >= self._every or self._crowded(tick.history_tokens or 0):
            self.flush()

    def _crowded(self, history: int) -> bool:
        """Whether the blocks that came and went take all the room they have, at the width of the last position."""
        rare = any(tick.delta_nll is not None or tick.disk_bytes is not None for tick in self._ticks)
        named = len(self._edits.transient) * (len(str(history)) + 1)
        return named >= TRANSIENT_ROOM - (RARE_ROOM if rare else 0)

    def _turn_to(self, event: Tick | Edit) -> None:
        """A prompt's end and running text are summed apart."""
        at_prompt = (event.reason or "").startswith("prompt")
        if at_prompt != self._at_prompt:
            self.flush()
        self._at_prompt = at_prompt

    def _to_turn(self, event: Event) -> Event:
        """A turn takes its ticks' figures along, and the next one begins; so does the first of an opened memory."""
        if not isinstance(event, (Turn, MemoryOpened)):
            return event
        sums, self._turn = self._turn, Sums(OF_TURN)
        if isinstance(event, Turn):
            return with_figures(event, sums)
        self._read_again = event.recovered_tokens
        return event

    def flush(self) -> None:
        """Emit what has been collected, if anything."""
        with self._lock:
            ticks, self._ticks = self._ticks, []
            edits, self._edits = self._edits, Edits()
            for edit in edits.net():
                self._sink.emit(edit)
            if ticks:
                self._sink.emit(replace(summarise(ticks), transient=sorted(edits.transient) or None))

    def close(self) -> None:
        self.flush()
        self._sink.close()


class Edits:
    """Edits by span: the level before the first, and the last. transient: starts of blocks that are as they were."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, int], int] = {}
        self._last: dict[tuple[int, int], Edit] = {}
        self.transient: set[int] = set()

    def add(self, edit: Edit) -> None:
        span = (edit.start, edit.end)
        before = self._before.setdefault(span, edit.from_level)
        self._last[span] = edit
        if min(edit.from_level, edit.to_level) == 0:  # a block; what is coarser follows from its blocks
            (self.transient.add if edit.to_level == before else self.transient.discard)(edit.start)

    def net(self) -> list[Edit]:
        """The last edit of each span whose level changed, in an order that can be applied: folds from fine to coarse,
        then expansions from coarse to fine.
        """
        changed = [edit for span, edit in self._last.items() if edit.to_level != self._before[span]]
        folds = [edit for edit in changed if isinstance(edit, Collapse)]
        opened = [edit for edit in changed if isinstance(edit, Expand)]
        return [*sorted(folds, key=lambda e: e.to_level), *sorted(opened, key=lambda e: -e.from_level)]
