"""Plain caches: what a model remembers when nothing is ever forgotten or moved.

`NoCache` sees the rows of one pass; `DenseCache` keeps every row. In both, the position of a row is its index, and a
layer's window is a window of rows. `upstream_cache.py` has the face of upstream's KVCache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nanochat.attention import with_spare
from nanochat.hook import CacheUsage, KVCache, KVView, Mark, ModelSpec, Stream


def window_bias(rows: int, slots: int, window: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(rows, slots) bias: row t stands at slot slots - rows + t and sees the slots 0 .. window before it."""
    row = torch.arange(slots - rows, slots, device=device)[:, None]
    distance = row - torch.arange(slots, device=device)
    bias = torch.zeros(rows, slots, device=device, dtype=dtype)
    return bias.masked_fill_((distance < 0) | (distance > window), float("-inf"))


def storage_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of the distinct storages behind `tensors`: what they really occupy, views and padding included."""
    storages = {}
    for tensor in tensors:
        if tensor is not None:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class Windows:
    """Cuts the slots of a layer down to its window. One row: a slice. More rows: a slice and a bias.

    A bias is made once a pass for all layers of one window.
    """

    def __init__(self, windows: Sequence[int | None]) -> None:
        self.windows = tuple(windows)
        self.biases: dict[int, Tensor] = {}

    def begin(self) -> None:
        self.biases.clear()

    def view(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, spare: int = 0) -> KVView:
        """q (B,H,T,d) rotated, keys and values (B,Hk,S,d): the rows' own slots are the last T before the spare ones."""
        window = self.windows[layer] if self.windows else None
        rows, slots = q.shape[2], keys.shape[2] - spare
        if window is None or slots <= window + 1:
            return KVView(q, keys, values, spare=spare)
        if slots > window + rows:
            first = slots - window - rows
            keys, values = keys[:, :, first:slots], values[:, :, first:slots]
        return KVView(q, keys, values, self._bias(window, q, keys.shape[2]) if rows > 1 else None)

    def _bias(self, window: int, q: Tensor, slots: int) -> Tensor:
        if window not in self.biases:
            self.biases[window] = window_bias(q.shape[2], slots, window, q.device, q.dtype)
        return self.biases[window]

    def widest(self, rows: int) -> int:
        """How many of `rows` earlier rows the next one reads, in the layer that reads most."""
        if not self.windows or None in self.windows:
            return rows
        return min(rows, max(window for window in self.windows if window is not None))


