"""The view as an arena of slots: keys and values in the very layout that attention reads.

A swap copies one page into the slots of the one that left and rotates its keys; nothing else moves (a hole that is left
over is filled with whole frames, `View.close_ranks`). Every slot has a position; the order of slots in memory means
nothing. Keys are kept twice, as they came (`raw`) and rotated (`keys`): a page is sealed from the raw ones, and
renumbering rotates from them, so no rounding error ever accumulates.

Shapes: L memory layers, Hk KV heads, C capacity in slots, d head width. The batch is always one conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanochat.hook import ModelSpec

Slots = range  # where an entry stands: always one run
TOGETHER = 128  # slots rotated at once: large temporaries cost five times more in fresh memory than in arithmetic


class Page(NamedTuple):
    """The exact keys and values of some tokens: (L, Hk, n, d) each, keys not rotated."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.untyped_storage().nbytes() + self.values.untyped_storage().nbytes()


Layers = list[tuple[Tensor, ...]]  # (1, Hk, n, d) views of the arena, without a copy, for each of its layers


class Arena:
    """Slots, their positions, and who may be seen. Knows nothing of spans, levels or focus."""

    def __init__(self, spec: ModelSpec, frames: int, gists: int = 0) -> None:
        """frames, gists: slots for pages and for gists; two regions, so that gists never break up a frame."""
        capacity = frames + gists
        shape = (len(spec.memory_layers), 1, spec.kv_heads, capacity, spec.head_dim)
        self.rotation, self.capacity = spec.rotation, capacity
        self.raw, self.keys, self.values = (torch.zeros(shape, dtype=spec.dtype, device=spec.device) for _ in range(3))
        self.hidden = torch.full((capacity,), float("-inf"), dtype=spec.dtype, device=spec.device)
        self.position = np.zeros(capacity, np.int64)
        self.rotation.reserve(capacity)
        self.visible = np.zeros(capacity, bool)  # the same as `hidden`, for bookkeeping without touching tensors
        self._seen: tuple[int, Layers] = -1, []  # kept from pass to pass
        self._free = [_Runs(range(frames)), _Runs(range(frames, capacity))]

    @property
    def nbytes(self) -> int:
        tensors = (self.raw, self.keys, self.values, self.hidden)
        return sum(t.untyped_storage().nbytes() for t in tensors) + self.position.nbytes + self.visible.nbytes

    # --- slots ---

    def allocate(self, count: int, *, gist: bool = False) -> Slots:
        """The first run of `count` free slots; still hidden. Raises ValueError if there is none."""
        return self._free[gist].take(count)

    def claim(self, slots: Slots) -> None:
        """Take these very slots; still hidden. Raises ValueError if they are not free."""
        self._free[slots.start >= self._free[1].whole.start].claim(slots)

    def release(self, slots: Slots) -> None:
        """Hide and free `slots`."""
        self.hide(slots)
        self._free[slots.start >= self._free[1].whole.start].give(slots)

    def show(self, slots: Slots) -> None:
        """What stands in `slots` may be attended to from now on."""
        self.hidden[slots.start : slots.stop] = 0
        self.visible[slots.start : slots.stop] = True

    def hide(self, slots: Slots) -> None:
        """What stands in `slots` may not be attended to any more."""
        self.hidden[slots.start : slots.stop] = float("-inf")
        self.visible[slots.start : slots.stop] = False

    @property
    def reach(self) -> int:
        """The end of the last visible slot: what a pass must look at."""
        seen = self.visible.nonzero()[0]
        return int(seen[-1]) + 1 if len(seen) else 0

    @property
    def free_slots(self) -> int:
        return sum(len(run) for runs in self._free for run in runs.free)

    # --- contents ---

    def put(self, slots: Slots, keys: Tensor, values: Tensor, first_position: int) -> None:
        """Copy keys (not rotated) and values, (L, Hk, n, d), into `slots` at consecutive positions, and show them."""
        self.position[slots.start : slots.stop] = np.arange(first_position, first_position + len(slots))
        self.fill(slots, keys, values)

    def fill(self, slots: Slots, keys: Tensor, values: Tensor) -> None:
        """The same at the positions that the slots have."""
        at = slice(slots.start, slots.stop)
        self.raw[:, 0, :, at] = keys
        self.values[:, 0, :, at] = values
        self.rotate(slots)
        self.show(slots)

    def move(self, slots: Slots, to: Slots) -> None:
        """What stands in `slots`, with positions and what of it is hidden, goes to the hidden slots `to`.

        `slots` are free afterwards.
        """
        old, new = slice(slots.start, slots.stop), slice(to.start, to.stop)
        for tensor in (self.raw, self.keys, self.values):
            tensor[:, :, :, new] = tensor[:, :, :, old]
        self.hidden[new] = self.hidden[old]
        self.visible[new], self.position[new] = self.visible[old], self.position[old]
        self.release(slots)

    def contents(self, slots: Slots) -> Page:
        """A copy of what stands in `slots`."""
        at = slice(slots.start, slots.stop)
        return Page(self.raw[:, 0, :, at].clone(), self.values[:, 0, :, at].clone())

    def places(self, slots: Slots) -> Layers:
        """raw, keys and values in `slots`, for a pass to write: found at once, which is cheaper than layer by layer."""
        parts = (t[:, :, :, slots.start : slots.stop] for t in (self.raw, self.keys, self.values))
        return list(zip(*(part.unbind() for part in parts), strict=True))

    def seen(self, reach: int) -> Layers:
        """keys and values of the first `reach` slots."""
        if self._seen[0] != reach:
            parts = (t[:, :, :, :reach] for t in (self.keys, self.values))
            self._seen = reach, list(zip(*(part.unbind() for part in parts), strict=True))
        return self._seen[1]

    def frame_bytes(self, slots: int) -> int:
        """Bytes that a swap of `slots` slots copies: raw keys, rotated keys, values."""
        return 3 * slots * self.raw[:, :, :, 0].numel() * self.raw.element_size()

    def rotate(self, slots: Slots) -> None:
        """Rotate the keys in `slots` to the positions these slots have."""
        self.rotation.reserve(int(self.position[slots.start : slots.stop].max()) + 1)
        for start in range(slots.start, slots.stop, TOGETHER):
            at = slice(start, min(start + TOGETHER, slots.stop))
            positions = torch.from_numpy(self.position[at]).to(self.keys.device)
            self.keys[:, :, :, at] = self.rotation.rotate(self.raw[:, :, :, at], self.rotation.at(positions[None]))

    def renumber(self, order: Sequence[Slots]) -> int:
        """Give the slots of `order` the positions 0, 1, 2 ... in that order. Returns the next position."""
        at = 0
        for slots in order:
            self.position[slots.start : slots.stop] = np.arange(at, at + len(slots))
            at += len(slots)
        if self.reach:
            self.rotate(range(self.reach))
        return at

    def copy(self) -> Arena:
        """An independent arena with the same contents."""
        twin = Arena.__new__(Arena)
        tensors = {name: getattr(self, name).clone() for name in ("raw", "keys", "values", "hidden")}
        arrays = {"position": self.position.copy(), "visible": self.visible.copy()}
        twin.__dict__ = {**self.__dict__, **tensors, **arrays, "_free": [runs.copy() for runs in self._free]}
        twin._seen = -1, []
        return twin


