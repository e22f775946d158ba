"""A model written against upstream, put behind the hook so that one engine serves both.

Such a model has `config`, `get_device()` and `forward(ids, kv_cache=...) -> logits (B, T, V)`, and moves the cache on
by itself. Its logits pass through the hook as if they were hidden rows.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from nanochat import common
from nanochat.hook import KVCache, ModelSpec, Stream
from nanochat.rotary import NoRotation
from nanochat.upstream_cache import KVCache as UpstreamCache


class UpstreamModel:
    """Implements `nanochat.hook.BaseModel` for one model."""

    def __init__(self, model: Any) -> None:
        for name in ("config", "get_device", "forward"):
            if not hasattr(model, name):
                raise TypeError(f"{type(model).__name__} has no {name}; it must be a nanochat.hook.BaseModel")
        self.model = model

    @property
    def spec(self) -> ModelSpec:
        config, device = self.model.config, self.model.get_device()
        return ModelSpec(
            family="upstream",
            layers=config.n_layer,
            heads=config.n_head,
            kv_heads=config.n_kv_head,
            head_dim=config.n_embd // config.n_head,
            width=config.n_embd,
            vocab=getattr(config, "vocab_size", 0),
            max_position=config.sequence_len,
            rotation=NoRotation(),
            dtype=common.COMPUTE_DTYPE,
            device=device,
            relocatable=False,
        )

    def cache(self, slots: int) -> UpstreamCache:
        """An empty cache of upstream's kind, of at least sequence_len slots."""
        spec = self.spec
        seq_len = max(slots, spec.max_position)
        return UpstreamCache(1, spec.kv_heads, seq_len, spec.head_dim, spec.layers, spec.device, spec.dtype)

    def embed(self, tokens: Tensor) -> Stream:
        return Stream(tokens.unsqueeze(-1), tokens)

    def forward(self, stream: Stream, cache: KVCache) -> Tensor:
        return cast(Tensor, self.model.forward(stream.tokens, kv_cache=cache))

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.float()
