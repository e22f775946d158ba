"""Attention matching: the oldest exact rows become fewer slots, with a bias on their logits and values made anew.

Zweiger, Fu, Guo, Kim: Fast KV Compaction via Attention Matching (2026, arXiv 2602.16284), section 3: keys are chosen
among those that are there, by the attention they get (AM-HighestAttnKeys) or by orthogonal matching pursuit on the mass
(AM-OMP); exp(bias) and values are fitted for reference queries, so that the node's mass and output stay what they were
(`matching.py`). Bounds of exp(bias) are the authors': exp(-3) to exp(3) for the former, up to exp(7) for the latter;
where a node is compacted again, they hold for what is added.
Grouped queries their way: a KV head is fitted for the queries of all its query heads at once. All heads of all layers
get as many slots (the authors' uniform variant; they also measure budgets a head in advance).

A stream under a budget differs from the paper in this:
- The paper compacts a finished context once. Here, whenever the budget is full, the oldest `width` exact rows become a
  node of `node` slots; and when nodes leave no room for such a span, the oldest of them are compacted again, into one.
- The paper's reference queries come from a pass that repeats the context, or from questions that the model makes up.
  Here they are queries that were asked anyway, of one token in every few among the last as many as there are slots,
  placed after the end of the text: the compacted rows' own and the recent ones. There are a few hundred a KV head
  instead of thousands, so the values' fit has a ridge (`ridge`). They are kept; `nbytes` counts them.
- Keys with very small weights are not replaced by others (the authors find that it does not matter).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor

from megacontext.baselines.evicting import EvictingCache, Positions
from megacontext.baselines.limits import Limits, TextSide
from megacontext.baselines.matching import (
    Bounds,
    Keys,
    columns,
    fit_node,
    flops_of_node,
    highest_attention,
    logits_of,
    matching_pursuit,
)
from megacontext.baselines.query_notes import QueryNotes
from megacontext.errors import ConfigError
from nanochat.hook import BaseModel, KVView, ModelSpec

BOUNDS: dict[str, Bounds] = {"highest": Bounds(math.exp(-3), math.exp(3)), "omp": Bounds(1e-12, math.exp(7))}


@dataclass(frozen=True)
class AttentionMatchingConfig:
    """width, node: exact rows that become a node, and its slots. A budget that is too small for such a span takes a
    narrower one, at the same ratio.

    keys: how they are chosen; pick: how many at a time by omp. steps: of projected gradient descent, after least
    squares. queries: reference rows that are kept, each with all its heads. sinks, recent: first and last rows that
    are never compacted (the paper leaves a prompt's frame exact). positions: as in KeyDiffConfig.
    """

    width: int = 512
    node: int = 64
    keys: Keys = "highest"
    pick: int = 1
    steps: int = 2
    ridge: float = 1e-4
    queries: int = 128
    sinks: int = 4
    recent: int = 64
    positions: Positions = "text"

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that do not go together."""
        if not 1 <= self.node <= self.width // 2:
            raise ConfigError(f"node is {self.node}: give it 1 to {self.width // 2} slots, half of width or less")
        if self.keys not in get_args(Keys):
            raise ConfigError(f"keys is {self.keys!r}; it is one of {', '.join(get_args(Keys))}")
        if min(self.pick, self.queries) < 1:
            raise ConfigError(f"pick {self.pick} and queries {self.queries} must both be at least 1")


class AttentionMatching(EvictingCache):
    """A layer's slots: sinks, then `nodes[layer]` slots of nodes, the oldest first, then exact rows."""

    tracks: ClassVar[tuple[str, ...]] = ("bias",)

    def __init__(
        self,
        spec: ModelSpec,
        limits: Limits,
        config: AttentionMatchingConfig = AttentionMatchingConfig(),
        text: TextSide | None = None,
    ) -> None:
        self.config = config
        step = max(limits.chunk, limits.spare)
        least = config.sinks + config.recent + 4 * step
        limits.demand(least, type(self).__name__, "sinks, recent rows, and a span of two passes beside its nodes")
        room = limits.slots - config.sinks - config.recent - step
        self.width = min(config.width, room // 2)
        self.node = max(1, config.node * self.width // config.width)
        self.most_nodes = room - self.width
        self.every = max(1, limits.slots // config.queries)
        self.bounds = BOUNDS[config.keys]
        super().__init__(spec, limits, positions=config.positions, sinks=config.sinks, recent=config.recent)

    def reset(self) -> None:
        super().reset()
        self.nodes = dict.fromkeys(self.spec.memory_layers, 0)
        self._notes = QueryNotes()
        empty = torch.empty(self.spec.heads, 0, self.spec.head_dim, dtype=self.spec.dtype, device=self.spec.device)
        self._queries = dict.fromkeys(self.spec.memory_layers, empty)

    # --- reference queries ---

    def note(self, layer: int, raw_q: Tensor, view: KVView) -> None:
        skip = -self._first % self.every
        if skip < raw_q.shape[2]:
            self._notes.add(layer, self._first, raw_q[:, :, skip :: self.every])

    def forget_notes(self) -> None:
        self._notes.drop_from(self.length)

    def settle(self, model: BaseModel) -> None:
        for layer, (_, queries) in self._notes.take().items():
            both = torch.cat([self._queries[layer], queries], 1)
            self._queries[layer] = both[:, -self.config.queries :].clone()

    def reference(self, layer: int, start: int) -> Tensor:
        """(Hk, r, d) reference queries of each KV head, as if they were asked from position `start` on."""
        raw = self._queries[layer]
        count = raw.shape[1]
        self.spec.rotation.reserve(start + count * self.every)
        places = torch.arange(start, start + count * self.every, self.every, device=self.spec.device)
        turned = self.spec.rotation.rotate(raw[None], self.spec.rotation.at(places))[0]
        return turned.reshape(self.spec.kv_heads, -1, self.spec.head_dim)

    # --- compaction ---

    def worth(self, layer: int) -> Tensor:
        """Rows are compacted in order of age."""
        slots = self.slots[layer]
        return slots.place[:, : slots.count].float()

    def shrink(self, layer: int, keep: int) -> None:
        slots = self.slots[layer]
        while slots.count > keep:
            if self.nodes[layer] + self.node > self.most_nodes:
                width = min(self.width, self.nodes[layer])
                self._compact(layer, self.sinks, width)
                self.nodes[layer] += self.node - width
                continue
            start = self.sinks + self.nodes[layer]
            if slots.count - start - self.width < self._unsettled:
                raise ValueError(f"{self._unsettled} rows since the last maintain leave nothing to compact")
            self._compact(layer, start, self.width)
            self.nodes[layer] += self.node

    def _compact(self, layer: int, start: int, width: int) -> None:
        """Rows [start, start + width) of `layer` become `self.node`."""
        slots = self.slots[layer]
        there = slice(start, start + width)
        queries = self.reference(layer, self._end(slots.count))
        logits = logits_of(queries, slots.keys[0, :, there], slots.tracks["bias"][:, there])
        chosen = self._choose(logits)
        moved = self._logits_after(layer, start, chosen, logits)
        fitted = fit_node(
            logits,
            slots.values[0, :, there],
            chosen,
            moved,
            self.bounds,
            steps=self.config.steps,
            ridge=self.config.ridge,
        )
        self.selection_flops += flops_of_node(logits, self.node, self.spec.head_dim)
        others = torch.arange(slots.count, device=chosen.device).expand(self.spec.kv_heads, -1)
        slots.keep(torch.cat([others[:, :start], chosen + start, others[:, start + width :]], 1))
        node = slice(start, start + self.node)
        slots.tracks["bias"][:, node] += fitted.bias
        slots.values[0, :, node] = fitted.values.to(slots.values.dtype)
        self._close_up(slots)

    def _choose(self, logits: Tensor) -> Tensor:
        if self.config.keys == "highest":
            return highest_attention(logits, self.node)
        self.selection_flops += 2 * logits.numel() * -(-self.node // self.config.pick)
        return matching_pursuit(logits, self.node, self.config.pick, self.bounds)

    def _logits_after(self, layer: int, start: int, chosen: Tensor, logits: Tensor) -> Tensor:
        """(Hk, r, m) logits of the chosen rows where they will stand."""
        slots = self.slots[layer]
        if slots.raw is None:
            return columns(logits, chosen)
        wide = (chosen + start)[..., None].expand(-1, -1, self.spec.head_dim)
        keys = self.spec.rotation.rotate(slots.raw[0].gather(1, wide)[None], self._turn(start, start + self.node))[0]
        queries = self.reference(layer, slots.count - logits.shape[2] + self.node)
        return logits_of(queries, keys, slots.tracks["bias"].gather(1, chosen + start))

    def _end(self, count: int) -> int:
        """Where the next row would stand after `count` others."""
        return count if self.positions == "cache" else self.length

    # --- what a pass sees ---

    def bias(self, layer: int) -> Tensor | None:
        slots = self.slots[layer]
        return slots.tracks["bias"][:, : slots.count] if self.nodes[layer] else None
