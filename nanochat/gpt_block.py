"""The parts of a GPT: norm, matrix, attention, MLP, block. No weights in norms, no biases anywhere.

Attention ends at the cache: queries, keys and values go in normalised and un-rotated, a view of what the rows see comes
out. Parameter names are upstream's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from nanochat.attention import attention
from nanochat.generations import LATEST, Generation
from nanochat.hook import KVCache

if TYPE_CHECKING:
    from nanochat.gpt import GPTConfig


def norm(x: Tensor) -> Tensor:
    """Root-mean-square norm over the last dimension, without weights."""
    return F.rms_norm(x, (x.size(-1),))


def has_ve(layer_idx: int, n_layer: int) -> bool:
    """Value embeddings stand in every other layer, the last one included."""
    return layer_idx % 2 == (n_layer - 1) % 2


def apply_rotary_emb(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Upstream's rotation, for code that calls it: x (B, T, H, d), cos and sin broadcastable (1, T, 1, d / 2)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)


class Linear(nn.Linear):
    """No bias; the weight follows the activation's dtype, so float32 master weights serve any compute dtype."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class CausalSelfAttention(nn.Module):
    def __init__(self, config: GPTConfig, layer_idx: int, generation: Generation = LATEST) -> None:
        super().__init__()
        self.layer_idx, self.generation = layer_idx, generation
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        self.c_q = Linear(config.n_embd, config.n_head * self.head_dim)
        self.c_k = Linear(config.n_embd, config.n_kv_head * self.head_dim)
        self.c_v = Linear(config.n_embd, config.n_kv_head * self.head_dim)
        self.c_proj = Linear(config.n_embd, config.n_embd)
        if generation.gate_channels and has_ve(layer_idx, config.n_layer):
            self.ve_gate = Linear(generation.gate_channels, config.n_kv_head)

    def forward(self, u: Tensor, value: Tensor | None, cache: KVCache) -> Tensor:
        """u (B, T, D) normalised block input, value (B, T, Hk * d) value embeddings or None -> (B, T, D)."""
        q = self._heads(self.c_q(u), self.n_head)
        k = self._heads(self.c_k(u), self.n_kv_head)
        v = self._heads(self.c_v(u), self.n_kv_head)
        if value is not None:
            gate = self.generation.gate_factor * torch.sigmoid(self.ve_gate(u[..., : self.generation.gate_channels]))
            v = v + gate.transpose(1, 2).unsqueeze(-1) * self._heads(value, self.n_kv_head)
        view = cache.update(self.layer_idx, self._scaled_norm(q), self._scaled_norm(k), v)
        return self.c_proj(attention(view).to(u.dtype))

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        """(B, T, heads * d) -> (B, heads, T, d)"""
        return x.view(x.shape[0], x.shape[1], heads, self.head_dim).transpose(1, 2)

    def _scaled_norm(self, x: Tensor) -> Tensor:
        scale = self.generation.qk_scale
        return norm(x) if scale == 1.0 else norm(x) * scale


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer_idx: int, generation: Generation = LATEST) -> None:
        super().__init__()
        self.attn = CausalSelfAttention(config, layer_idx, generation)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, value: Tensor | None, cache: KVCache) -> Tensor:
        x = x + self.attn(norm(x), value, cache)
        return x + self.mlp(norm(x))


class Transformer(nn.Module):
    """Embedding and blocks, under upstream's parameter names."""

    def __init__(self, config: GPTConfig, vocab_rows: int, generation: Generation) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_rows, config.n_embd)
        self.h = nn.ModuleList(Block(config, i, generation) for i in range(config.n_layer))

    @property
    def blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.h))
