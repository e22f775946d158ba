"""nanochat's GPT, every checkpoint generation, behind the hook.

Notable features:
- the generation is a table of constants (`generations.py`); a checkpoint of any age computes what it computed then
- rotary positions, QK-norm, untied embeddings, squared ReLU, norms without weights, no biases, grouped-query attention
- since G1 learned residual scales and sliding windows, since G2 value embeddings, since G4 smear and backout
- two ways to call it: `forward(stream, cache)` is the hook, `forward(idx, targets, kv_cache)` is upstream's

It does not know where rows sit, which rows they see, or what is remembered: all of that is the cache's. Keys and
queries leave a block normalised and un-rotated (upstream rotates first; both ways give the same, see `KeyRotation`).

Shapes: B batch, T rows, D model width, H query heads, Hk KV heads, d head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast, overload

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from nanochat import common
from nanochat.generations import LATEST, SMEAR_CHANNELS, Generation
from nanochat.gpt_block import (
    MLP,
    Block,
    CausalSelfAttention,
    Linear,
    Transformer,
    apply_rotary_emb,
    has_ve,
    norm,
)
from nanochat.gpt_cost import GPTCost
from nanochat.gpt_init import init_weights
from nanochat.gpt_spec import SpecCache
from nanochat.hook import KVCache, ModelSpec, Stream
from nanochat.kv_cache import NoCache
from nanochat.sampling import Sampler

__all__ = [
    "GPT",
    "MLP",
    "Block",
    "CausalSelfAttention",
    "GPTConfig",
    "Linear",
    "apply_rotary_emb",
    "has_ve",
    "norm",
]


@dataclass
class GPTConfig:
    """Sizes of a model. Field names and defaults are upstream's: a checkpoint's meta holds asdict(config)."""

    sequence_len: int = 2048
    vocab_size: int = 32768
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768
    window_pattern: str = "SSSL"

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head or (self.n_embd // self.n_head) % 2:
            raise ValueError(f"n_embd {self.n_embd} must divide into n_head {self.n_head} heads of even width")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} must be a multiple of n_kv_head {self.n_kv_head}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPTConfig:
        """Raises ValueError naming any key that is no field."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"unknown model_config key {key!r}; known are {', '.join(known)}")
        return cls(**values)

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


