"""Llama-family decoder behind the hook: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Covers Llama 1 to 3, SmolLM, TinyLlama, Mistral: tied or untied heads, optional biases, any head width.
It knows neither file formats (see `gguf.py`, `safetensors.py`) nor positions and masks (the cache owns them).

For speed on a CPU the three attention inputs and the two MLP inputs are one matrix each, tensors are plain attributes,
and a pass over one row is little more than one read of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.models.base import ModelFileError, Weights, fingerprint
from nanochat.attention import attention
from nanochat.hook import KVCache, ModelSpec, Stream
from nanochat.rotary import Rotary


@dataclass(frozen=True)
class LlamaConfig:
    """Numbers of one model. frequencies: (head_dim / 2) radians a position, scaling included.

    window: a row sees itself and `window - 1` rows before it (transformers' `sliding_window`); None for all.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    eps: float
    max_position: int
    frequencies: tuple[float, ...]
    window: int | None = None


@dataclass(frozen=True)
class Layer:
    """One block's tensors, inputs fused: qkv ((H + 2 Hk) d, D), gate_up (2 F, D)."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class Llama:
    """Implements `nanochat.hook.BaseModel`. Weights are frozen."""

    def __init__(self, config: LlamaConfig, weights: Weights, *, dtype: torch.dtype, device: str = "cpu") -> None:
        """Reads every tensor once. Raises ModelFileError for a missing tensor or a wrong shape."""
        self.config = config
        read = _Reader(config, weights, dtype, torch.device(device))
        self.embedding = read("model.embed_tokens.weight", config.vocab, config.width)
        self.layers = [read.layer(index) for index in range(config.layers)]
        self.norm = read("model.norm.weight", config.width)
        tied = "lm_head.weight" not in weights
        self.head = self.embedding if tied else read("lm_head.weight", config.vocab, config.width)
        self._spec = _spec(config, weights.fingerprint, dtype, torch.device(device))

    def tensors(self) -> Iterator[Tensor]:
        """Every weight; a tied head comes twice."""
        yield from (self.embedding, self.norm, self.head)
        for layer in self.layers:
            yield from (tensor for tensor in vars(layer).values() if tensor is not None)

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def embed(self, tokens: Tensor) -> Stream:
        """tokens (B, T) int64 -> Stream."""
        return Stream(F.embedding(tokens, self.embedding), tokens)

    def forward(self, stream: Stream, cache: KVCache) -> Tensor:
        """One pass over the new rows -> final normalised hidden rows (B, T, D)."""
        cache.begin(stream)
        x = stream.x
        for index, layer in enumerate(self.layers):
            x = self._attend(index, layer, x, cache)
            x = self._mlp(layer, x)
        return self._normalise(x, self.norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> (B, T, V) float32. Slice `hidden` first: every row costs a pass over the vocabulary."""
        return F.linear(hidden, self.head).float()

    def _attend(self, index: int, layer: Layer, x: Tensor, cache: KVCache) -> Tensor:
        batch, rows, _ = x.shape
        heads, kv_heads = self.config.heads, self.config.kv_heads
        fused = F.linear(self._normalise(x, layer.input_norm), layer.qkv, layer.qkv_bias)
        by_head = fused.view(batch, rows, heads + 2 * kv_heads, self.config.head_dim).transpose(1, 2)
        q, k, v = by_head.split((heads, kv_heads, kv_heads), 1)
        return x + F.linear(attention(cache.update(index, q, k, v)), layer.out, layer.out_bias)

    def _mlp(self, layer: Layer, x: Tensor) -> Tensor:
        fused = F.linear(self._normalise(x, layer.mlp_norm), layer.gate_up, layer.gate_up_bias)
        gate, up = fused.split(self.config.inner, -1)
        return x + F.linear(F.silu(gate) * up, layer.down, layer.down_bias)

    def _normalise(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (self.config.width,), weight, self.config.eps)


def _spec(config: LlamaConfig, weights: str, dtype: torch.dtype, device: torch.device) -> ModelSpec:
    """Keys computed in another dtype are other keys: the dtype is part of the fingerprint."""
    frequencies = torch.tensor(config.frequencies, dtype=torch.float32)
    windows = () if config.window is None else (config.window - 1,) * config.layers
    return ModelSpec(
        family="llama",
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        width=config.width,
        vocab=config.vocab,
        max_position=config.max_position,
        rotation=Rotary(frequencies, dtype=dtype, device=device),
        dtype=dtype,
        device=device,
        windows=windows,
        memory_layers=tuple(range(config.layers)),
        fingerprint=fingerprint([weights.encode(), repr(config).encode(), str(dtype).encode()]),
    )


class _Reader:
    """Takes tensors out of a file, checks their shapes, fuses what is used together."""

    def __init__(self, config: LlamaConfig, weights: Weights, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.weights, self.dtype, self.device = config, weights, dtype, device

    def __call__(self, name: str, *shape: int) -> Tensor:
        if name not in self.weights:
            raise ModelFileError(f"the model file has no tensor {name!r}: it is incomplete, or of another family")
        if (found := self.weights.shape(name)) != shape:
            raise ModelFileError(f"tensor {name!r} has shape {found}, its configuration asks for {shape}")
        return self.weights.tensor(name).to(self.device, self.dtype).contiguous()

    def layer(self, index: int) -> Layer:
        c, at = self.config, f"model.layers.{index}"
        attend, mlp = f"{at}.self_attn", f"{at}.mlp"
        query, key = c.heads * c.head_dim, c.kv_heads * c.head_dim
        qkv = {f"{attend}.q_proj": query, f"{attend}.k_proj": key, f"{attend}.v_proj": key}
        gate_up = {f"{mlp}.gate_proj": c.inner, f"{mlp}.up_proj": c.inner}
        return Layer(
            input_norm=self(f"{at}.input_layernorm.weight", c.width),
            qkv=self._fused(qkv, c.width),
            qkv_bias=self._fused_bias(qkv),
            out=self(f"{attend}.o_proj.weight", c.width, query),
            out_bias=self._fused_bias({f"{attend}.o_proj": c.width}),
            mlp_norm=self(f"{at}.post_attention_layernorm.weight", c.width),
            gate_up=self._fused(gate_up, c.width),
            gate_up_bias=self._fused_bias(gate_up),
            down=self(f"{mlp}.down_proj.weight", c.width, c.inner),
            down_bias=self._fused_bias({f"{mlp}.down_proj": c.width}),
        )

    def _fused(self, parts: dict[str, int], width: int) -> Tensor:
        return torch.cat([self(f"{name}.weight", rows, width) for name, rows in parts.items()])

    def _fused_bias(self, parts: dict[str, int]) -> Tensor | None:
        """None when no part has one; a part without one gets zeros."""
        if not any(f"{name}.bias" in self.weights for name in parts):
            return None
        zeros = {"device": self.device, "dtype": self.dtype}
        return torch.cat(
            [self(f"{n}.bias", r) if f"{n}.bias" in self.weights else torch.zeros(r, **zeros) for n, r in parts.items()]
        )
