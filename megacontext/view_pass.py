"""ViewPass: one pass of a model over the view. Which slots its rows fill, what they see, how they turn.

Opened before each pass, asked once per layer. New text and text that is read again (`reread.py`) go through the same
door. Knows the arena of a view and the rings beside it; nothing of history, focus or ticks.

Shapes: H query heads, Hk KV heads, T rows, S slots up to the last visible one or a few more, d head width. The batch
is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megacontext.arena import Layers, Slots
from megacontext.focus.attention_mass import AttentionMass
from megacontext.ring import Ring, Shared
from megacontext.view import View
from nanochat.attention import with_spare
from nanochat.hook import KVView, ModelSpec
from nanochat.kv_cache import storage_bytes


class ViewPass:
    """rings: by layer, for layers with a window. mass: notes what each pass asks, or None."""

    def __init__(
        self, spec: ModelSpec, view: View, rings: Mapping[int, Ring], mass: AttentionMass | None = None
    ) -> None:
        self.spec, self.view, self.rings, self.mass = spec, view, rings, mass
        self._layer_index = {layer: i for i, layer in enumerate(spec.memory_layers)}
        self._runs: list[tuple[slice, Layers]] = []  # rows of the pass, and where they go
        self._seen: Layers = []
        self._shared: Shared = {}  # among the rings, while a pass lasts
        self._bias: Tensor | None = None
        self._spare = 0  # slots behind the last visible one
        self._angles: Any = None

    def open(self, runs: Sequence[Slots]) -> Tensor:
        """The rows of the next pass go to these slots, in this order, and are shown. Returns positions (1, T)."""
        arena = self.view.arena
        for run in runs:
            arena.show(run)
        rows = sum(map(len, runs))
        reach = arena.reach
        slots = with_spare(reach, rows, arena.keys)
        self._bias = self.view.mask(rows, self.view.rows_index(runs), reach, slots)
        self._spare = slots - reach if self._bias is None else 0
        ends = list(accumulate(map(len, runs)))
        self._runs = [(slice(end - len(run), end), arena.places(run)) for end, run in zip(ends, runs, strict=True)]
        self._seen, self._shared = arena.seen(slots), {}
        where = np.concatenate([arena.position[run.start : run.stop] for run in runs])
        positions = torch.from_numpy(where).to(self.spec.device)[None]
        self._angles = self.spec.rotation.at(positions)
        return positions

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        """Write this layer's rows, say what they see: q (1, H, T, d), k and v (1, Hk, T, d), not rotated."""
        ring = self.rings.get(layer)
        if ring is not None:
            return ring.update(q, k, v, self._shared)
        at, rotate = self._layer_index[layer], self.spec.rotation.rotate
        new = (k, rotate(k, self._angles), v)
        for rows, layers in self._runs:
            parts = new if len(self._runs) == 1 else [t[:, :, rows] for t in new]
            for place, part in zip(layers[at], parts, strict=True):
                place.copy_(part)
        q = rotate(q, self._angles)
        if self.mass is not None:
            self.mass.note(at, q)
        keys, values = self._seen[at]
        return KVView(q, keys, values, self._bias, self._spare)

    @property
    def nbytes(self) -> int:
        """Bytes of the open pass alone: masks and angles. A single row's mask is the arena's own."""
        bias = None if self._bias is None or self._bias.dim() == 1 else self._bias
        held = [part if isinstance(part, tuple) else (part,) for part in (self._angles, *self._shared.values())]
        return storage_bytes((bias, *(tensor for parts in held for tensor in parts)))
