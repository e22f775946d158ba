"""WorkingContext: what is in view, as a value that keeps its own laws. Expand and Collapse: the two edits.

The laws (docs/glossary.md has the words):
L1 the entries and the tail tile history: ordered, no gap, no overlap.   L2 slots <= budget, tail included.
L3 entries lie on the grid.   L5 the first blocks and the newest ones stay exact (the allocator's part).
A breach raises LawError; nothing heals itself. Integers only; nothing here knows of tensors, models or files.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from megacontext.span import Grid, Span


class LawError(AssertionError):
    """A working context that breaks one of its laws: a defect, never a user's mistake."""


class Expand(NamedTuple):
    """The gist `span` gives way to its children."""

    span: Span


class Collapse(NamedTuple):
    """The children of `span`, all of them in view, give way to its gist."""

    span: Span


Edit = Expand | Collapse


def _covering(entries: Sequence[Span], position: int) -> int:
    """Index of the last entry that starts at `position` or before it; -1: none does. Spans compare by their start."""
    return bisect_left(entries, (position + 1,)) - 1


@dataclass(frozen=True)
class WorkingContext:
    """entries: sealed spans in time order. since[i]: the tick at which entries[i] came into view.

    tail: tokens after the last entry, exact. budget: slots. costs[n]: slots of a level-n entry; costs[0] is ignored,
    a page costs its tokens.
    """

    budget: int
    grid: Grid = field(default_factory=Grid)
    costs: tuple[int, ...] = (0, 1, 1, 1, 1)
    entries: tuple[Span, ...] = ()
    since: tuple[int, ...] = ()
    tail: int = 0
    _entry_slots: int = -1

    def __post_init__(self) -> None:
        if self._entry_slots < 0:
            self._check_tiling()
            object.__setattr__(self, "_entry_slots", sum(map(self.cost, self.entries)))

    # --- what can be asked ---

    @property
    def slots(self) -> int:
        """Slots in view, tail included."""
        return self._entry_slots + self.tail

    @property
    def free(self) -> int:
        """Slots that are left; negative between a pass that overfilled and the plan that mends it."""
        return self.budget - self.slots

    @property
    def sealed(self) -> int:
        """Tokens that the entries cover."""
        return self.entries[-1].end if self.entries else 0

    @property
    def history(self) -> int:
        """Tokens of history: entries and tail."""
        return self.sealed + self.tail

    @property
    def levels(self) -> int:
        """The coarsest level there is."""
        return len(self.costs) - 1

    def cost(self, span: Span) -> int:
        """Slots that `span` takes in view."""
        return span.end - span.start if span.level == 0 else self.costs[span.level]

    def index(self, position: int) -> int:
        """Index of the entry that covers the token at `position`. Raises IndexError outside the entries."""
        if not 0 <= position < self.sealed:
            raise IndexError(f"token {position} is in no entry (they cover 0 to {self.sealed})")
        return _covering(self.entries, position)

    def covering(self, position: int) -> Span:
        """The entry that covers the token at `position`."""
        return self.entries[self.index(position)]

    def lod_counts(self) -> dict[int, int]:
        """Entries in view per level."""
        return dict(sorted(Counter(entry.level for entry in self.entries).items()))

    def path(self, page: Span) -> list[Expand]:
        """The expansions that bring `page` (level 0) into view, from the coarsest down; empty if it is there."""
        entry = self.covering(page.start)
        return [Expand(self.grid.node(level, page.start)) for level in range(entry.level, 0, -1)]

    def foldable(self, parent: Span) -> bool:
        """Whether Collapse(parent) is legal: its children, all of them and nothing else, are in view."""
        if not 0 < parent.level <= self.levels or not self.grid.on_grid(parent) or parent.end > self.sealed:
            return False
        at = self.index(parent.start)
        count = 1 if parent.level == 1 else self.grid.fanout
        run = self.entries[at : at + count]
        return len(run) == count and run[0].start == parent.start and all(e.level == parent.level - 1 for e in run)

    # --- what can be done: each returns a new value ---

    def grow(self, tokens: int) -> WorkingContext:
        """`tokens` more tokens in the tail. May overfill the budget until the next plan."""
        return self._with(self.entries, self.since, self.tail + tokens, self._entry_slots)

    def shrink(self, tokens: int) -> WorkingContext:
        """The last `tokens` tokens of the tail are forgotten (a rollback)."""
        if tokens > self.tail:
            raise LawError(f"cannot take {tokens} tokens from a tail of {self.tail}: sealed blocks stay")
        return self._with(self.entries, self.since, self.tail - tokens, self._entry_slots)

    def seal(self, now: int) -> WorkingContext:
        """The first full block of the tail becomes an entry."""
        if self.tail < self.grid.block:
            raise LawError(f"a tail of {self.tail} tokens is no block of {self.grid.block}")
        page = self.grid.page(self.sealed // self.grid.block)
        slots = self._entry_slots + self.cost(page)
        return self._with((*self.entries, page), (*self.since, now), self.tail - self.grid.block, slots)

    def apply(self, edits: Iterable[Edit], now: int) -> WorkingContext:
        """The edits, in order, at tick `now`. Raises LawError for an edit that is not legal there."""
        entries, since, slots = list(self.entries), list(self.since), self._entry_slots
        for edit in edits:
            at, count, new = self._replacement(entries, edit)
            slots += sum(map(self.cost, new)) - sum(map(self.cost, entries[at : at + count]))
            entries[at : at + count] = new
            since[at : at + count] = [now] * len(new)
        return self._with(tuple(entries), tuple(since), self.tail, slots)

    def _replacement(self, entries: Sequence[Span], edit: Edit) -> tuple[int, int, Sequence[Span]]:
        """(index, count, new entries) of one edit; the local half of L1 and L3."""
        span = edit.span
        if not 0 < span.level <= self.levels or not self.grid.on_grid(span):
            raise LawError(f"L3: {span} is no gist of the grid with {self.levels} levels")
        at = _covering(entries, span.start)
        if isinstance(edit, Expand):
            if at < 0 or entries[at] != span:
                raise LawError(f"cannot expand {span}: it is not in view")
            return at, 1, self.grid.children(span)
        children = self.grid.children(span)
        if at < 0 or tuple(entries[at : at + len(children)]) != children:
            raise LawError(f"cannot collapse into {span}: its children are not all in view")
        return at, len(children), (span,)

    def _with(self, entries: tuple[Span, ...], since: tuple[int, ...], tail: int, slots: int) -> WorkingContext:
        return WorkingContext(self.budget, self.grid, self.costs, entries, since, tail, slots)

    # --- the laws ---

    def check(self) -> None:
        """L1, L3 and the bookkeeping, from scratch; L2 is `check_budget`, which a plan must satisfy."""
        self._check_tiling()
        if self._entry_slots != sum(map(self.cost, self.entries)):
            raise LawError(f"slots {self._entry_slots} differ from the entries' {sum(map(self.cost, self.entries))}")

    def _check_tiling(self) -> None:
        if len(self.entries) != len(self.since):
            raise LawError(f"{len(self.entries)} entries but {len(self.since)} ages")
        end = 0
        for entry in self.entries:
            if entry.start != end:
                raise LawError(f"L1: {entry} does not begin where the last one ended, at {end}")
            if entry.level > self.levels or not self.grid.on_grid(entry):
                raise LawError(f"L3: {entry} is no node of the grid with {self.levels} levels")
            end = entry.end
        if self.tail < 0:
            raise LawError(f"L1: a tail of {self.tail} tokens")

    def check_budget(self) -> None:
        """L2."""
        if self.slots > self.budget:
            raise LawError(f"L2: {self.slots} slots in view, budget {self.budget}")
