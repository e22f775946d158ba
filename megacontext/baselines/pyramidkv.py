"""PyramidKV: SnapKV's choice with more rows in the first layers and fewer in the last.

Cai, Zhang, Gao, Liu, Li, Liu, Lu, Xiong, Dong, Hu, Xiao: PyramidKV: Dynamic KV Cache Compression based on Pyramidal
Information Funneling (arXiv 2406.02069), section 4: the last layer keeps a share 1 / beta of the mean budget beside its
window, the first layer 2 - 1 / beta of it, those between lie on a line. Within a layer it chooses as SnapKV does.
Window 8 (the paper's alpha), kernel 7, maximum, beta 20: the setting of the paper and of the authors' runs.

The mean over the layers is the budget; a slot is counted as one in every layer, so the bytes are equal too.
Grouped heads and positions as in SnapKV, whose authors' code this paper's builds on.
Different here: like `snapkv` it keeps the budget while text is read (the paper chooses once, when a prompt ends), so
slots that the first layers do not need in a short text are not lent to the last ones, which the authors' code does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from megacontext.baselines.limits import Limits, TextSide
from megacontext.baselines.snapkv import SnapKV, SnapKVConfig
from megacontext.errors import ConfigError
from nanochat.hook import ModelSpec


@dataclass(frozen=True)
class PyramidKVConfig(SnapKVConfig):
    """beta: how steep; 1 is SnapKV. The others: see SnapKVConfig."""

    window: int = 8
    kernel: int = 7
    pooling: Literal["max", "mean"] = "max"
    beta: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 1:
            raise ConfigError(f"pyramidkv: beta is {self.beta}; give 1 (all layers alike) or more")


class PyramidKV(SnapKV):
    """SnapKV with a budget a layer."""

    def __init__(
        self, spec: ModelSpec, limits: Limits, config: PyramidKVConfig = PyramidKVConfig(), text: TextSide | None = None
    ) -> None:
        same = config.window + max(limits.chunk, limits.spare)
        shares = pyramid(max(limits.slots - same, 0), len(spec.memory_layers), config.beta)
        self._capacity = dict(zip(spec.memory_layers, (same + share for share in shares), strict=True))
        super().__init__(spec, limits, config, text)

    def layer_slots(self, layer: int) -> int:
        return self._capacity[layer]


def pyramid(mean: int, layers: int, beta: float) -> list[int]:
    """Rows a layer, first to last, falling from mean * (2 - 1 / beta) to mean / beta; their sum is mean * layers."""
    last = mean / beta
    step = 2 * (mean - last) / max(layers - 1, 1)
    exact = [mean if layers == 1 else 2 * mean - last - step * layer for layer in range(layers)]
    return [stop - start for start, stop in pairwise([0, *map(round, accumulate(exact))])]
