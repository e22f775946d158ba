"""Llama-family decoder behind the hook: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Covers Llama 1 to 3, SmolLM, TinyLlama, Mistral: tied or untied heads, optional biases, any head width.
It knows neither file formats (see `gguf.py`, `folder.py`) nor positions and masks (the cache owns them).

For speed the three attention inputs and the two MLP inputs are one matrix each, and matrices are laid out for the
machine (`linear.py`): a pass over one row is little more than one read of the weights.
In a bf16 model the residual stream and the norms are float32, and on a CPU the head is too: a logit of 25 rounded to
bf16 moves by up to 0.06, which makes ties. On SmolLM2-135M that lowers the KL divergence from float32 from 0.0013 to
0.0003 nats a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.models.base import ModelFileError, Weights, fingerprint
from megacontext.models.linear import Linear
from megacontext.models.tensors import TensorReader
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

    def __post_init__(self) -> None:
        """Raises ModelFileError for numbers that no model has together."""
        if self.heads % self.kv_heads:
            raise ModelFileError(f"{self.heads} query heads cannot share {self.kv_heads} key heads evenly")
        if self.head_dim % 2 or len(self.frequencies) != self.head_dim // 2:
            raise ModelFileError(f"a head of width {self.head_dim} cannot be rotated: the width must be even")


@dataclass(frozen=True)
class Layer:
    """One block, inputs fused: qkv (D -> (H + 2 Hk) d), gate_up (D -> 2 F)."""

    input_norm: Tensor
    qkv: Linear
    out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear

    @property
    def parameters(self) -> int:
        matrices = (self.qkv, self.out, self.gate_up, self.down)
        return sum(matrix.parameters for matrix in matrices) + self.input_norm.numel() + self.mlp_norm.numel()

    @property
    def nbytes(self) -> int:
        matrices = (self.qkv, self.out, self.gate_up, self.down)
        return sum(matrix.nbytes for matrix in matrices) + self.input_norm.nbytes + self.mlp_norm.nbytes


class Llama:
    """Implements `nanochat.hook.BaseModel`. Weights are frozen."""

    def __init__(
        self, config: LlamaConfig, weights: Weights, *, dtype: torch.dtype, device: str = "cpu", pack: bool = True
    ) -> None:
        """Reads every tensor once. pack: lay matrices out for the CPU where it can be done; no gradient passes then.

        Raises ModelFileError for a missing tensor or a wrong shape.
        """
        self.config = config
        read = _Reader(config, weights, dtype=dtype, device=device, pack=pack)
        self.embedding = read("model.embed_tokens.weight", config.vocab, config.width)
        self.layers = [read.layer(index) for index in range(config.layers)]
        self.norm = read.norm("model.norm.weight")
        self.tied = "lm_head.weight" not in weights
        head = self.embedding if self.tied else read("lm_head.weight", config.vocab, config.width)
        self.head = read.head(head)
        self._spec = _spec(config, weights.fingerprint, dtype, read.device)

    @property
    def parameters(self) -> int:
        """How many numbers the model has; a tied head counts once."""
        layers = sum(layer.parameters for layer in self.layers)
        return layers + self.embedding.numel() + self.norm.numel() + (0 if self.tied else self.head.parameters)

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights occupy; a head may be a second copy of the embedding, in another layout or dtype."""
        head = 0 if self.head.weight is self.embedding else self.head.nbytes
        return sum(layer.nbytes for layer in self.layers) + self.embedding.nbytes + self.norm.nbytes + head

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def embed(self, tokens: Tensor) -> Stream:
        """tokens (B, T) int64 -> Stream."""
        return Stream(F.embedding(tokens, self.embedding), tokens)

    def forward(self, stream: Stream, cache: KVCache) -> Tensor:
        """One pass over the new rows -> final normalised hidden rows (B, T, D)."""
        cache.begin(stream)
        x = stream.x.to(self.norm.dtype)
        for index, layer in enumerate(self.layers):
            x = self._attend(index, layer, x, cache)
            x = self._mlp(layer, x)
        return self._normalise(x, self.norm, self.head.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> (B, T, V) float32. Slice `hidden` first: every row costs a pass over the vocabulary."""
        return self.head(hidden).float()

    def _attend(self, index: int, layer: Layer, x: Tensor, cache: KVCache) -> Tensor:
        batch, rows, _ = x.shape
        heads, kv_heads = self.config.heads, self.config.kv_heads
        fused = layer.qkv(self._normalise(x, layer.input_norm, layer.qkv.dtype))
        by_head = fused.view(batch, rows, heads + 2 * kv_heads, self.config.head_dim).transpose(1, 2)
        q, k, v = by_head.split((heads, kv_heads, kv_heads), 1)
        return x + layer.out(attention(cache.update(index, q, k, v)))

    def _mlp(self, layer: Layer, x: Tensor) -> Tensor:
        fused = layer.gate_up(self._normalise(x, layer.mlp_norm, layer.gate_up.dtype))
        gate, up = fused.split(self.config.inner, -1)
        return x + layer.down(F.silu(gate) * up)

    def _normalise(self, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return F.rms_norm(x, (self.config.width,), weight, self.config.eps).to(dtype)


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


class _Reader(TensorReader):
    """Knows Llama's names, and fuses what is used together."""

    def __init__(self, config: LlamaConfig, weights: Weights, *, dtype: torch.dtype, device: str, pack: bool) -> None:
        super().__init__(weights, dtype=dtype, device=device, pack=pack)
        self.config = config

    def norm(self, name: str) -> Tensor:
        """Norms stay in the exact dtype: they are small, and the residual stream is."""
        return self(name, self.config.width).to(self.exact)

    def layer(self, index: int) -> Layer:
        c, at = self.config, f"model.layers.{index}"
        query, key = c.heads * c.head_dim, c.kv_heads * c.head_dim
        return Layer(
            input_norm=self.norm(f"{at}.input_layernorm.weight"),
            qkv=self._fused(f"{at}.self_attn", {"q_proj": query, "k_proj": key, "v_proj": key}, c.width),
            out=self._fused(f"{at}.self_attn", {"o_proj": c.width}, query),
            mlp_norm=self.norm(f"{at}.post_attention_layernorm.weight"),
            gate_up=self._fused(f"{at}.mlp", {"gate_proj": c.inner, "up_proj": c.inner}, c.width),
            down=self._fused(f"{at}.mlp", {"down_proj": c.width}, c.inner),
        )

    def _fused(self, at: str, parts: dict[str, int], width: int) -> Linear:
        """One matrix of several, one below the other. parts: name -> rows."""
        names = {f"{at}.{name}": rows for name, rows in parts.items()}
        weight = torch.cat([self(f"{name}.weight", rows, width) for name, rows in names.items()])
        if not any(f"{name}.bias" in self.weights for name in names):
            return self.linear(weight)
        return self.linear(weight, torch.cat([self._bias(name, rows) for name, rows in names.items()]))

    def _bias(self, name: str, rows: int) -> Tensor:
        """Zeros for a part that has none, beside one that has."""
        if f"{name}.bias" in self.weights:
            return self(f"{name}.bias", rows)
        return torch.zeros(rows, device=self.device, dtype=self.dtype)
