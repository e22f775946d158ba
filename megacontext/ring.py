"""The last tokens of a layer that has a sliding window: all that such a layer can ever attend to.

Rows are appended; when the buffer is full its newest `window` rows move to the front and are rotated again from their
raw keys, so positions stay small however long history is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat.hook import KVView, ModelSpec

Shared = dict[tuple[int, ...], Any]  # angles and masks that the layers of one pass have in common, by their rows


class Ring:
    """One layer's rows. window: row i sees row j iff 0 <= i - j <= window.

    spare: rows kept beyond the window, so that as many of the newest can be computed again. least: rows it must keep
    when the newest are forgotten, since those before its first are gone.
    """

    def __init__(self, spec: ModelSpec, window: int, spare: int = 256) -> None:
        self.window, self.spare, self.rotation = window, spare, spec.rotation
        shape = (1, spec.kv_heads, 2 * window + 2 * self.spare, spec.head_dim)
        self.raw, self.keys, self.values = (torch.zeros(shape, dtype=spec.dtype, device=spec.device) for _ in range(3))
        self.length = self.least = 0

    @property
    def nbytes(self) -> int:
        return sum(t.untyped_storage().nbytes() for t in (self.raw, self.keys, self.values))

    def update(self, q: Tensor, k: Tensor, v: Tensor, shared: Shared | None = None) -> KVView:
        """Append rows; the view of them. shared: of the same pass, for all rings; empty when it begins."""
        shared, rows = {} if shared is None else shared, q.shape[2]
        self._make_room(rows)
        start, stop = self.length, self.length + rows
        angles = self._angles(start, stop, q.device, shared)
        self.raw[:, :, start:stop] = k
        self.keys[:, :, start:stop] = self.rotation.rotate(k, angles)
        self.values[:, :, start:stop] = v
        self.length = stop
        low = max(start - self.window, 0)
        return KVView(
            self.rotation.rotate(q, angles),
            self.keys[:, :, low:stop],
            self.values[:, :, low:stop],
            self._bias(low, start, stop, q, shared) if rows > 1 else None,
        )

    def _angles(self, start: int, stop: int, device: torch.device, shared: Shared) -> Any:
        if (start, stop) not in shared:
            self.rotation.reserve(stop)
            shared[start, stop] = self.rotation.at(torch.arange(start, stop, device=device)[None])
        return shared[start, stop]

    def _bias(self, low: int, start: int, stop: int, q: Tensor, shared: Shared) -> Tensor:
        rows = low, start, stop, self.window
        if rows not in shared:
            age = torch.arange(start, stop, device=q.device)[:, None] - torch.arange(low, stop, device=q.device)
            bias = torch.zeros(age.shape, dtype=q.dtype, device=q.device)
            shared[rows] = bias.masked_fill_((age < 0) | (age > self.window), float("-inf"))
        return shared[rows]

    def _make_room(self, rows: int) -> None:
        capacity = self.raw.shape[2]
        if self.length + rows <= capacity:
            return
        keep = min(self.window + self.spare, self.length)
        if keep < self.length:
            self.least = self.window
        size = max(capacity, keep + rows)
        for name in ("raw", "values", "keys"):
            old = getattr(self, name)
            new = old.new_zeros((*old.shape[:2], size, old.shape[3]))
            new[:, :, :keep] = old[:, :, self.length - keep : self.length]
            setattr(self, name, new)
        self.length = keep
        if keep:
            angles = self.rotation.at(torch.arange(keep, device=self.raw.device)[None])
            self.keys[:, :, :keep] = self.rotation.rotate(self.raw[:, :, :keep], angles)

    def truncate(self, rows: int) -> None:
        """Forget the newest `rows` rows. Raises ValueError for more than there are, or than the next row can miss."""
        if self.length - rows < self.least:
            raise ValueError(f"cannot forget {rows} rows of {self.length}: {self.least} must stay")
        self.length -= rows

    def state(self) -> dict[str, Any]:
        """The rows that may still be seen, and where they stand."""
        low = max(self.length - self.window - self.spare, 0)
        rows = slice(low, self.length)
        return {
            "length": self.length,
            "low": low,
            "least": max(self.least, low + self.window if low else 0),
            "size": self.raw.shape[2],
            "raw": self.raw[:, :, rows],
            "values": self.values[:, :, rows],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Into an empty ring. Raises ValueError if the state makes no sense."""
        low, length, size = int(state["low"]), int(state["length"]), int(state["size"])
        rows = state["raw"].shape[2]
        if not 0 <= low <= length <= size <= 1 << 24 or rows != length - low:
            raise ValueError(f"a ring of {rows} rows cannot stand at [{low}, {length}) of {size}")
        shape = (*self.raw.shape[:2], size, self.raw.shape[3])
        self.raw, self.keys, self.values = (self.raw.new_zeros(shape) for _ in range(3))
        self.length, self.least = length, int(state.get("least", 0))
        if rows:
            self.raw[:, :, low:length], self.values[:, :, low:length] = state["raw"], state["values"]
            self.rotation.reserve(length)
            angles = self.rotation.at(torch.arange(low, length, device=self.raw.device)[None])
            self.keys[:, :, low:length] = self.rotation.rotate(self.raw[:, :, low:length], angles)

    def copy(self) -> Ring:
        """An independent ring with the same rows."""
        twin = Ring.__new__(Ring)
        twin.__dict__ = {**self.__dict__, **{n: getattr(self, n).clone() for n in ("raw", "keys", "values")}}
        return twin
