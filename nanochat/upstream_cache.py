"""Upstream's KVCache: its constructor, attributes and methods, on our hook.

Code that was written against upstream makes one without a model, passes it as `kv_cache`, and looks inside. The model
binds its rotation and windows at the first pass. Two things are better than upstream: a cache that is full grows
instead of dying of a shape error, and any number of rows may come in one pass. New code uses `DenseCache`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat import hook
from nanochat.hook import CacheUsage, KVView, Mark, ModelSpec, Stream
from nanochat.kv_cache import Windows, storage_bytes


class KVCache(hook.KVCache):
    """num_heads: KV heads. seq_len: slots to begin with. Keys are stored rotated, as upstream stores them.

    k_cache, v_cache: (L, B, S, Hk, d). cache_seqlens: (B,) int32, all equal. prev_embedding: (B, 1, D) or None.
    """

    def __init__(
        self,
        batch_size: int,
        num_heads: int,
        seq_len: int,
        head_dim: int,
        num_layers: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.batch_size, self.max_seq_len = batch_size, seq_len
        self.n_layers, self.n_heads, self.head_dim = num_layers, num_heads, head_dim
        shape = (num_layers, batch_size, seq_len, num_heads, head_dim)
        self.k_cache = torch.zeros(shape, device=device, dtype=dtype)
        self.v_cache = torch.zeros(shape, device=device, dtype=dtype)
        self.cache_seqlens = torch.zeros(batch_size, dtype=torch.int32, device=device)
        self.spec: ModelSpec | None = None
        self._windows = Windows(())
        self._angles: Any = None
        self._start = self._stop = 0

    # --- upstream's names ---

    @property
    def prev_embedding(self) -> Tensor | None:
        return self.carry

    @prev_embedding.setter
    def prev_embedding(self, value: Tensor | None) -> None:
        self.carry = value

    def get_pos(self) -> int:
        """Rows held. All rows of the batch stand at the same position."""
        return int(self.cache_seqlens[0])

    def get_layer_cache(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, (B, S, Hk, d) each: views, until the cache grows."""
        return self.k_cache[layer_idx], self.v_cache[layer_idx]

    def advance(self, num_tokens: int) -> None:
        self._reserve(self.get_pos() + num_tokens)
        self.cache_seqlens += num_tokens

    def prefill(self, other: KVCache) -> None:
        """Take over what `other`, of one row or of as many, holds. A misfit is an AssertionError, as upstream."""
        ours, theirs = _sizes(self), _sizes(other)
        if self.get_pos() != 0:
            raise AssertionError(f"this cache holds {self.get_pos()} rows already; reset() it or take a new one")
        if ours != theirs or self.max_seq_len < other.max_seq_len or other.batch_size not in (1, self.batch_size):
            raise AssertionError(
                f"cannot take over a cache of (layers, KV heads, head width) {theirs}, {other.batch_size} rows and "
                f"{other.max_seq_len} slots into one of {ours}, {self.batch_size} rows and {self.max_seq_len} slots"
            )
        length = other.get_pos()
        self.k_cache[:, :, :length] = other.k_cache[:, :, :length]
        self.v_cache[:, :, :length] = other.v_cache[:, :, :length]
        self.cache_seqlens.fill_(length)
        self.carry = None if other.carry is None else other.carry.expand(self.batch_size, -1, -1).clone()

    def reset(self) -> None:
        self.cache_seqlens.zero_()
        self.carry = None

    # --- the hook ---

    @property
    def length(self) -> int:  # type: ignore[override]
        return self.get_pos()

    def bind(self, spec: ModelSpec) -> None:
        """Learn rotation and windows of the model that is about to pass. Raises ValueError if the sizes differ."""
        if spec is self.spec:
            return
        sizes = (spec.layers, spec.kv_heads, spec.head_dim)
        if sizes != _sizes(self):
            raise ValueError(f"a cache of (layers, KV heads, head width) {_sizes(self)}, but the model has {sizes}")
        self.spec, self._windows = spec, Windows(spec.windows)

    def begin(self, stream: Stream) -> Tensor:
        if self.spec is None:
            raise ValueError("this cache belongs to no model yet; call model(idx, kv_cache=cache) or cache.bind(spec)")
        if stream.x.shape[0] != self.batch_size:
            raise ValueError(f"a pass of {stream.x.shape[0]} rows side by side, but batch_size is {self.batch_size}")
        self._start = self.get_pos()
        self._stop = self._start + stream.rows
        self.advance(stream.rows)
        self._windows.begin()
        positions = torch.arange(self._start, self._stop, device=self.k_cache.device)
        self.spec.rotation.reserve(self._stop)
        self._angles = self.spec.rotation.at(positions)
        return positions.expand(self.batch_size, -1)

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        assert self.spec is not None
        rotate, start, stop = self.spec.rotation.rotate, self._start, self._stop
        keys, values = (cache.transpose(1, 2) for cache in self.get_layer_cache(layer))
        keys[:, :, start:stop] = rotate(k, self._angles)
        values[:, :, start:stop] = v
        q = rotate(q, self._angles)
        return self._windows.view(layer, q, keys[:, :, :stop].to(q.dtype), values[:, :, :stop].to(q.dtype))

    def _reserve(self, length: int) -> None:
        if length <= self.max_seq_len:
            return
        more = max(length, 2 * self.max_seq_len) - self.max_seq_len
        padding = self.k_cache.new_zeros(self.n_layers, self.batch_size, more, self.n_heads, self.head_dim)
        self.k_cache = torch.cat([self.k_cache, padding], 2)
        self.v_cache = torch.cat([self.v_cache, padding], 2)
        self.max_seq_len += more

    @property
    def usage(self) -> CacheUsage:
        angles = self._angles if isinstance(self._angles, tuple) else ()
        held = (self.k_cache, self.v_cache, self.cache_seqlens, self.carry, *angles, *self._windows.biases.values())
        return CacheUsage(self.length, self.length, self._windows.widest(self.length), storage_bytes(held))

    def fork(self, batch: int = 1) -> KVCache:
        if self.batch_size not in (1, batch):
            raise ValueError(f"cannot fork {self.batch_size} rows to {batch}; only one row broadcasts")
        device, dtype = self.k_cache.device, self.k_cache.dtype
        twin = KVCache(batch, self.n_heads, self.max_seq_len, self.head_dim, self.n_layers, device, dtype)
        twin.prefill(self)
        if self.spec is not None:
            twin.bind(self.spec)
        return twin

    def rollback(self, mark: Mark) -> None:
        if not 0 <= mark.length <= self.length:
            raise ValueError(f"cannot roll forward from length {self.length} to {mark.length}; the mark is stale")
        self.cache_seqlens.fill_(mark.length)
        self.carry = mark.carry


def _sizes(cache: KVCache) -> tuple[int, int, int]:
    return (cache.n_layers, cache.n_heads, cache.head_dim)