class GPT(GPTCost, nn.Module):
    """Implements `nanochat.hook.BaseModel`.

    pad_vocab_size_to: vocabulary rows are padded to a multiple of it; the rows that a checkpoint has are always right.
    compute_dtype: dtype of activations, None for common.COMPUTE_DTYPE; weights stay as they are.
    The constructor works on the meta device.
    """

    def __init__(
        self,
        config: GPTConfig,
        pad_vocab_size_to: int = 64,
        *,
        generation: Generation = LATEST,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.generation = config, generation
        self.compute_dtype = compute_dtype or common.COMPUTE_DTYPE
        self.windows = generation.windows(config.window_pattern, config.n_layer, config.sequence_len)
        self._check_width()
        self._specs = SpecCache()
        layers, width = config.n_layer, config.n_embd
        padded = -(-config.vocab_size // pad_vocab_size_to) * pad_vocab_size_to
        self.transformer = Transformer(config, padded, generation)
        self.lm_head = Linear(width, padded)
        if generation.lambdas:
            self.resid_lambdas = nn.Parameter(torch.ones(layers))
            self.x0_lambdas = nn.Parameter(torch.zeros(layers))
        if generation.gate_channels:
            kv_width = config.n_kv_head * config.head_dim
            with_values = [i for i in range(layers) if has_ve(i, layers)]
            self.value_embeds = nn.ModuleDict({str(i): nn.Embedding(padded, kv_width) for i in with_values})
        if generation.smear:
            self.smear_gate = Linear(SMEAR_CHANNELS, 1)
            self.smear_lambda = nn.Parameter(torch.zeros(1))
            self.backout_lambda = nn.Parameter(torch.full((1,), 0.2))

    def _check_width(self) -> None:
        needed = max(self.generation.gate_channels, SMEAR_CHANNELS if self.generation.smear else 0)
        if self.config.n_embd < needed:
            raise ValueError(f"n_embd is {self.config.n_embd}; {self.generation.name} needs at least {needed}")

    # --- the hook ---

    @property
    def spec(self) -> ModelSpec:
        return self._specs.get(self)

    def embed(self, tokens: Tensor) -> Stream:
        """tokens (B, T) int64 -> Stream. Value embeddings are looked up by tokens; `side` can bring others."""
        return Stream(norm(self.transformer.wte(tokens).to(self.compute_dtype)), tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> (B, T, V) float32, softly capped."""
        raw = self.lm_head(hidden)[..., : self.config.vocab_size].float()
        return self.generation.softcap * torch.tanh(raw / self.generation.softcap)

    @overload
    def forward(self, stream: Stream, cache: KVCache) -> Tensor: ...

    @overload
    def forward(
        self, idx: Tensor, targets: Tensor | None = ..., kv_cache: KVCache | None = ..., loss_reduction: str = ...
    ) -> Tensor: ...

    def forward(  # type: ignore[misc]  # the first argument has two names and goes by position
        self,
        idx: Tensor | Stream,
        targets: Tensor | KVCache | None = None,
        kv_cache: KVCache | None = None,
        loss_reduction: str = "mean",
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        """The hook: forward(stream, cache) -> final normalised rows (B, T, D).

        Upstream: forward(idx (B, T), targets (B, T) or None, kv_cache, loss_reduction 'mean' | 'sum' | 'none') ->
        logits (B, T, V) float32 without targets, else the cross entropy over targets other than -1.
        """
        if isinstance(idx, Stream):
            return self._rows(idx, cast(KVCache, targets if cache is None else cache))
        logits = self.logits(self._rows(self.embed(idx), self._cache(kv_cache)))
        if targets is None:
            return logits
        flat = cast(Tensor, targets).reshape(-1)
        return F.cross_entropy(logits.flatten(0, 1), flat, ignore_index=-1, reduction=loss_reduction)

    def _cache(self, cache: KVCache | None) -> KVCache:
        if cache is None:
            return NoCache(self._specs.get(self, fingerprint=False))
        if not isinstance(cache, KVCache):
            raise TypeError(f"kv_cache is a {type(cache).__name__}; it must implement nanochat.hook.KVCache")
        bind = getattr(cache, "bind", None)  # upstream's KVCache is made without a model
        if bind is not None:
            bind(self._specs.get(self, fingerprint=False))
        return cache

    def _rows(self, stream: Stream, cache: KVCache) -> Tensor:
        cache.begin(stream)
        x = self._smear(stream.x, cache) if self.generation.smear else stream.x
        x0, middle = x, x
        for i, block in enumerate(self.transformer.blocks):
            if self.generation.lambdas:
                x = self.resid_lambdas[i] * x + self.x0_lambdas[i] * x0
            x = block(x, self._value(i, stream), cache)
            if i == self.config.n_layer // 2:
                middle = x
        if self.generation.smear:
            x = x - self.backout_lambda.to(x.dtype) * middle
        return norm(x)

    def _smear(self, x: Tensor, cache: KVCache) -> Tensor:
        """Mix the previous row into each row. The first row of a chunk finds its previous one in the cache's carry."""
        first = torch.zeros_like(x[:, :1]) if cache.carry is None else cache.carry.to(x.dtype)
        cache.carry = x[:, -1:].clone()  # a clone: a view would keep the whole chunk alive
        gate = self.smear_lambda.to(x.dtype) * torch.sigmoid(self.smear_gate(x[..., :SMEAR_CHANNELS]))
        return x + gate * torch.cat([first, x[:, :-1]], 1)

    def _value(self, layer: int, stream: Stream) -> Tensor | None:
        """(B, T, Hk * d) value embeddings of a layer, or None. Rows that are no tokens bring theirs in `side`."""
        if not self.generation.gate_channels or not has_ve(layer, self.config.n_layer):
            return None
        given = stream.side.get(f"value_embeds.{layer}")
        if given is None and stream.tokens is not None:
            given = self.value_embeds[str(layer)](stream.tokens)
        return None if given is None else given.to(stream.x.dtype)

    # --- upstream's public helpers; those about cost are in gpt_cost.py ---

    def get_device(self) -> torch.device:
        return self.transformer.wte.weight.device

    @property
    def window_sizes(self) -> list[tuple[int, int]]:
        """Per layer (left, right), as upstream; (-1, 0) for full attention."""
        return [(-1 if window is None else window, 0) for window in self.windows]

    def init_weights(self) -> None:
        init_weights(self)

    def cast_for_inference(self, dtype: torch.dtype) -> GPT:
        """Matrices and embeddings to `dtype`, which becomes the compute dtype; learned scalars keep float32."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                parameter.data = parameter.data.to(dtype)
        self.compute_dtype = dtype
        return self

    @torch.no_grad()
    def generate(
        self,
        tokens: Sequence[int],
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 42,
    ) -> Iterator[int]:
        """The naive reference: no cache, one row, no stop tokens, no tools. Yields `max_tokens` ids."""
        sample = Sampler(temperature, top_k, seed)
        ids = torch.tensor([list(tokens)], dtype=torch.long, device=self.get_device())
        for _ in range(max_tokens):
            token = sample(self(ids)[:, -1])
            ids = torch.cat([ids, ids.new_tensor([[token]])], 1)
            yield token
