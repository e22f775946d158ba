"""A pass of the model that says again what an evicting memory holds, and notes how much it looks at each row.

It leaves the memory as it is: the rows that are said live here, as long as the pass does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from megacontext.baselines.evicting import EvictingCache, attention_weights, bias_of_slots, flops_of_scores
from nanochat.hook import CacheUsage, KVCache, KVView, Mark, Stream
from nanochat.kv_cache import Windows, storage_bytes

REPEAT_ROWS = 128  # of one pass: more cost memory, fewer cost time
BLOCK_WEIGHTS = 12  # width x width matrices that a usual transformer block has; the spec does not tell


class Repetition(KVCache):
    """Rows see everything in `host`, and those before them. It is about `count` of host's rows, the first of which is
    the `back`th from the end.

    most: (Hk, count) by memory layer, the largest attention that a row got so far, over all query heads of its KV
    head. In that, these rows compete with each other, with the host's sinks before them and with what is
    said, as in KVzip (arXiv 2505.23416, section 3.4). flops: of the passes and of that.
    """

    def __init__(self, host: EvictingCache, back: int, count: int) -> None:
        self.host, self.back, self.count = host, back, count
        self.length, self.carry = host.length, host.carry
        self.said = 0
        self.flops = 0
        self.most: dict[int, Tensor] = {}
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}
        self._windows = Windows(host.spec.windows)

    def begin(self, stream: Stream) -> Tensor:
        self._windows.begin()
        start, rows, spec = self.length, stream.rows, self.host.spec
        self.said, self.length = self.said + rows, self.length + rows
        self.flops += 2 * rows * BLOCK_WEIGHTS * spec.width**2 * spec.layers
        return torch.arange(start, start + rows, device=spec.device)[None]

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        spec, slots, rows = self.host.spec, self.host.slots[layer], k.shape[2]
        start = (slots.count if self.host.positions == "cache" else self.host.length) + self.said - rows
        spec.rotation.reserve(start + rows)
        angles = spec.rotation.at(torch.arange(start, start + rows, device=spec.device))
        q, k = spec.rotation.rotate(q, angles), spec.rotation.rotate(k, angles)
        before = self._rows.get(layer)
        said = (k, v) if before is None else (torch.cat([before[0], k], 2), torch.cat([before[1], v], 2))
        self._rows[layer] = said
        keys = torch.cat([slots.keys[:, :, : slots.count], said[0]], 2)
        values = torch.cat([slots.values[:, :, : slots.count], said[1]], 2)
        if layer not in spec.memory_layers:
            return self._windows.view(layer, q, keys, values)
        view = KVView(q, keys, values)
        self._note(layer, view)
        bias = self.host.bias(layer)
        return view if bias is None else view._replace(bias=bias_of_slots(pad(bias, (0, self.said)), spec.heads, rows))

    def _note(self, layer: int, view: KVView) -> None:
        first = self.host.slots[layer].count - self.back
        sinks = min(self.host.sinks, first)
        parts = (slice(0, sinks), slice(first, first + self.count), slice(-self.said, None))
        asked = KVView(view.q, torch.cat([view.keys[:, :, part] for part in parts], 2), view.values)
        weights = attention_weights(asked)[:, :, sinks : sinks + self.count]
        most = weights.amax(1).view(view.keys.shape[1], -1, self.count).amax(1)
        self.most[layer] = torch.maximum(self.most[layer], most) if layer in self.most else most
        self.flops += flops_of_scores(asked) + 2 * flops_of_scores(view)

    # --- what a pass does not need ---

    @property
    def usage(self) -> CacheUsage:
        slots = self.host.usage.resident_slots + self.said
        return CacheUsage(
            self.length, slots, slots, storage_bytes(part for rows in self._rows.values() for part in rows)
        )

    def reset(self) -> None:
        raise ValueError("a repetition is made anew, not reset")

    def fork(self, batch: int = 1) -> KVCache:
        raise ValueError("a repetition cannot be forked")

    def rollback(self, mark: Mark) -> None:
        raise ValueError("a repetition forgets nothing")
