"""What a GPT costs: parameters, floating-point operations, cache bytes. Derived, never stored.

A multiply-add counts as two operations. A window of w is counted as w visible rows, as upstream does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from nanochat.gpt import GPTConfig
    from nanochat.gpt_block import Transformer


def _numel(*modules: nn.Module | nn.Parameter | None) -> int:
    total = 0
    for module in modules:
        if isinstance(module, nn.Parameter):
            total += module.numel()
        elif module is not None:
            total += sum(p.numel() for p in module.parameters())
    return total


class GPTCost(nn.Module):
    """The cost half of GPT: public helpers under upstream's names."""

    config: GPTConfig
    windows: tuple[int | None, ...]
    transformer: Transformer
    compute_dtype: torch.dtype
    lm_head: nn.Linear

    def num_scaling_params(self) -> dict[str, int]:
        """Parameter counts by role, the ones that scaling laws are fitted on."""
        groups = {
            "wte": _numel(self.transformer.wte),
            "value_embeds": _numel(getattr(self, "value_embeds", None)),
            "lm_head": _numel(self.lm_head),
            "transformer_matrices": _numel(self.transformer.h),
        }
        total = _numel(self)
        return {**groups, "scalars": total - sum(groups.values()), "total": total}

    def num_matmul_params(self) -> int:
        """Parameters that multiply every token: the blocks' matrices and the head; look-up tables and scalars not."""
        groups = self.num_scaling_params()
        return groups["lm_head"] + groups["transformer_matrices"]

    def _visible(self, rows: int) -> int:
        """Earlier rows that a row reads, summed over layers, when `rows` are there."""
        return sum(rows if window is None else min(rows, window) for window in self.windows)

    def estimate_flops(self) -> int:
        """Operations a token of training, forward and backward, at sequence_len (PaLM, arXiv 2204.02311, B)."""
        return 6 * self.num_matmul_params() + 12 * self.config.n_embd * self._visible(self.config.sequence_len)

    def estimate_decode_flops(self, context: int) -> int:
        """Operations to decode one token after `context` tokens."""
        return 2 * self.num_matmul_params() + 4 * self.config.n_embd * self._visible(context)

    def estimate_prefill_flops(self, tokens: int) -> int:
        """Operations of one forward pass over `tokens` tokens."""
        visible = sum(self._visible_sum(tokens, window) for window in self.windows)
        return 2 * self.num_matmul_params() * tokens + 4 * self.config.n_embd * visible

    @staticmethod
    def _visible_sum(tokens: int, window: int | None) -> int:
        """Rows read by all of `tokens` rows together in a layer: row t reads min(t + 1, window)."""
        width = tokens if window is None else min(tokens, window)
        return width * (width + 1) // 2 + (tokens - width) * width

    def kv_bytes_per_token(self) -> int:
        """Bytes that a plain cache in the compute dtype keeps for a token."""
        return 2 * self.config.n_layer * self.config.n_kv_head * self.config.head_dim * self.compute_dtype.itemsize

    def kv_read_bytes(self, context: int) -> int:
        """Bytes of keys and values that decoding one token after `context` tokens reads."""
        return self.kv_bytes_per_token() // self.config.n_layer * self._visible(context)
