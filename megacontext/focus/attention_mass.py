"""How much attention each slot in view receives: measured from the queries that passes leave behind.

Probabilities are normalised over the whole view, per layer and query head. The scorer asks which page some head looks
at (its mass, fading); gists ask which token of a block was looked at most (its sum while the block was in view).

Shapes: L memory layers, H query heads, Hk KV heads, C capacity, n rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megacontext.arena import Arena, Slots
from nanochat.hook import ModelSpec
from nanochat.kv_cache import storage_bytes

ROWS = 8  # newest rows of a pass whose queries are kept


class AttentionMass:
    """recent: (L, H, C), fading by `fade` a measurement. total: (L, Hk, C), summed since a slot was filled."""

    def __init__(self, spec: ModelSpec, capacity: int, fade: float = 0.8) -> None:
        layers = len(spec.memory_layers)
        self.heads, self.kv_heads, self.fade = spec.heads, spec.kv_heads, fade
        self.recent = torch.zeros(layers, spec.heads, capacity, device=spec.device)
        self.total = torch.zeros(layers, spec.kv_heads, capacity, device=spec.device)
        self._queries: list[Tensor | None] = [None] * layers

    def note(self, layer: int, q: Tensor) -> None:
        """q (1, H, T, d), rotated: what the pass asked in this layer."""
        self._queries[layer] = q[0, :, -ROWS:]

    def measure(self, arena: Arena) -> None:
        """Add what the noted queries give to each slot in view. The arena must stand as it did during the pass."""
        if self._queries[0] is None:
            return
        reach, group = arena.reach, self.heads // self.kv_heads
        queries = torch.stack([q for q in self._queries if q is not None])  # (L, H, n, d)
        layers, _, rows, width = queries.shape
        stacked = queries.view(layers, self.kv_heads, group * rows, width)
        scores = (arena.keys[:, 0, :, :reach] @ stacked.transpose(-1, -2)).float() * width**-0.5
        weights = (scores + arena.hidden[:reach, None].float()).softmax(2)  # (L, Hk, S, group * n)
        weights = weights.view(layers, self.kv_heads, reach, group, rows).mean(-1)
        self.total[:, :, :reach] += weights.sum(-1)
        self.recent.mul_(self.fade)[:, :, :reach] += weights.transpose(2, 3).reshape(layers, self.heads, reach)
        self._queries = [None] * layers

    def forget(self, slots: Slots) -> None:
        """`slots` hold something else from now on."""
        self.recent[:, :, slots.start : slots.stop] = 0
        self.total[:, :, slots.start : slots.stop] = 0

    def page_masses(self, frames: list[Slots]) -> Tensor:
        """(frames,) largest mass that any head of any layer gives to the whole of each frame."""
        index = torch.tensor([list(frame) for frame in frames], device=self.recent.device)
        return self.recent[:, :, index].sum(-1).amax((0, 1))

    @property
    def nbytes(self) -> int:
        return storage_bytes((self.recent, self.total, *self._queries))

    def state(self) -> dict[str, Any]:
        """Between a measurement and the next pass."""
        return {"recent": self.recent, "total": self.total}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises ValueError for sums of another view."""
        for name, sums in (("recent", self.recent), ("total", self.total)):
            if state[name].shape != sums.shape:
                raise ValueError(f"{name} masses of shape {tuple(state[name].shape)}, not {tuple(sums.shape)}")
            sums.copy_(state[name])

    def copy(self) -> AttentionMass:
        """An independent meter with the same sums."""
        twin = AttentionMass.__new__(AttentionMass)
        twin.__dict__ = {**self.__dict__, "recent": self.recent.clone(), "total": self.total.clone()}
        twin._queries = list(self._queries)
        return twin
