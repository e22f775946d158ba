"""StreamingLLM: the first tokens and a window of the last ones, positions counted inside the cache.

Xiao, Tian, Chen, Han, Lewis: Efficient Streaming Language Models with Attention Sinks (ICLR 2024, arXiv 2309.17453),
section 3.2: "4 + window", keys cached before the rotary transformation and rotated at their index in the cache.
It does not remember what left the window; users keep thinking that it does.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from megacontext.baselines.evicting import EvictingCache
from megacontext.baselines.limits import Limits, TextSide
from nanochat.hook import ModelSpec


@dataclass(frozen=True)
class StreamingLLMConfig:
    """sinks: first tokens that stay; the paper's default. Without them it is window attention."""

    sinks: int = 4


class StreamingLLM(EvictingCache):
    """The oldest row after the sinks leaves first."""

    def __init__(
        self,
        spec: ModelSpec,
        limits: Limits,
        config: StreamingLLMConfig = StreamingLLMConfig(),
        text: TextSide | None = None,
    ) -> None:
        super().__init__(spec, limits, positions="cache", sinks=config.sinks, recent=0)

    def worth(self, layer: int) -> Tensor:
        slots = self.slots[layer]
        return slots.place[:, : slots.count].float()
