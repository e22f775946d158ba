"""What a block is worth in view: the loss of the tokens ahead without it and with it.

The view is the first blocks and the recent text, at compact positions, with the keys and values of the shadow. A layer
that is no memory layer sees its window of the text before, as in any memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.baselines.rereading import cost_of_reading
from megacontext.evaluation.oracles.shadow import WatchedCache
from nanochat.hook import BaseModel, CacheUsage, KVCache, KVView, Mark, Stream
from nanochat.kv_cache import Windows

TOGETHER = 8  # views of one pass


class ChosenView(KVCache):
    """One pass of rows that follow on row `start` of a shadow and see only `slots` (B, S) of it, in that order."""

    def __init__(self, shadow: WatchedCache, slots: Tensor, start: int, carry: Tensor | None) -> None:
        self.shadow, self.slots, self.start, self.spec = shadow, slots, start, shadow.spec
        self.carry = None if carry is None else carry.expand(len(slots), -1, -1)
        self._windows = Windows(self.spec.windows)

    def begin(self, stream: Stream) -> Tensor:
        rotation, before = self.spec.rotation, self.slots.shape[1]
        self.length = self.start + stream.rows
        rows = torch.arange(stream.rows, device=stream.x.device)
        rotation.reserve(max(self.length, before + stream.rows))
        self._windows.begin()
        self._of_slots = rotation.at(torch.arange(before, device=rows.device))
        self._of_rows, self._in_text = rotation.at(before + rows), rotation.at(self.start + rows)
        return (rows + (before if self.spec.relocatable else self.start)).expand(len(self.slots), -1)

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        rotate = self.spec.rotation.rotate
        if layer not in self.spec.memory_layers:
            return self._near(layer, q, k, v)
        keys, values = self.shadow.chosen(layer, self.slots)
        keys = torch.cat([rotate(keys, self._of_slots), rotate(k, self._of_rows)], 2)
        return KVView(rotate(q, self._of_rows), keys, torch.cat([values, v], 2))

    def _near(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        rotate, first = self.spec.rotation.rotate, max(0, self.start - (self.spec.windows[layer] or 0))
        near = [old.expand(len(q), -1, -1, -1) for old in self.shadow.stretch(layer, first, self.start)]
        keys = torch.cat([near[0], rotate(k, self._in_text)], 2)
        return self._windows.view(layer, rotate(q, self._in_text), keys, torch.cat([near[1], v], 2))

    @property
    def usage(self) -> CacheUsage:
        slots = self.slots.shape[1]
        return CacheUsage(self.length, slots, slots, self.slots.nbytes)

    def reset(self) -> None:
        raise ValueError("a ChosenView is for one pass")

    def fork(self, batch: int = 1) -> KVCache:
        raise ValueError("a ChosenView is for one pass")

    def rollback(self, mark: Mark) -> None:
        raise ValueError("a ChosenView is for one pass")


class Trial:
    """One view to which blocks are added. block: tokens of one. Tokens before `first` and from `recent_start` on stay.

    text: history, of which the last row is read again, and the tokens ahead, from `start` on. carry: the model's state
    before that row. flops: about what its views took so far.
    """

    def __init__(
        self,
        model: BaseModel,
        shadow: WatchedCache,
        text: Sequence[int],
        start: int,
        carry: Tensor | None,
        *,
        block: int,
        first: int,
        recent_start: int,
    ) -> None:
        self.model, self.shadow, self.block, self.carry = model, shadow, block, carry
        self.rows, self.targets, self.start = text[start - 1 : -1], text[start:], start - 1
        self.flops = 0
        self.first, self.recent = list(range(first)), list(range(recent_start, start - 1))

    def gains(self, blocks: Sequence[int]) -> list[float]:
        """Nats a token by which each block, alone, lowers the loss of the tokens ahead."""
        without = self._losses([[]])[0]
        found: list[float] = []
        for at in range(0, len(blocks), TOGETHER):
            added = [list(range(n * self.block, (n + 1) * self.block)) for n in blocks[at : at + TOGETHER]]
            found += [without - loss for loss in self._losses(added)]
        return found

    def _losses(self, added: Sequence[list[int]]) -> list[float]:
        """Mean loss of the tokens ahead with these rows in view as well, all equally many."""
        device = self.model.spec.device
        slots = torch.tensor([[*self.first, *rows, *self.recent] for rows in added], device=device)
        rows = torch.tensor([list(self.rows)] * len(added), device=device)
        self.flops += len(added) * cost_of_reading(self.model, slots.shape[1], len(self.rows))
        targets = torch.tensor(list(self.targets), device=device)
        with torch.inference_mode():
            view = ChosenView(self.shadow, slots.long(), self.start, self.carry)
            hidden = self.model.forward(self.model.embed(rows), view)
            return [float(F.cross_entropy(self.model.logits(one[None])[0], targets)) for one in hidden]
