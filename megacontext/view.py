"""View: which slots of the arena hold which part of history, and at which positions.

Ownership of slots, by part of history:
    [0, sealed)          a page stands in `pages[block]`, a frame of `block` slots; a gist in `gists[span]`
    [sealed, history)    the tail: the frames in `tail`, the last one partly filled
    elsewhere            free, and hidden

A frame that a page left keeps its positions (`vacant`) for the next newcomer, so a swap moves nothing else. When too
many positions lie unused, or the model's last one comes near, all are numbered anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from megacontext.arena import Arena, Slots
from megacontext.context import WorkingContext
from megacontext.span import Span
from megacontext.tree.memory_tree import MemoryTree
from megacontext.tree.snapshot import State
from nanochat.hook import ModelSpec

NEARLY = 0.9  # of the best block's worth: as good as the best


class View:
    """The arena as a working context sees it. Knows nothing of scores, plans and models."""

    def __init__(
        self, spec: ModelSpec, block: int, budget: int, slack: int, protect_first: int, gist_room: int
    ) -> None:
        self.spec, self.block, self.slack, self.protect_first = spec, block, slack, protect_first
        frames = budget // block + 2
        self.arena = Arena(spec, frames * block, gist_room)
        self.pages: dict[int, Slots] = {}  # by block number
        self.gists: dict[Span, Slots] = {}
        self.tail: list[Slots] = []
        self.vacant: list[int] = []  # first positions of frames that a page left
        self.next_position = 0

    # --- the tail ---

    def open_rows(self, context: WorkingContext, rows: int) -> list[Slots]:
        """Slots, with positions, for `rows` new rows at the end of the tail."""
        filled = context.tail
        while len(self.tail) * self.block < filled + rows:
            self.tail.append(self.arena.allocate(self.block))
        runs = self.tail_runs(filled, filled + rows)
        for run in runs:
            self.arena.position[run.start : run.stop] = range(self.next_position, self.next_position + len(run))
            self.next_position += len(run)
        self.spec.rotation.reserve(self.next_position)
        return runs

    def tail_runs(self, start: int, stop: int) -> list[Slots]:
        """The slots of the tail's rows [start, stop), as runs."""
        runs = []
        for at, frame in enumerate(self.tail):
            run = frame[max(start - at * self.block, 0) : max(stop - at * self.block, 0)]
            if len(run):
                runs.append(run)
        return runs

    def seal(self, number: int) -> Slots:
        """The tail's first frame is complete: it becomes block `number`, where it stands."""
        self.pages[number] = self.tail.pop(0)
        return self.pages[number]

    def close_ranks(self) -> None:
        """Pages stand first, then the tail, without a hole: a pass needs no mask then, and reads no slot in vain.

        Only frames that stand elsewhere move; while pages are swapped one for one, none does.
        """
        end = len(self.pages) * self.block
        for at, frame in enumerate(self.tail):
            place = range(end + at * self.block, end + (at + 1) * self.block)
            if frame != place:
                self._clear(place)
                self.arena.claim(place)
                self.arena.move(self.tail[at], place)
                self.tail[at] = place
        for number in [number for number, frame in self.pages.items() if frame.start >= end]:
            self._step_aside(number)

    def _clear(self, place: Slots) -> None:
        """Whoever stands in a frame goes to the first free one: the arena has two frames more than the budget."""
        for number in [number for number, frame in self.pages.items() if frame == place]:
            self._step_aside(number)
        for at in [at for at, frame in enumerate(self.tail) if frame == place]:
            free = self.arena.allocate(self.block)
            self.arena.move(place, free)
            self.tail[at] = free

    def _step_aside(self, number: int) -> None:
        """A page goes to the first free frame."""
        free = self.arena.allocate(self.block)
        self.arena.move(self.pages[number], free)
        self.pages[number] = free

    def drop_rows(self, filled: int, rows: int) -> None:
        """Forget the tail's newest rows, so that `filled` are left."""
        for run in self.tail_runs(filled, filled + rows):
            self.arena.hide(run)
        while len(self.tail) > -(-filled // self.block):
            self.arena.release(self.tail.pop())
        self.next_position -= rows

    # --- what a pass sees ---

    def rows_index(self, runs: Sequence[Slots]) -> slice | Tensor:
        """A slice where the runs are one, else a tensor of slots."""
        if all(left.stop == right.start for left, right in pairwise(runs)):
            return slice(runs[0].start, runs[-1].stop)
        return torch.tensor([slot for run in runs for slot in run], device=self.spec.device)

    def mask(self, rows: int, at: slice | Tensor, reach: int, slots: int) -> Tensor | None:
        """Bias (rows, slots) of new rows in slots `at`; None if they are the last, before `reach`, of a view without
        holes. A single row's is (slots,).
        """
        last = isinstance(at, slice) and at.stop == reach
        if last and self.arena.visible[:reach].all():
            return None
        if rows == 1:
            return self.arena.hidden[:slots]
        bias = self.arena.hidden[:slots].repeat(rows, 1)
        bias[:, at] = torch.full((rows, rows), float("-inf"), dtype=bias.dtype, device=bias.device).triu_(1)
        return bias

    # --- following a working context ---

    def follow(self, context: WorkingContext, tree: MemoryTree, recent_start: int) -> int:
        """Show what `context` says: leavers free their slots, newcomers take them. Returns the pages copied in."""
        wanted = {e.start // self.block for e in context.entries if e.level == 0}
        for number in [n for n in self.pages if n not in wanted]:
            frame = self.pages.pop(number)
            self.vacant.append(int(self.arena.position[frame.start]))
            self.arena.release(frame)
        self._follow_gists(context, tree)
        newcomers = sorted(wanted - self.pages.keys())
        for number in newcomers:
            self.pages[number] = frame = self.arena.allocate(self.block)
            if not self.vacant and self.spec.relocatable:
                self.renumber(context, recent_start, newcomer=number)
            page = tree.page(Span(number * self.block, (number + 1) * self.block, 0))
            self.arena.put(frame, page.keys, page.values, self._place(number))
        return len(newcomers)

    def _place(self, number: int) -> int:
        """First position of a page that comes. A learned one is in the key already: then it is for the books alone."""
        return self.vacant.pop() if self.vacant else 0

    def _follow_gists(self, context: WorkingContext, tree: MemoryTree) -> None:
        if not any(context.costs[1:]):
            return
        wanted = {e for e in context.entries if e.level and context.costs[e.level]}
        for span in [s for s in self.gists if s not in wanted]:
            self.arena.release(self.gists.pop(span))
        for span in sorted(wanted - self.gists.keys()):
            gist = tree.gist(span)
            self.gists[span] = slots = self.arena.allocate(context.costs[span.level], gist=True)
            # All gists sit where the first blocks end: one constant place, far away, as InfLLM's distant blocks.
            self.arena.put(slots, gist.keys, gist.values, self.protect_first * self.block)

    # --- positions ---

    def crowded(self, context: WorkingContext, rows: int, *, settled: bool = False) -> bool:
        """Whether positions should be numbered anew before `rows` more rows come; if `settled`, only where they end."""
        unused = self.next_position - context.slots
        return (unused > self.slack and not settled) or self.next_position + rows > self.spec.max_position

    def renumber(
        self,
        context: WorkingContext,
        recent_start: int,
        *,
        newcomer: int | None = None,
        prompt: int = 0,
        worth: Mapping[int, float] | None = None,
    ) -> None:
        """Compact positions: first blocks, far pages in their order (then frame `newcomer`), the rest in time order.

        prompt: rows of a prompt that has just ended; then the far pages stand right before it, after the recent text,
        neighbours together and in time order, the group with the best `worth` last.
        """
        block, position = self.block, self.arena.position
        recent = recent_start // block
        turn = max(recent, (context.history - prompt) // block) if prompt else recent
        others = sorted(n for n in self.pages if n != newcomer)
        first = [n for n in others if n < self.protect_first]
        far = [n for n in others if self.protect_first <= n < recent]
        if prompt:
            far = by_worth(far, worth or {})
        else:
            far.sort(key=lambda n: position[self.pages[n].start])
        before = [*first, *(n for n in others if recent <= n < turn)] if prompt else first
        after = [n for n in others if n >= turn]
        order = [self.pages[n] for n in (*before, *far)]
        self.vacant = []
        if newcomer is not None:
            self.vacant = [sum(map(len, order))]
            order.append(self.pages[newcomer])
        order += [self.pages[n] for n in after]
        self.next_position = self.arena.renumber([*order, *self.tail_runs(0, context.tail)])

    def check(self, context: WorkingContext) -> None:
        """The integrity of slots: free and held must add up. Raises AssertionError, showing all."""
        frames = sum(map(len, (*self.pages.values(), *self.tail)))
        gists = sum(map(len, self.gists.values()))
        total = frames + gists + self.arena.free_slots
        assert total == self.arena.capacity, f"{frames} in frames + {gists} in gists + {self.arena.free_slots} free"
        assert self.arena.visible.sum() == context.slots, f"{self.arena.visible.sum()} visible, {context.slots} in view"

    # --- kept and brought back ---

    def state(self, context: WorkingContext) -> State:
        """Where everything stands, and the tail's rows: what `restore` cannot find in the tree."""
        runs = self.tail_runs(0, context.tail)
        tail = [self.arena.contents(run) for run in runs]
        return {
            "pages": np.array([[n, frame.start] for n, frame in self.pages.items()], np.int64).reshape(-1, 2),
            "gists": np.array([[*span, slots.start] for span, slots in self.gists.items()], np.int64).reshape(-1, 4),
            "tail": [frame.start for frame in self.tail],
            "vacant": list(self.vacant),
            "next_position": self.next_position,
            "position": self.arena.position,
            "tail_keys": torch.cat([p.keys for p in tail], 2) if tail else None,
            "tail_values": torch.cat([p.values for p in tail], 2) if tail else None,
        }

    def restore(self, state: State, context: WorkingContext, tree: MemoryTree) -> None:
        """Into an empty view: the very slots and positions. Raises ValueError if the state makes no sense."""
        arena = self.arena
        position = np.asarray(state["position"], np.int64)
        if position.shape != arena.position.shape or position.min() < 0 or position.max() >= self.spec.max_position:
            raise ValueError("positions of another view")
        arena.position[:] = position
        self.vacant, self.next_position = [int(p) for p in state["vacant"]], int(state["next_position"])
        for number, start in np.asarray(state["pages"], np.int64).tolist():
            self.pages[number] = frame = range(start, start + self.block)
            arena.claim(frame)
            page = tree.page(Span(number * self.block, (number + 1) * self.block, 0))
            arena.fill(frame, page.keys, page.values)
        if self.pages.keys() != {e.start // self.block for e in context.entries if e.level == 0}:
            raise ValueError("pages that are not those of the working context")
        for start, end, level, at in np.asarray(state["gists"], np.int64).tolist():
            gist = tree.gist(span := Span(start, end, level))
            self.gists[span] = slots = range(at, at + context.costs[level])
            arena.claim(slots)
            arena.fill(slots, gist.keys, gist.values)
        self.tail = [range(int(start), int(start) + self.block) for start in state["tail"]]
        for frame in self.tail:
            arena.claim(frame)
        at = 0
        for run in self.tail_runs(0, context.tail):
            rows = slice(at, at + len(run))
            arena.fill(run, state["tail_keys"][:, :, rows], state["tail_values"][:, :, rows])
            at += len(run)
        if at != context.tail:
            raise ValueError(f"a tail of {at} rows, not of {context.tail}")

    def copy(self) -> View:
        """An independent view of the same."""
        twin = View.__new__(View)
        twin.__dict__ = {
            **self.__dict__,
            "arena": self.arena.copy(),
            "pages": dict(self.pages),
            "gists": dict(self.gists),
            "tail": list(self.tail),
            "vacant": list(self.vacant),
        }
        return twin


def by_worth(numbers: Sequence[int], worth: Mapping[int, float]) -> list[int]:
    """Runs of neighbouring blocks, each in time order, the best ones last: by worth, but those that are nearly as good
    as the best by time, because what was said later holds.
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    worths = [max(worth.get(n, 0.0) for n in run) for run in runs]
    least = NEARLY * max(worths, default=0.0)
    order = sorted(range(len(runs)), key=lambda i: (min(worths[i], least), runs[i][0]))
    runs = [runs[i] for i in order]
    return [number for run in runs for number in run]
