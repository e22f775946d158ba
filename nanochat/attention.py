"""One function: a view in, the attended rows out.

Scores are q.k / sqrt(d) plus the view's bias; query head h reads KV head h // (H / Hk). Two ways to the same numbers:
a plain matrix product with the query heads of a KV head side by side, best for few rows (on a CPU in bf16 it takes a
seventh of SDPA's time for one row over 1,024 slots, half for 64); and torch's scaled_dot_product_attention for many.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.hook import KVView

FEW_ROWS = {torch.bfloat16: 128}  # by dtype, measured on a CPU; any other dtype: 8
KEYS_FIRST = 32  # below so many rows, a CPU multiplies bf16 keys by queries in half the time of queries by keys


def causal_bias(rows: int, slots: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(rows, slots) bias: row t sees the first slots - rows + t + 1 slots."""
    bias = torch.full((rows, slots), float("-inf"), device=device, dtype=dtype)
    return bias.triu_(slots - rows + 1)


def attention(view: KVView) -> Tensor:
    """view -> (B, T, H * d), in the dtype of the values."""
    rows, slots = view.q.shape[2], view.keys.shape[2]
    bias = view.bias
    if rows <= FEW_ROWS.get(view.q.dtype, 8):
        if bias is None and rows > 1:
            bias = causal_bias(rows, slots, view.q.device, view.q.dtype)
        out = _grouped(view.q, view.keys, view.values, bias)
    else:
        grouped = view.q.shape[1] != view.keys.shape[1]
        if bias is None and rows != slots:
            bias = causal_bias(rows, slots, view.q.device, view.q.dtype)
        elif bias is not None:
            bias = bias.to(view.q.dtype)
        out = F.scaled_dot_product_attention(
            view.q, view.keys, view.values, attn_mask=bias, is_causal=bias is None, enable_gqa=grouped
        )
    return out.transpose(1, 2).flatten(2)


def _grouped(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """q (B,H,T,d), keys and values (B,Hk,S,d), bias broadcastable to (B,H,T,S) -> (B,H,T,d)."""
    batch, heads, rows, width = q.shape
    kv_heads, slots = keys.shape[1], keys.shape[2]
    group = heads // kv_heads
    stacked = (q * width**-0.5).reshape(batch, kv_heads, group * rows, width)
    if keys.dtype == torch.bfloat16 and rows < KEYS_FIRST:
        scores = (keys @ stacked.transpose(-1, -2)).transpose(-1, -2)
    else:
        scores = stacked @ keys.transpose(-1, -2)
    if bias is not None:
        scores = (scores.reshape(batch, heads, rows, slots) + bias).view(batch, kv_heads, group * rows, slots)
    weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
    return (weights @ values).view(batch, heads, rows, width)
