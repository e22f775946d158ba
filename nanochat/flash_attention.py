"""Upstream's attention interface, for code that imports it: two functions in the layout (B, T, H, d).

Both run on `nanochat.attention`. Nothing in this project calls them: here, the cache owns windows and masks.
"""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor

from nanochat.attention import attention
from nanochat.kv_cache import Windows

HAS_FA3 = False
USE_FA3 = False


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, window_size: tuple[int, int] = (-1, -1)
) -> Tensor:
    """q (B, T, H, d), k and v (B, S, Hk, d), rows aligned at the end -> (B, T, H, d). Causal only."""
    if not causal:
        raise ValueError("causal is False; only causal attention is implemented")
    window = window_size[0] if window_size[0] >= 0 else None
    q_heads, keys, values = (x.transpose(1, 2) for x in (q, k, v))
    return attention(Windows((window,)).view(0, q_heads, keys, values)).view(q.shape)


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    cache_seqlens: Tensor | None = None,
    causal: bool = True,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """Write k and v (B, T, Hk, d) into the caches (B, S, Hk, d) at cache_seqlens[0], then attend to all before."""
    stop = 0 if cache_seqlens is None else int(cache_seqlens[0])
    if k is not None and v is not None:
        start, stop = stop, stop + k.shape[1]
        if stop > k_cache.shape[1]:
            raise ValueError(
                f"rows {start} .. {stop - 1} do not fit into {k_cache.shape[1]} slots; make the cache longer"
            )
        k_cache[:, start:stop] = k
        v_cache[:, start:stop] = v
    return flash_attn_func(q, k_cache[:, :stop], v_cache[:, :stop], causal, window_size)


flash_attn = SimpleNamespace(flash_attn_func=flash_attn_func, flash_attn_with_kvcache=flash_attn_with_kvcache)