class _Runs:
    """The free slots of a region, as ascending runs that do not touch."""

    def __init__(self, whole: Slots) -> None:
        self.whole = whole
        self.free: list[Slots] = [whole] if whole else []

    def take(self, count: int) -> Slots:
        for at, run in enumerate(self.free):
            if len(run) >= count:
                self.free[at : at + 1] = [run[count:]] if len(run) > count else []
                return run[:count]
        raise ValueError(f"no run of {count} free slots in {self.whole}: {self.free}")

    def claim(self, slots: Slots) -> None:
        for at, run in enumerate(self.free):
            if run.start <= slots.start and slots.stop <= run.stop:
                parts = range(run.start, slots.start), range(slots.stop, run.stop)
                self.free[at : at + 1] = [part for part in parts if part]
                return
        raise ValueError(f"slots {slots} are not free in {self.whole}: {self.free}")

    def give(self, slots: Slots) -> None:
        merged: list[Slots] = []
        for run in sorted([*self.free, slots], key=lambda run: run.start):
            if merged and run.start < merged[-1].stop:
                raise ValueError(f"slots {slots} are free already")
            if merged and run.start == merged[-1].stop:
                merged[-1] = range(merged[-1].start, run.stop)
            else:
                merged.append(run)
        self.free = merged

    def copy(self) -> _Runs:
        twin = _Runs(self.whole)
        twin.free = list(self.free)
        return twin
