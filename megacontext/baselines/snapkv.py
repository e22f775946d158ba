"""SnapKV: what the last queries attend to, pooled over neighbours, and the window of those queries; head by head.

Li, Huang, Yang, Venkitesh, Locatelli, Ye, Cai, Lewis, Chen: SnapKV: LLM Knows What You are Looking for Before
Generation (NeurIPS 2024, arXiv 2404.14469), section 4: the attention that the last `window` queries give to each row
before them is summed over the window, pooled along the rows, and the best rows of each head stay, with the window.
Window 32, kernel 7, maximum: the setting of section 5's LongBench experiments (the authors' code falls back to kernel 5
and mean).

Two memories:
SnapKV       question-agnostic: it keeps the budget while text is read; each time that rows must leave, the last window
             read has the say. The paper does not use it so. Neighbours are neighbours among the rows that are left.
SnapKVAware  the paper's own setting: all of history stays until a prompt ends; then it chooses once, with the prompt's
             queries. Its usage says that it kept everything. Afterwards the rest is gone: asked again, it fails.

Grouped heads: pooled votes of the query heads that share a KV head, mean (or maximum) of them; the authors' code gives
every query head keys and values of its own instead, which costs the group's size in memory.
Positions: where a row stood in the text, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d, pad

from megacontext.baselines.evicting import Positions
from megacontext.baselines.limits import Limits, TextSide
from megacontext.baselines.observing import ObservingCache
from megacontext.errors import ConfigError
from nanochat.hook import BaseModel, CacheUsage, ModelSpec


@dataclass(frozen=True)
class SnapKVConfig:
    """window: last queries that are asked, whose rows stay. kernel, pooling: over rows side by side; kernel is odd.

    group: over the query heads of a KV head. positions: see EvictingCache.
    """

    window: int = 32
    kernel: int = 7
    pooling: Literal["max", "mean"] = "max"
    group: Literal["max", "mean"] = "mean"
    positions: Positions = "text"

    def __post_init__(self) -> None:
        if self.window < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(
                f"window {self.window}, kernel {self.kernel}: give a window of 1 or more and an odd kernel"
            )
        if not {self.pooling, self.group} <= {"max", "mean"}:
            raise ConfigError(f"pooling {self.pooling!r}, group {self.group!r}: each is max or mean")


SnapKVAwareConfig = SnapKVConfig


class SnapKV(ObservingCache):
    """Question-agnostic: chooses whenever rows must leave."""

    def __init__(
        self, spec: ModelSpec, limits: Limits, config: SnapKVConfig = SnapKVConfig(), text: TextSide | None = None
    ) -> None:
        self.config = config
        window = config.window
        super().__init__(spec, limits, window=window, positions=config.positions, sinks=0, recent=window)

    def worth(self, layer: int) -> Tensor:
        weights = self.observed(layer)  # (H, w, n), the last w rows being the queries' own
        before = weights.shape[2] - weights.shape[1]
        votes = self._pooled(weights[:, :, :before].sum(1)).view(self.spec.kv_heads, -1, before)
        shared = votes.amax(1) if self.config.group == "max" else votes.mean(1)
        return pad(shared, (0, self.slots[layer].count - before), value=float("inf"))

    def _pooled(self, votes: Tensor) -> Tensor:
        """(H, n) -> (H, n). At the ends a mean counts rows that are not there as zero, as the authors' code does."""
        pool = max_pool1d if self.config.pooling == "max" else avg_pool1d
        pooled: Tensor = pool(votes, self.config.kernel, stride=1, padding=self.config.kernel // 2)
        return pooled


class SnapKVAware(SnapKV):
    """Question-aware: keeps everything until a prompt ends, then the budget less one pass.

    What an answer adds stays too, until the next prompt's end.
    """

    def reset(self) -> None:
        super().reset()
        self._most = 0

    def _make_room(self, layer: int, rows: int) -> None:
        if layer not in self.spec.memory_layers:
            super()._make_room(layer, rows)
            return
        self.slots[layer].reserve(self.slots[layer].count + rows)
        self._most = max(self._most, self.slots[layer].count + rows)

    def maintain(self, model: BaseModel, *, prompt: int = 0, words: tuple[int, int] | None = None) -> None:
        super().maintain(model, prompt=prompt, words=words)
        if prompt:
            for layer in self.spec.memory_layers:
                self._choose(layer)

    def _choose(self, layer: int) -> None:
        keep = self.layer_slots(layer) - max(self.limits.chunk, self.limits.spare)
        if self.slots[layer].count > keep:
            self.shrink(layer, keep)
            self._close_up(self.slots[layer])

    @property
    def usage(self) -> CacheUsage:
        """resident_slots: the most that it held since the reset. It had to have all before it could choose."""
        return super().usage._replace(resident_slots=self._most)
