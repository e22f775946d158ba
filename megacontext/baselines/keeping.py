"""KeepingCache: what all memories share that keep every row of history and read only a part of it.

A policy is a subclass: it says which rows a pass reads. Nothing is ever dropped, so only what is read keeps the budget;
what is resident grows with the text, and `usage` says so.

Layers that are no memory layers have a window, and keep just that: they are outside every budget.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from megacontext.baselines.copying import held_bytes
from megacontext.baselines.limits import Limits
from megacontext.baselines.one_conversation import OneConversation
from megacontext.baselines.slots import LayerSlots
from nanochat.hook import BaseModel, CacheUsage, KVView, Mark, ModelSpec, Stream
from nanochat.kv_cache import Windows

GROWTH = 1.25  # times the rows needed, when a buffer grows


class Rows:
    """Two tensors of rows side by side, (1, heads, rows, width), that grow as rows come: keys and values, or bounds."""

    is_part = True

    def __init__(self, spec: ModelSpec, heads: int) -> None:
        shape = (1, heads, 0, spec.head_dim)
        self._first, self._second = (torch.zeros(shape, dtype=spec.dtype, device=spec.device) for _ in range(2))
        self.count = 0

    @property
    def first(self) -> Tensor:
        return self._first[:, :, : self.count]

    @property
    def second(self) -> Tensor:
        return self._second[:, :, : self.count]

    def append(self, first: Tensor, second: Tensor) -> None:
        """Rows (1, heads, T, width) after those that are there."""
        stop = self.count + first.shape[2]
        if stop > self._first.shape[2]:
            self._first, self._second = self._grown(self._first, stop), self._grown(self._second, stop)
        self._first[:, :, self.count : stop], self._second[:, :, self.count : stop] = first, second
        self.count = stop

    def _grown(self, old: Tensor, rows: int) -> Tensor:
        new = old.new_empty((*old.shape[:2], int(rows * GROWTH), old.shape[3]))
        new[:, :, : self.count] = old[:, :, : self.count]
        return new

    def truncate(self, count: int) -> None:
        """Only the first `count` rows stay, if there are more."""
        self.count = min(self.count, count)


class KeepingCache(OneConversation):
    """rows: of every memory layer, keys and values of all of history; see `rotated`."""

    rotated: ClassVar[bool] = True  # keys are kept rotated to their place in the text, or not rotated at all

    def __init__(self, spec: ModelSpec, limits: Limits) -> None:
        self.spec, self.limits = spec, limits
        self.reset()

    def reset(self) -> None:
        self.length, self.carry = 0, None
        self.rows = {layer: Rows(self.spec, self.spec.kv_heads) for layer in self.spec.memory_layers}
        windowed = [layer for layer in range(self.spec.layers) if layer not in self.rows]
        self.windows = {layer: LayerSlots(self.spec, self._capacity(layer), moves=False) for layer in windowed}
        self.selection_flops = 0
        self._windows = Windows(self.spec.windows)
        self._unsettled = 0
        self._first = 0
        self._angles: Any = None

    def _capacity(self, layer: int) -> int:
        return (self.spec.windows[layer] or 0) + 2 * self.limits.chunk

    # --- what a policy says ---

    @abstractmethod
    def read(self, layer: int, q: Tensor) -> KVView:
        """What a pass of a memory layer sees; its own rows are already the last of `rows[layer]`.

        q: (1, H, T, d), not rotated.
        """

    @abstractmethod
    def read_slots(self, rows: int) -> int:
        """Slots that the next `rows` rows would read, themselves excluded."""

    def prepare(self, rows: int) -> None:
        """A pass of `rows` rows is about to begin. Raises ValueError if it cannot; nothing has changed then."""

    def settle(self) -> None:
        """What came since the last time stays."""

    def forget(self) -> None:
        """What came since the last `settle` is taken back; `length` and `rows` are what they were."""

    # --- a pass ---

    def begin(self, stream: Stream) -> Tensor:
        rows = stream.rows
        self.check_batch(stream)
        self.check_rows(stream)
        self.prepare(rows)
        for layer in self.windows:
            self._slide(layer, rows)
        self._first, self.length = self.length, self.length + rows
        self._unsettled += rows
        self._windows.begin()
        positions = torch.arange(self._first, self.length, device=self.spec.device)
        self._angles = self.turn(positions)
        return positions[None]

    def turn(self, positions: Tensor) -> Any:
        """Angles for positions (T,), ascending."""
        self.spec.rotation.reserve(int(positions[-1]) + 1)
        return self.spec.rotation.at(positions)

    def _slide(self, layer: int, rows: int) -> None:
        slots = self.windows[layer]
        if slots.count + rows <= slots.place.shape[1]:
            return
        slots.keep_newest((self.spec.windows[layer] or 0) + self._unsettled)

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        if layer in self.rows:
            self.rows[layer].append(self.rotate(k) if self.rotated else k, v)
            return self.read(layer, q)
        slots = self.windows[layer]
        slots.append(k, self.rotate(k), v, self._first)
        keys, values = slots.keys[:, :, : slots.count], slots.values[:, :, : slots.count]
        return self._windows.view(layer, self.rotate(q), keys, values)

    def rotate(self, x: Tensor) -> Tensor:
        """This pass's rows, each to its place in the text."""
        return self.spec.rotation.rotate(x, self._angles)

    # --- the rest of the contract ---

    def maintain(self, model: BaseModel, *, prompt: int = 0, words: tuple[int, int] | None = None) -> None:
        if self._unsettled:
            self.settle()
        self._unsettled = 0

    @property
    def usage(self) -> CacheUsage:
        return CacheUsage(self.length, self.length, self.read_slots(1), held_bytes(self.held()))

    def rollback(self, mark: Mark) -> None:
        rows = mark.rows_back(self.length, self._unsettled)
        self.length, self.carry = mark.length, mark.carry
        self._unsettled -= rows
        if rows:
            for kept in self.rows.values():
                kept.truncate(mark.length)
            for slots in self.windows.values():
                slots.truncate(rows)
            self.forget()
