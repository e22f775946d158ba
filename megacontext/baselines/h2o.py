"""H2O: half the rows are heavy hitters, which got the most attention so far, half are the last ones; head by head.

Zhang, Sheng, Zhou, Chen, Zheng, Cai, Song, Tian, Re, Barrett, Wang, Chen: H2O: Heavy-Hitter Oracle for Efficient
Generative Inference of Large Language Models (NeurIPS 2023, arXiv 2306.14048), section 4, algorithm 1: the score of a
row is the sum of the attention weights that every query gave it; "equal budget for heavy hitters and recent tokens".

Grouped heads: the sum over the query heads that share a KV head (the paper's models have no groups).
Positions: where a row stood in the text, as in the paper's main experiments; "cache" is the position rolling of its
streaming experiments, for text beyond the trained length.
Different here: text is read in passes, so several rows leave at once and a row leaves before the pass that needs its
slot, by the scores until then; attention counts all queries, those of the prompt too, as the authors' code does.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from megacontext.baselines.evicting import EvictingCache, Positions, attention_weights, flops_of_scores
from megacontext.baselines.limits import Limits, TextSide
from megacontext.errors import ConfigError
from nanochat.hook import BaseModel, KVView, ModelSpec


@dataclass(frozen=True)
class H2OConfig:
    """recent: share of the kept rows that are the last ones. positions: see EvictingCache."""

    recent: float = 0.5
    positions: Positions = "text"

    def __post_init__(self) -> None:
        if not 0 <= self.recent <= 1:
            raise ConfigError(f"h2o: recent is {self.recent}; it is a share: give 0 to 1")


class H2O(EvictingCache):
    """total: attention that a row got. fresh: what of it could still be rolled back, and counts for nothing yet."""

    tracks = ("total", "fresh")

    def __init__(
        self, spec: ModelSpec, limits: Limits, config: H2OConfig = H2OConfig(), text: TextSide | None = None
    ) -> None:
        kept = max(limits.slots - max(limits.chunk, limits.spare), 0)
        super().__init__(spec, limits, positions=config.positions, sinks=0, recent=round(config.recent * kept))

    def note(self, layer: int, raw_q: Tensor, view: KVView) -> None:
        weights = attention_weights(view)
        groups = weights.view(self.spec.kv_heads, -1, weights.shape[2])
        self.slots[layer].tracks["fresh"][:, : weights.shape[2]] += groups.sum(1)
        self.selection_flops += flops_of_scores(view)

    def settle(self, model: BaseModel) -> None:
        for layer in self.spec.memory_layers:
            tracks = self.slots[layer].tracks
            tracks["total"] += tracks["fresh"]
            tracks["fresh"].zero_()

    def forget_notes(self) -> None:
        for layer in self.spec.memory_layers:
            self.slots[layer].tracks["fresh"].zero_()

    def worth(self, layer: int) -> Tensor:
        slots = self.slots[layer]
        return slots.tracks["total"][:, : slots.count]
