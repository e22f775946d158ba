"""Rows for a plain cache that nobody computed there: keys and values of one real passage, again and again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.hook import BaseModel, KVCache, KVView, ModelSpec, Stream
from nanochat.kv_cache import DenseCache


class _Noting(DenseCache):
    """Keeps what each layer brought: keys as they came, and values."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.brought: list[tuple[Tensor, Tensor]] = []

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        self.brought.append((k.clone(), v.clone()))
        return super().update(layer, q, k, v)


@torch.no_grad()
def fill(model: BaseModel, cache: KVCache, rows: int, text: Sequence[int]) -> None:
    """`rows` more rows in a plain cache: real keys and values of `text`, again and again, at new positions."""
    spec = model.spec
    noting = _Noting(spec)
    tokens = torch.tensor([list(text)], device=spec.device)
    model.forward(model.embed(tokens), noting)
    for done in range(0, rows, len(text)):
        _put(cache, noting.brought, min(len(text), rows - done), spec)


def _put(cache: KVCache, brought: list[tuple[Tensor, Tensor]], rows: int, spec: ModelSpec) -> None:
    """A pass without a model: its rows' keys and values are there already."""
    empty = torch.zeros(1, rows, spec.width, dtype=spec.dtype, device=spec.device)
    cache.begin(Stream(empty, torch.zeros(1, rows, dtype=torch.long, device=spec.device)))
    queries = torch.zeros(1, spec.heads, 1, spec.head_dim, dtype=spec.dtype, device=spec.device)
    for layer, (keys, values) in enumerate(brought):
        cache.update(layer, queries.expand(-1, -1, rows, -1), keys[:, :, :rows], values[:, :, :rows])
