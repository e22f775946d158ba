"""What is known of a block, from its tokens, when it is nowhere else: the model reads them once more, with no memory.

The block is read after the first block and the text right before it, at compact positions. That is what it had around
itself when it was new, but not the far pages that were in view then: near to the page that was lost, not equal. For the
attention that it received, the text right after it is read, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megacontext.arena import Page
from megacontext.span import Grid
from megacontext.tree.memory_tree import MemoryTree
from nanochat.hook import BaseModel, KVView
from nanochat.kv_cache import NoCache, window_bias

AROUND = 256  # tokens right before the block that are read with it
AFTER = 64  # tokens right after it, whose attention is measured


@torch.no_grad()
def recompute_page(model: BaseModel, tree: MemoryTree, grid: Grid, number: int) -> Page:
    """The page of block `number`: keys (not rotated) and values, (L, Hk, block, d)."""
    start, end = number * grid.block, (number + 1) * grid.block
    door = _Capture(model, grid.block)
    _read(model, door, _before(model, tree, grid, start, 0) + tree.tokens(start, end))
    return Page(torch.stack(door.keys), torch.stack(door.values))


@torch.no_grad()
def measure_attention(model: BaseModel, tree: MemoryTree, grid: Grid, number: int) -> Tensor:
    """The attention (L, Hk, block) that block `number` gets from the text right after it, or from itself at the end."""
    start, end = number * grid.block, (number + 1) * grid.block
    after = tree.tokens(end, end + min(AFTER, max(model.spec.max_position - 2 * grid.block, 0)))
    before = _before(model, tree, grid, start, len(after))
    door = _Measure(model, range(len(before), len(before) + grid.block), len(after) or grid.block)
    _read(model, door, before + tree.tokens(start, end) + after)
    return torch.stack(door.mass)


def _before(model: BaseModel, tree: MemoryTree, grid: Grid, start: int, after: int) -> list[int]:
    """What is read before a block at `start`, so that `after` more tokens fit behind it."""
    around = min(AROUND, max(model.spec.max_position - 2 * grid.block - after, 0))
    begin = max(start - around, 0) // grid.block * grid.block
    return tree.tokens(0, min(grid.block, begin)) + tree.tokens(begin, start)


def _read(model: BaseModel, door: NoCache, tokens: list[int]) -> None:
    model.forward(model.embed(torch.tensor([tokens], device=model.spec.device)), door)


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


class _Measure(NoCache):
    """One pass alone, that writes down how much the last rows look at `block`, in each memory layer."""

    def __init__(self, model: BaseModel, block: range, rows: int) -> None:
        super().__init__(model.spec)
        self.mass: list[Tensor] = []  # (Hk, block) each
        self._block, self._rows, self._layers = block, rows, frozenset(model.spec.memory_layers)

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        view = super().update(layer, q, k, v)
        if layer in self._layers:
            self.mass.append(self._mass(view))
        return view

    def _mass(self, view: KVView) -> Tensor:
        """As focus/attention_mass.py: probabilities, the mean over a KV head's queries, summed over rows."""
        heads, rows, slots = self.spec.kv_heads, self._rows, view.keys.shape[2]
        queries = view.q[0, :, -rows:].view(heads, -1, rows, self.spec.head_dim)
        scores = (queries @ view.keys[0, :, None].transpose(-1, -2)).float() * self.spec.head_dim**-0.5
        weights = (scores + window_bias(rows, slots, slots, scores.device, scores.dtype)).softmax(-1)
        return weights[..., self._block.start : self._block.stop].mean(1).sum(1)
