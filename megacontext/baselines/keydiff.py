"""KeyDiff: the keys that point where most others point leave first. It knows no attention and no query.

Park, Jones, Morse, Goel, Lee, Lott: KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in
Resource-Constrained Environments (2025, arXiv 2504.15364), section 3: the anchor is the mean of the normalised keys in
the cache, a row is worth minus the cosine of its key and the anchor. Keys are compared as they lie in the cache,
rotated, head by head of the KV heads, so grouped queries need nothing of their own; every head of every layer keeps as
many rows.

It streams by nature: the paper evicts block by block too (blocks of 128 tokens, or one while decoding). Ours are
`Limits.chunk` and `Limits.spare`, and the rows of the last pass never leave before it is settled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from megacontext.baselines.evicting import EvictingCache, Positions
from megacontext.baselines.limits import Limits, TextSide
from nanochat.hook import ModelSpec


@dataclass(frozen=True)
class KeyDiffConfig:
    """The paper's default keeps by similarity alone, at the positions of the text.

    sinks, recent: first and last rows that stay anyway; a window of last rows is the paper's own variant (appendix).
    positions: "cache" counts them among the rows that are kept, for texts longer than the model was trained on.
    """

    sinks: int = 0
    recent: int = 0
    positions: Positions = "text"


class KeyDiff(EvictingCache):
    """Holds keys and values, nothing else."""

    def __init__(
        self,
        spec: ModelSpec,
        limits: Limits,
        config: KeyDiffConfig = KeyDiffConfig(),
        text: TextSide | None = None,
    ) -> None:
        super().__init__(spec, limits, positions=config.positions, sinks=config.sinks, recent=config.recent)

    def worth(self, layer: int) -> Tensor:
        slots = self.slots[layer]
        self.selection_flops += 6 * self.spec.kv_heads * slots.count * self.spec.head_dim  # norms, mean, cosines
        return key_difference(slots.keys[0, :, : slots.count])


def key_difference(keys: Tensor) -> Tensor:
    """keys (Hk, n, d) -> (Hk, n) float32: minus the cosine of each key and the mean direction of all."""
    directions = F.normalize(keys.float(), dim=-1)
    anchor = directions.mean(1, keepdim=True)
    return -(directions * F.normalize(anchor, dim=-1)).sum(-1)
