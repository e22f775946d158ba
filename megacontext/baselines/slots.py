"""One layer's slots: keys and values of the rows that each KV head kept, in time order, side by side.

Heads may keep different rows, but as many of them. Shapes: Hk KV heads, C capacity, n rows kept, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from nanochat.hook import ModelSpec


class LayerSlots:
    """raw: keys before rotation, kept only where keys move. place: (Hk, C) which token of history a row is.

    tracks: named (Hk, C) float32 figures of a policy, one a row, that move with the rows; 0 for a new row.
    """

    is_part = True

    def __init__(self, spec: ModelSpec, capacity: int, *, moves: bool, tracks: Sequence[str] = ()) -> None:
        shape = (1, spec.kv_heads, capacity, spec.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=spec.dtype, device=spec.device) for _ in range(2))
        self.raw = torch.zeros_like(self.keys) if moves else None
        self.place = torch.zeros(shape[1:3], dtype=torch.int64, device=spec.device)
        self.tracks = {name: torch.zeros(shape[1:3], device=spec.device) for name in tracks}
        self.count = 0

    def append(self, raw: Tensor, keys: Tensor, values: Tensor, first: int) -> None:
        """Rows (1, Hk, T, d) of the tokens first, first + 1 ... after those that are there."""
        start, stop = self.count, self.count + keys.shape[2]
        self.keys[:, :, start:stop], self.values[:, :, start:stop] = keys, values
        if self.raw is not None:
            self.raw[:, :, start:stop] = raw
        self.place[:, start:stop] = torch.arange(first, first + stop - start, device=self.place.device)
        for track in self.tracks.values():
            track[:, start:stop] = 0
        self.count = stop

    def keep(self, index: Tensor) -> None:
        """Only these rows stay: index (Hk, m), ascending in each head."""
        wide = index[None, :, :, None].expand(-1, -1, -1, self.keys.shape[3])
        kept = index.shape[1]
        for rows in (self.keys, self.values, self.raw):
            if rows is not None:
                rows[:, :, :kept] = rows.gather(2, wide)
        for figures in (self.place, *self.tracks.values()):
            figures[:, :kept] = figures.gather(1, index)
        self.count = kept

    def reserve(self, capacity: int, *, exact: bool = False) -> None:
        """Room for so many rows at least; grows by doubling, or not beyond what is asked."""
        short = capacity - self.place.shape[1]
        if short <= 0:
            return
        more = short if exact else max(short, self.place.shape[1])
        self.keys, self.values = (pad(rows, (0, 0, 0, more)) for rows in (self.keys, self.values))
        self.raw = None if self.raw is None else pad(self.raw, (0, 0, 0, more))
        self.place = pad(self.place, (0, more))
        self.tracks = {name: pad(track, (0, more)) for name, track in self.tracks.items()}

    def keep_newest(self, rows: int) -> None:
        """Only the newest `rows` rows stay, as far as there are so many."""
        newest = torch.arange(self.count - min(rows, self.count), self.count, device=self.place.device)
        self.keep(newest.expand(len(self.place), -1))

    def truncate(self, rows: int) -> None:
        """Forget the newest `rows` rows."""
        self.count -= rows
