"""Why a span stands as it stands: the last edit of each span, and the words for it.

A sink, given the edits of every tick as they happen, or those of a log. It keeps at most `most` spans (8,192: about
3 MB), the ones edited last, and says when an answer may be lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from megacontext.context import WorkingContext
from megacontext.span import Span
from megacontext.telemetry.events import Collapse, Event, Expand, MemoryOpened, Tick

Edit = Expand | Collapse
MOST_SPANS = 8192
_NUMBERS = ("tick", "start", "end", "from_level", "to_level")
OCCASIONS = {
    "budget": "when the budget was full",
    "text": "while text flowed",
    "prompt": "when a prompt ended",
}


class EditLedger:
    """Implements `Sink`. forgotten: the newest tick of which an edit was dropped to keep the ledger small, or -1.

    began: the first tick it knows of, None before there is one; more than 0 where a kept memory was taken up.
    began_in_view: the same for the entries in view, whose last edits are kept with them.
    """

    def __init__(self, most: int = MOST_SPANS) -> None:
        self.most = most
        self.forgotten = -1
        self.began: int | None = None
        self.began_in_view: int | None = None
        self._packed: dict[str, Any] | None = None  # what `state` says of these, if it was asked for
        self._last: dict[tuple[int, int], Edit] = {}  # the one edited longest ago stands first
        self._wavered: dict[int, int] = {}  # start of a block that changed and changed back in a sum -> its last tick

    def emit(self, event: Event) -> None:
        if isinstance(event, (Expand, Collapse)):
            self._add(event)
        elif isinstance(event, Tick):
            self.begin(event.tick - event.ticks + 1)
            self._wavered.update(dict.fromkeys(event.transient or (), event.tick))
            while len(self._wavered) > self.most:
                self._wavered.pop(next(iter(self._wavered)))
        elif isinstance(event, MemoryOpened):
            self._last.clear()
            self._wavered.clear()
            self._packed = None
            self.forgotten, self.began, self.began_in_view = -1, None, None

    def begin(self, tick: int, kept: EditLedger | None = None) -> None:
        """A memory as an earlier run kept it goes on with `tick`; that has no effect once there was one.

        kept: the last edits of the entries in view, those of earlier runs, too.
        """
        self.began = tick if self.began is None else self.began
        if kept is not None:
            self._last = {**{span: edit for span, edit in kept._last.items() if span not in self._last}, **self._last}
            self.began_in_view, self._packed = kept.began, None

    @property
    def unknown(self) -> int:
        """The newest tick with an edit that it may not know, or -1."""
        return max(self.forgotten, (self.began or 0) - 1)

    @property
    def unknown_in_view(self) -> int:
        """The newest tick with an edit of an entry in view that it may not know, or -1."""
        began = self.began if self.began_in_view is None else self.began_in_view
        return max(self.forgotten, (began or 0) - 1)

    def keep_only(self, entries: Iterable[Span]) -> None:
        """Forget edits of all others."""
        known = ((entry.start, entry.end) for entry in entries)
        self._last = {span: self._last[span] for span in known if span in self._last}
        self._packed = None

    def state(self) -> dict[str, Any]:
        """All edits, as plain values and arrays; `restore` takes them. Asked for far more often than they change."""
        if self._packed is None:
            self._packed = self._pack()
        return {"began": self.began, **self._packed}

    def _pack(self) -> dict[str, Any]:
        edits = list(self._last.values())
        reasons = sorted({edit.reason for edit in edits if edit.reason is not None})
        return {
            "numbers": np.array([_numbers(edit, reasons) for edit in edits], np.int64).reshape(-1, len(_NUMBERS) + 2),
            "scores": np.array([np.nan if edit.score is None else edit.score for edit in edits], np.float64),
            "reasons": reasons,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Into an empty ledger. Raises ValueError for what are no edits."""
        rows, scores = np.asarray(state["numbers"]).tolist(), np.asarray(state["scores"]).tolist()
        reasons: list[str | None] = [*map(str, state["reasons"]), None]
        for (*numbers, folds, reason), score in zip(rows, scores, strict=True):
            kind = Collapse if folds else Expand
            known = None if math.isnan(score) else float(score)
            self._add(kind(**dict(zip(_NUMBERS, numbers, strict=True)), score=known, reason=reasons[reason]))
        self.began = None if state["began"] is None else int(state["began"])

    def copy(self) -> EditLedger:
        """An independent ledger of the same edits."""
        twin = EditLedger(self.most)
        twin.forgotten, twin.began, twin.began_in_view = self.forgotten, self.began, self.began_in_view
        twin._last, twin._wavered = self._last.copy(), self._wavered.copy()
        return twin

    def _add(self, edit: Edit) -> None:
        self._packed = None
        span = (edit.start, edit.end)
        self._last.pop(span, None)
        self._last[span] = edit
        if len(self._last) > self.most:
            dropped = self._last.pop(next(iter(self._last)))
            self.forgotten = max(self.forgotten, dropped.tick)

    def close(self) -> None:
        """Nothing to let go of."""

    def last(self, span: Span) -> Edit | None:
        """The last edit of `span`, or None: there was none, or it is forgotten. A block and its gist are one span."""
        return self._last.get((span.start, span.end))

    def wavered(self, block: Span) -> int | None:
        """The last tick of a sum in which `block` changed and changed back, if a log told of one."""
        return self._wavered.get(block.start)

    def __len__(self) -> int:
        """Spans whose last edit is known."""
        return len(self._last)


