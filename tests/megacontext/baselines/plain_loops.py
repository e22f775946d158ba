"""The oracle of evicting memories: who is kept, worked out with lists of places and one attention weight at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from megacontext.baselines.evicting import EvictingCache
from megacontext.baselines.snapkv import SnapKVConfig
from megacontext.testing.toy import ids, run
from nanochat.hook import BaseModel, ModelSpec


class Recorder:
    """Reads tokens into a cache and notes what every layer brought: queries and keys (heads, d), one a token."""

    def __init__(self, model: BaseModel, cache: EvictingCache) -> None:
        self.model, self.cache, self.passes = model, cache, []
        self.queries = {layer: [] for layer in range(model.spec.layers)}
        self.keys = {layer: [] for layer in range(model.spec.layers)}
        self.choices = []  # (layer, tokens seen, places before per head, places after per head)
        self._update, self._select = cache.update, cache.select
        cache.update, cache.select = self._noted, self._chosen

    def _noted(self, layer: int, q: Tensor, k: Tensor, v: Tensor):
        self.queries[layer] += list(q[0].unbind(1))
        self.keys[layer] += list(k[0].unbind(1))
        return self._update(layer, q, k, v)

    def _chosen(self, layer: int, keep: int) -> Tensor:
        index = self._select(layer, keep)
        before = places(self.cache, layer)
        after = [[head[i] for i in stay] for head, stay in zip(before, index.tolist(), strict=True)]
        self.choices.append((layer, self.cache.length, before, after))
        return index

    def read(self, tokens: list[int], chunks: list[int]) -> None:
        """In `chunks`, then one by one."""
        sizes, done = iter(chunks), 0
        while done < len(tokens):
            rows = min(next(sizes, 1), len(tokens) - done)
            run(self.model, self.cache, ids(self.model, tokens[done : done + rows]))
            self.cache.maintain(self.model)
            self.passes.append(rows)
            done += rows


class PlainLoops:
    """One layer, replayed. A policy gives `worth(head, kept)`, one figure a kept row, and may use what it saw."""

    def __init__(self, spec: ModelSpec, recorder: Recorder, layer: int, *, positions: str = "text") -> None:
        self.spec, self.positions = spec, positions
        self.queries, self.keys = recorder.queries[layer], recorder.keys[layer]
        self.passes = recorder.passes
        self.kept = [[] for _ in range(spec.kv_heads)]
        self.seen = 0

    def worth(self, head: int, kept: list[int]) -> list[float]:
        raise NotImplementedError

    def saw(self, head: int, kept: list[int], rows: int) -> None:
        """The last `rows` of `kept` are new."""

    def replay(self, slots: int, spare: int, *, recent: int = 0, sinks: int = 0) -> list[list[int]]:
        """The places that each KV head has kept in the end."""
        for rows in self.passes:
            room = max(rows, spare)
            for head, kept in enumerate(self.kept):
                if len(kept) + rows > slots:
                    self.kept[head] = self._best(head, kept, slots - room, recent, sinks)
            self.seen += rows
            for head, kept in enumerate(self.kept):
                kept += range(self.seen - rows, self.seen)
                self.saw(head, kept, rows)
        return self.kept

    def _best(self, head: int, kept: list[int], keep: int, recent: int, sinks: int) -> list[int]:
        worth = self.worth(head, kept)
        last = min(recent, keep - sinks)
        safe = kept[:sinks] + kept[len(kept) - last :]
        others = sorted((i for i in range(len(kept)) if kept[i] not in safe), key=lambda i: -worth[i])
        return sorted(safe + [kept[i] for i in others[: keep - len(safe)]])

    def attention(self, query_head: int, place: int, kept: list[int]) -> dict[int, float]:
        """What the query of token `place` gives to each of the kept rows up to its own."""
        visible = [row for row in kept if row <= place]
        head = query_head // (self.spec.heads // self.spec.kv_heads)
        at = {row: index if self.positions == "cache" else row for index, row in enumerate(kept)}
        asked = self._turned(self.queries[place][query_head], at[place])
        logits = [
            float(asked @ self._turned(self.keys[row][head], at[row])) / self.spec.head_dim**0.5 for row in visible
        ]
        return dict(zip(visible, torch.tensor(logits).softmax(0).tolist(), strict=True))

    def _turned(self, vector: Tensor, position: int) -> Tensor:
        angles = self.spec.rotation.at(torch.tensor([position]))
        return self.spec.rotation.rotate(vector.view(1, 1, 1, -1), angles).flatten()

    def group(self, head: int) -> range:
        """The query heads of a KV head."""
        size = self.spec.heads // self.spec.kv_heads
        return range(head * size, head * size + size)


def places(cache: EvictingCache, layer: int) -> list[list[int]]:
    """What the cache kept: the places of each KV head's rows."""
    slots = cache.slots[layer]
    return [row[: slots.count].tolist() for row in slots.place]


class PooledVotes(PlainLoops):
    """What the window gives to each row before it; then the best, or the sum over k, of a row's neighbours."""

    config = SnapKVConfig()

    def worth(self, head, kept):
        window, half = self.config.window, self.config.kernel // 2
        before = kept[: len(kept) - window]
        pooled = []
        for query_head in self.group(head):
            votes = [0.0] * len(before)
            for place in kept[-window:]:
                given = self.attention(query_head, place, kept)
                votes = [vote + given[row] for vote, row in zip(votes, before, strict=True)]
            near = [votes[max(i - half, 0) : i + half + 1] for i in range(len(votes))]
            pooled.append([max(n) if self.config.pooling == "max" else sum(n) / self.config.kernel for n in near])
        join = max if self.config.group == "max" else sum
        return [join(heads) for heads in zip(*pooled, strict=True)] + [float("inf")] * window


def assert_the_best_stayed(model, recorder, config):
    """In every choice, and but for ties: pooled by maximum, neighbours share one vote and either may stay."""
    for layer, seen, *choice in recorder.choices:
        oracle = PooledVotes(model.spec, recorder, layer, positions=config.positions)
        oracle.config, oracle.seen = config, seen
        for head, (before, after) in enumerate(zip(*choice, strict=True)):
            worth = dict(zip(before, oracle.worth(head, before), strict=True))
            assert after[-config.window :] == list(range(seen - config.window, seen))
            assert min(worth[row] for row in after) >= max(worth[row] for row in before if row not in after) - 1e-5