class NoCache(KVCache):
    """No memory: every pass stands alone, from position 0. For full forwards, training and as the oracle of tests."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._windows = Windows(spec.windows)
        self._angles: Any = None

    def begin(self, stream: Stream) -> Tensor:
        self.carry = None
        self.length = stream.rows
        self._windows.begin()
        positions = torch.arange(stream.rows, device=stream.x.device)
        self.spec.rotation.reserve(stream.rows)
        self._angles = self.spec.rotation.at(positions)
        return positions.expand(stream.x.shape[0], -1)

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        rotate = self.spec.rotation.rotate
        return self._windows.view(layer, rotate(q, self._angles), rotate(k, self._angles), v)

    @property
    def usage(self) -> CacheUsage:
        held = (*_tensors(self._angles), *self._windows.biases.values(), self.carry)
        return CacheUsage(self.length, 0, 0, storage_bytes(held))

    def reset(self) -> None:
        self.length, self.carry, self._angles = 0, None, None
        self._windows.begin()

    def fork(self, batch: int = 1) -> NoCache:
        return NoCache(self.spec)

    def rollback(self, mark: Mark) -> None:
        """Nothing is kept, so only the empty point can be returned to."""
        if mark.length:
            raise ValueError(f"NoCache keeps no rows and cannot roll back to length {mark.length}; use DenseCache")
        self.reset()


class DenseCache(KVCache):
    """Keeps every row's key, rotated to its index, and value. Grows by doubling. For inference: no gradients.

    batch: rows side by side; None takes it from the first pass. capacity: slots to allocate at first.
    limit: most slots it may ever hold, None for no limit.
    """

    def __init__(
        self, spec: ModelSpec, *, batch: int | None = None, capacity: int = 256, limit: int | None = None
    ) -> None:
        self.spec, self.batch, self.limit = spec, batch, limit
        self._first_capacity = capacity if limit is None else min(capacity, limit)
        self._windows = Windows(spec.windows)
        self._keys: list[Tensor] = []  # per layer (B, Hk, capacity, d)
        self._values: list[Tensor] = []
        self._angles: Any = None
        self._start = self._reach = 0
        self._finite = 0  # slots that were written in every layer, or zeroed

    @property
    def capacity(self) -> int:
        return self._keys[0].shape[2] if self._keys else 0

    def begin(self, stream: Stream) -> Tensor:
        batch, rows = stream.x.shape[0], stream.rows
        self._check(batch, rows)
        self.batch = batch
        self._start, self.length = self.length, self.length + rows
        self._reserve(self.length)
        self._reach = with_spare(self.length, rows, self._keys[0])
        if self._reach > self.length:
            self._make_finite()
        self._windows.begin()
        positions = torch.arange(self._start, self.length, device=self.spec.device)
        self.spec.rotation.reserve(self.length)
        self._angles = self.spec.rotation.at(positions)
        return positions.expand(batch, -1)

    def _check(self, batch: int, rows: int) -> None:
        if self.batch is not None and batch != self.batch:
            raise ValueError(f"a pass of {batch} rows side by side, but this cache holds {self.batch}; fork(batch) it")
        if self.limit is not None and self.length + rows > self.limit:
            raise ValueError(
                f"{rows} rows do not fit: {self.length} of {self.limit} slots are taken; raise the limit or reset()"
            )

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        rotation, start, stop = self.spec.rotation, self._start, self.length
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, start:stop] = rotation.rotate(k, self._angles)
        values[:, :, start:stop] = v
        q = rotation.rotate(q, self._angles)
        if layer == self.spec.layers - 1:
            self._finite = max(self._finite, stop)
        reach = self._reach
        return self._windows.view(layer, q, keys[:, :, :reach], values[:, :, :reach], reach - stop)

    def room(self, rows: int) -> int:
        return rows if self.limit is None else max(1, min(rows, self.limit - self.length))

    def _make_finite(self) -> None:
        """Spare slots that were never written, or in a pass that was broken off, hold 0."""
        first = max(self._finite, self._start)
        if first < self._reach:
            for buffer in (*self._keys, *self._values):
                buffer[:, :, first : self._reach] = 0
            self._finite = self._reach

    def _reserve(self, length: int) -> None:
        """Make room for `length` slots, one layer at a time."""
        if length <= self.capacity:
            return
        capacity = max(length, 2 * self.capacity, self._first_capacity)
        if self.limit is not None:
            capacity = min(capacity, self.limit)
        if not self._keys:
            self._keys = [self._buffer(capacity) for _ in range(self.spec.layers)]
            self._values = [self._buffer(capacity) for _ in range(self.spec.layers)]
            return
        for buffers in (self._keys, self._values):
            for layer, old in enumerate(buffers):
                buffers[layer] = self._buffer(capacity)
                buffers[layer][:, :, : old.shape[2]] = old

    def _buffer(self, capacity: int) -> Tensor:
        shape = (self.batch or 1, self.spec.kv_heads, capacity, self.spec.head_dim)
        return torch.empty(shape, dtype=self.spec.dtype, device=self.spec.device)

    @property
    def usage(self) -> CacheUsage:
        held = (*self._keys, *self._values, *_tensors(self._angles), *self._windows.biases.values(), self.carry)
        return CacheUsage(self.length, self.length, self._windows.widest(self.length), storage_bytes(held))

    def reset(self) -> None:
        """Forget everything; the buffers stay allocated."""
        self.length, self._start, self.carry, self._angles = 0, 0, None, None
        self._windows.begin()

    def fork(self, batch: int = 1) -> DenseCache:
        """A copy of `batch` rows: of one row broadcast, or of as many rows as there are."""
        if self.batch not in (None, 1, batch):
            raise ValueError(
                f"cannot fork {self.batch} rows to {batch}; fork(1 row) broadcasts, fork({self.batch}) copies"
            )
        twin = DenseCache(self.spec, batch=batch, capacity=self._first_capacity, limit=self.limit)
        twin.length, twin._start, twin._finite = self.length, self._start, min(self._finite, self.length)
        twin.carry = None if self.carry is None else self.carry.expand(batch, -1, -1).clone()
        if self._keys:
            twin._reserve(self.capacity)
            for old, new in zip(self._keys + self._values, twin._keys + twin._values, strict=True):
                new[:, :, : self.length] = old[:, :, : self.length]
        return twin

    def rollback(self, mark: Mark) -> None:
        if not 0 <= mark.length <= self.length:
            raise ValueError(f"cannot roll forward from length {self.length} to {mark.length}; the mark is stale")
        self.length = self._start = mark.length
        self.carry = mark.carry


def _tensors(angles: Any) -> tuple[Tensor, ...]:
    """The tensors in a rotation's angles, whatever their type."""
    if isinstance(angles, Tensor):
        return (angles,)
    return tuple(part for part in angles or () if isinstance(part, Tensor))
