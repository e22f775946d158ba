"""One function: a view in, the attended rows out.

Scores are q.k / sqrt(d) plus the view's bias; query head h reads KV head h // (H / Hk). Two ways to the same numbers:
a plain matrix product with the query heads of a KV head side by side, best for few rows (on a CPU in bf16 it takes a
seventh of SDPA's time for one row over 1,024 slots, half for 64); and torch's scaled_dot_product_attention for many.
On a CPU in bf16 many rows go through the plain product too, a tile at a time: reading in passes of 512 rows gains 20 to
35 per cent. Tiles with more scores lose that again: every tile's memory then comes fresh from the system.

There a product of a new shape has its kernel made first, which takes .6 ms. A view that grows by a slot a token would
pay that twice a token (1.3 of 22 ms with SmolLM2-135M), so a single row's view may come with spare slots.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.hook import KVView

FEW_ROWS = {torch.bfloat16: 128}  # by dtype, measured on a CPU; any other dtype: 8
TILE_ROWS, LEAST_TILE, TILE_SCORES = 128, 8, 500_000  # rows of a tile; its scores over all heads
STEP = 64  # slots by which a view of a single row grows on a CPU in bf16
KEYS_FIRST = 32  # below so many rows, a CPU multiplies bf16 keys by queries in half the time of queries by keys


def causal_bias(rows: int, slots: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(rows, slots) bias: row t sees the first slots - rows + t + 1 slots."""
    bias = torch.full((rows, slots), float("-inf"), device=device, dtype=dtype)
    return bias.triu_(slots - rows + 1)


def with_spare(slots: int, rows: int, storage: Tensor) -> int:
    """Slots to hand to `attention` for `slots` that `rows` new rows see, the others spare. storage: (..., C, d), where
    they stand.
    """
    if rows > 1 or storage.dtype != torch.bfloat16 or storage.device.type != "cpu":
        return slots
    return min(-(-slots // STEP) * STEP, storage.shape[-2])


def attention(view: KVView) -> Tensor:
    """view -> (B, T, H * d), in the dtype of the values."""
    q, keys, values, bias, spare = view
    rows = q.shape[2]
    if rows > LEAST_TILE and LEAST_TILE <= (tile := _tile(view)) < rows:
        starts = range(0, rows, tile)
        out = torch.cat([_grouped(*_rows(view, start, min(start + tile, rows))) for start in starts], 2)
    elif rows <= FEW_ROWS.get(q.dtype, 8):
        if bias is None and rows > 1:
            bias = causal_bias(rows, keys.shape[2], q.device, q.dtype)
        out = _grouped(q, keys, values, bias, spare)
    else:
        out = _many(view)
    return out.transpose(1, 2).flatten(2)


def _tile(view: KVView) -> int:
    """Rows of one tile; 0 where tiles do not pay."""
    if view.q.dtype != torch.bfloat16 or view.q.device.type != "cpu":
        return 0
    batch, heads, _, _ = view.q.shape
    return min(TILE_ROWS, TILE_SCORES // (batch * heads * view.keys.shape[2]))


def _rows(view: KVView, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Rows [start, stop) of a view: queries, keys, values, bias. Without a bias only the slots that they see."""
    q, keys, values, bias, _ = view
    rows = q.shape[2]
    q = q[:, :, start:stop]
    if bias is None:
        seen = keys.shape[2] - rows + stop
        keys, values = keys[:, :, :seen], values[:, :, :seen]
        return q, keys, values, causal_bias(stop - start, seen, q.device, q.dtype)
    return q, keys, values, bias[..., start:stop, :] if bias.dim() > 1 and bias.shape[-2] == rows else bias


def _many(view: KVView) -> Tensor:
    """By torch's own function -> (B, H, T, d)."""
    q, keys, values, bias, _ = view
    rows, slots = q.shape[2], keys.shape[2]
    if bias is not None:
        bias = bias.to(q.dtype)
    elif rows != slots:
        bias = causal_bias(rows, slots, q.device, q.dtype)
    grouped = q.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias, is_causal=bias is None, enable_gqa=grouped)


def _grouped(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, spare: int = 0) -> Tensor:
    """q (B,H,T,d), keys and values (B,Hk,S,d), bias broadcastable to (B,H,T,S) -> (B,H,T,d). spare: as in a view."""
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
    if spare:
        weights = values.new_zeros(scores.shape)
        weights[..., :-spare] = scores[..., :-spare].softmax(-1, dtype=torch.float32)
    else:
        weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
    return (weights @ values).view(batch, heads, rows, width)
