"""ObservingCache: an evicting memory that asks its last queries what they attend to.

TOVA asks one, SnapKV and PyramidKV a window of them. They are asked when rows must leave, about the rows that are
there. Queries of rows that could still be rolled back are not asked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megacontext.baselines.evicting import EvictingCache, Positions, attention_weights, flops_of_scores
from megacontext.baselines.limits import Limits
from nanochat.hook import BaseModel, KVView, ModelSpec


class LastQueries:
    """A layer's newest queries, in time order. rows: (H, m, d), not rotated. stop: the token after the newest."""

    is_part = True

    def __init__(self, spec: ModelSpec) -> None:
        self.rows = torch.empty(spec.heads, 0, spec.head_dim, dtype=spec.dtype, device=spec.device)
        self.stop = 0

    def add(self, raw: Tensor) -> None:
        """raw: (H, T, d) of the next T tokens."""
        self.rows = torch.cat((self.rows, raw), 1)
        self.stop += raw.shape[1]

    def before(self, stop: int, most: int) -> Tensor:
        """(H, m, d) the newest of those before token `stop`, at most `most`."""
        there = self.rows.shape[1] - max(self.stop - stop, 0)
        return self.rows[:, max(there - most, 0) : there]

    def cut(self, stop: int, most: int) -> None:
        """Keep only those."""
        self.rows, self.stop = self.before(stop, most), stop


class ObservingCache(EvictingCache):
    """window: how many of the last queries are asked."""

    def __init__(
        self, spec: ModelSpec, limits: Limits, *, window: int, positions: Positions, sinks: int, recent: int
    ) -> None:
        self.window = window
        super().__init__(spec, limits, positions=positions, sinks=sinks, recent=recent)

    def reset(self) -> None:
        super().reset()
        self._queries = {layer: LastQueries(self.spec) for layer in self.spec.memory_layers}

    def note(self, layer: int, raw_q: Tensor, view: KVView) -> None:
        self._queries[layer].add(raw_q[0])

    def settle(self, model: BaseModel) -> None:
        for queries in self._queries.values():
            queries.cut(self.length, self.window)

    def forget_notes(self) -> None:
        for queries in self._queries.values():
            queries.cut(self.length, self.window + self._unsettled)

    def observed(self, layer: int) -> Tensor:
        """(H, w, n) attention of the last w <= window queries to the first n rows: all that cannot be rolled back.

        The rows that these queries belong to are the last of the n, and each query sees those up to its own.
        """
        slots, seen = self.slots[layer], self.length - self._unsettled
        queries = self._queries[layer].before(seen, self.window)[None]
        rows, count = queries.shape[2], slots.count - self._unsettled
        stop = count if self.positions == "cache" else seen
        turned = self.spec.rotation.rotate(queries, self._turn(stop - rows, stop))
        view = KVView(turned, slots.keys[:, :, :count], slots.values[:, :, :count])
        self.selection_flops += flops_of_scores(view)
        return attention_weights(view)