def _numbers(edit: Edit, reasons: list[str]) -> list[int]:
    """With whether it folds, and which of `reasons` it has; -1 for none."""
    reason = -1 if edit.reason is None else reasons.index(edit.reason)
    return [*(getattr(edit, name) for name in _NUMBERS), int(isinstance(edit, Collapse)), reason]


class Protected(NamedTuple):
    """What the allocator never folds: tokens [0, first_end) and those from `recent_start` on."""

    first_end: int
    recent_start: int


def explain(entry: Span, context: WorkingContext, protected: Protected, ledger: EditLedger) -> str:
    """Why `entry`, one of the context's, stands at its level, in half a line. protected: of the same context."""
    since, edit = context.since[context.index(entry.start)], ledger.last(entry)
    if entry.level:
        return _why_folded(entry, context, since, edit, ledger)
    if entry.start < protected.first_end:
        return "exact: the beginning of history always is"
    if entry.start >= protected.recent_start:
        return f"exact: among the newest {context.history - protected.recent_start:,} tokens"
    if isinstance(edit, Expand):
        return f"exact since tick {since}: expanded {occasion(edit)}"
    if since > ledger.unknown_in_view:
        moment = ledger.wavered(entry)
        given = "it never had to give way" if moment is None else f"it gave way for moments, up to tick {moment}"
        return f"exact since it was sealed, at tick {since}: {given}"
    return f"exact since tick {since}: {lost(ledger)}"


def _why_folded(entry: Span, context: WorkingContext, since: int, edit: Edit | None, ledger: EditLedger) -> str:
    if edit is None:
        return f"folded away, and so in view since tick {since}: {lost(ledger)}"
    group = f"as a whole group of {context.grid.fanout}, {_when(edit)}"
    why = occasion(edit) if entry.level == 1 else group
    opened = f"; its group was opened again at tick {since}" if edit.tick < since else ""
    return f"folded away since tick {edit.tick}: {why}{opened}"


def occasion(edit: Edit) -> str:
    """On what occasion, and by what score: `when a prompt ended, score 0.37`."""
    return f"{_when(edit)}, {_score(edit)}"


def _when(edit: Edit) -> str:
    reason, _, forced = (edit.reason or "").partition(", ")
    when = OCCASIONS.get(reason, reason or "for a reason that was not noted")
    return f"{when} ({forced} before its cooldown was over)" if forced else when


def _score(edit: Edit) -> str:
    if edit.score is not None:
        return f"score {edit.score:.2f}"
    if isinstance(edit, Expand) and (edit.reason or "").startswith("prompt"):
        return "as one of its newest tokens"
    return "nothing asked for it"


def lost(ledger: EditLedger) -> str:
    """What is said where the ledger does not know, or no longer."""
    if ledger.unknown > ledger.forgotten:
        return f"why stands in the log of an earlier run (this one began with tick {ledger.began})"
    kept = f"the last edits of {ledger.most:,} spans are kept, some up to tick {ledger.forgotten} are not"
    return f"why is forgotten ({kept})"
