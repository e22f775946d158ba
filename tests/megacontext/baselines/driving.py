"""Passes of made-up queries, keys and values through a cache, written down for plain loops that say what is right."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from megacontext.testing.toy import cached_logits, ids, run, toy_model
from nanochat.hook import BaseModel, KVCache, KVView, ModelSpec, Stream


def assert_no_trace(model: BaseModel, cache: KVCache, plain: KVCache, tail: list[int], other: list[int]) -> Tensor:
    """A fork goes another way, rows are taken back: then `cache` reads on as `plain` does. Logits (T, V)."""
    cached_logits(model, cache.fork(), other, [4] * (len(other) // 4))
    mark = cache.mark()
    run(model, cache, ids(model, other[:7]))
    cache.rollback(mark)
    ours, theirs = (cached_logits(model, each, tail, [4] * (len(tail) // 4)) for each in (cache, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    return ours


def one_layer_spec() -> ModelSpec:
    """A memory layer alone: 4 query heads, 2 KV heads."""
    return toy_model("G0", n_layer=1, sequence_len=512, window_pattern="L").spec


@dataclass
class Driver:
    """queries (H, n, d), keys and values (Hk, n, d) not rotated; views of every pass."""

    spec: ModelSpec
    cache: KVCache
    seed: int = 0
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    views: list[KVView] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = torch.Generator().manual_seed(self.seed)

    def go(self, *passes: int, maintain: bool = True) -> KVView:
        """A pass of so many rows, and another; the last one's view."""
        for rows in passes:
            self.cache.begin(Stream(torch.zeros(1, rows, self.spec.width)))
            q = torch.randn(1, self.spec.heads, rows, self.spec.head_dim, generator=self.rng)
            k, v = torch.randn(2, 1, self.spec.kv_heads, rows, self.spec.head_dim, generator=self.rng)
            for rows_of, made in ((self.queries, q), (self.keys, k), (self.values, v)):
                rows_of.extend(made[0].unbind(1))
            self.views.append(self.cache.update(0, q, k, v))
            if maintain:
                self.cache.maintain(None)  # type: ignore[arg-type]  # these caches ask nothing of a model
        return self.views[-1]

    def turned(self, row: Tensor, position: int) -> Tensor:
        """(heads, d) rotated to a position."""
        rotation = self.spec.rotation
        rotation.reserve(position + 1)
        return rotation.rotate(row[None, :, None], rotation.at(torch.tensor([position])))[0, :, 0]
