"""A block's page from its tokens, when it is nowhere else: the model reads them once more, without the memory.

The block is read after the first block and the text right before it, at compact positions. That is what it had around
itself when it was new, but not the far pages that were in view then: near to the page that was lost, not equal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megacontext.arena import Page
from megacontext.span import Grid
from megacontext.tree.memory_tree import MemoryTree
from nanochat.hook import BaseModel, KVView
from nanochat.kv_cache import NoCache

AROUND = 256  # tokens right before the block that are read with it


@torch.no_grad()
def recompute_page(model: BaseModel, tree: MemoryTree, grid: Grid, number: int) -> Page:
    """The page of block `number`: keys (not rotated) and values, (L, Hk, block, d)."""
    start, end = number * grid.block, (number + 1) * grid.block
    around = min(AROUND, model.spec.max_position - 2 * grid.block)
    begin = max(start - around, 0) // grid.block * grid.block
    first = tree.tokens(0, min(grid.block, begin))
    text = torch.tensor([first + tree.tokens(begin, end)], device=model.spec.device)
    door = _Capture(model, grid.block)
    model.forward(model.embed(text), door)
    return Page(torch.stack(door.keys), torch.stack(door.values))


class _Capture(NoCache):
    """One pass alone, that writes down the last rows' keys and values of each memory layer."""

    def __init__(self, model: BaseModel, rows: int) -> None:
        super().__init__(model.spec)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._rows, self._layers = rows, frozenset(model.spec.memory_layers)

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        if layer in self._layers:
            self.keys.append(k[0, :, -self._rows :].to(self.spec.dtype).clone())
            self.values.append(v[0, :, -self._rows :].to(self.spec.dtype).clone())
        return super().update(layer, q, k, v)
