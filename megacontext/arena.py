"""The view as an arena of slots: keys and values in the very layout that attention reads.

A swap copies one page into the slots of the one that left and rotates its keys; nothing else moves. Every slot has a
position; the order of slots in memory means nothing. Keys are kept twice, as they came (`raw`) and rotated (`keys`):
a page is sealed from the raw ones, and renumbering rotates from them, so no rounding error ever accumulates.

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


class Page(NamedTuple):
    """The exact keys and values of some tokens: (L, Hk, n, d) each, keys not rotated."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.untyped_storage().nbytes() + self.values.untyped_storage().nbytes()


class Arena:
    """Slots, their positions, and who may be seen. Knows nothing of spans, levels or focus."""

    def __init__(self, spec: ModelSpec, capacity: int) -> None:
        shape = (len(spec.memory_layers), 1, spec.kv_heads, capacity, spec.head_dim)
        self.rotation, self.capacity = spec.rotation, capacity
        self.raw, self.keys, self.values = (torch.zeros(shape, dtype=spec.dtype, device=spec.device) for _ in range(3))
        self.hidden = torch.full((capacity,), float("-inf"), dtype=spec.dtype, device=spec.device)
        self.position = np.zeros(capacity, np.int64)
        self.rotation.reserve(capacity)
        self.visible = np.zeros(capacity, bool)  # the same as `hidden`, for bookkeeping without touching tensors
        self._free: list[Slots] = [range(capacity)]  # ascending, coalesced

    @property
    def nbytes(self) -> int:
        tensors = (self.raw, self.keys, self.values, self.hidden)
        return sum(t.untyped_storage().nbytes() for t in tensors) + self.position.nbytes

    # --- slots ---

    def allocate(self, count: int) -> Slots:
        """The first run of `count` free slots; still hidden. Raises ValueError if there is none."""
        for at, run in enumerate(self._free):
            if len(run) >= count:
                slots = run[:count]
                self._free[at : at + 1] = [run[count:]] if len(run) > count else []
                return slots
        raise ValueError(f"no run of {count} free slots in an arena of {self.capacity}: {self._free}")

    def release(self, slots: Slots) -> None:
        """Hide and free `slots`."""
        if not slots:
            return
        self.hide(slots)
        runs = sorted([*self._free, slots], key=lambda run: run.start)
        merged = [runs[0]]
        for run in runs[1:]:
            if run.start < merged[-1].stop:
                raise ValueError(f"slots {slots} are free already")
            if run.start == merged[-1].stop:
                merged[-1] = range(merged[-1].start, run.stop)
            else:
                merged.append(run)
        self._free = merged

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
        return sum(map(len, self._free))

    # --- contents ---

    def put(self, slots: Slots, page: Page, first_position: int) -> None:
        """Copy a page into `slots` at consecutive positions, and show it."""
        at = slice(slots.start, slots.stop)
        self.position[at] = np.arange(first_position, first_position + len(slots))
        self.raw[:, 0, :, at] = page.keys
        self.values[:, 0, :, at] = page.values
        self.rotate(slots)
        self.show(slots)

    def page(self, slots: Slots) -> Page:
        """A copy of what stands in `slots`."""
        at = slice(slots.start, slots.stop)
        return Page(self.raw[:, 0, :, at].clone(), self.values[:, 0, :, at].clone())

    def rotate(self, slots: Slots) -> None:
        """Rotate the keys in `slots` to the positions these slots have."""
        at = slice(slots.start, slots.stop)
        positions = torch.from_numpy(self.position[at]).to(self.keys.device)
        self.rotation.reserve(int(self.position[at].max()) + 1)
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

    def copy(self, spec: ModelSpec) -> Arena:
        """An independent arena with the same contents."""
        twin = Arena(spec, self.capacity)
        for name in ("raw", "keys", "values", "hidden"):
            getattr(twin, name).copy_(getattr(self, name))
        twin.position, twin.visible, twin._free = self.position.copy(), self.visible.copy(), list(self._free)
        return twin
