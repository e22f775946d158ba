"""EvictingCache: what all memories share that keep a budget by dropping rows, head by head and for ever.

A policy is a subclass: it says what each row is worth, and may note what each pass asked. Rows leave before a pass that
would not fit; those that came since the last `maintain` never do, so that they can be rolled back.

Layers that are no memory layers have a window, and keep just that: they are outside every budget.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from megacontext.baselines.copying import held_bytes
from megacontext.baselines.limits import Limits
from megacontext.baselines.one_conversation import OneConversation
from megacontext.baselines.slots import LayerSlots
from megacontext.errors import ConfigError
from nanochat.attention import causal_bias
from nanochat.hook import BaseModel, CacheUsage, KVView, Mark, ModelSpec, Stream
from nanochat.kv_cache import Windows

Positions = Literal["text", "cache"]


class EvictingCache(OneConversation):
    """positions: a row stands where it stood in the text, or at its index among the rows that are kept.

    sinks, recent: rows at both ends that never leave (as far as there is room for them).
    """

    tracks: ClassVar[tuple[str, ...]] = ()  # figures a row, see LayerSlots

    def __init__(self, spec: ModelSpec, limits: Limits, *, positions: Positions, sinks: int, recent: int) -> None:
        """Raises BudgetError if the ends alone do not fit, ConfigError for positions that are not there."""
        if positions not in get_args(Positions):
            raise ConfigError(f"positions is {positions!r}; it is one of {', '.join(get_args(Positions))}")
        limits.demand(sinks + recent, type(self).__name__, f"{sinks} first and {recent} last rows, and those of a pass")
        self.spec, self.limits, self.sinks, self.recent = spec, limits, sinks, recent
        self.positions: Positions = positions if spec.relocatable else "text"
        self.reset()

    def layer_slots(self, layer: int) -> int:
        """Most rows a head of `layer` may hold, those of the running pass included."""
        return self.limits.slots

    def reset(self) -> None:
        self.length, self.carry = 0, None
        self.slots = {layer: self._empty(layer) for layer in range(self.spec.layers)}
        self.selection_flops = 0
        self._windows = Windows(self.spec.windows)
        self._unsettled = 0
        self._first = 0
        self._angles: dict[int, Any] = {}

    def _empty(self, layer: int) -> LayerSlots:
        moves = self.positions == "cache"
        if layer in self.spec.memory_layers:
            return LayerSlots(self.spec, self.layer_slots(layer), moves=moves, tracks=self.tracks)
        return LayerSlots(self.spec, self._window(layer) + 2 * self.limits.chunk, moves=moves)

    def _window(self, layer: int) -> int:
        return self.spec.windows[layer] or 0

    # --- what a policy says ---

    @abstractmethod
    def worth(self, layer: int) -> Tensor:
        """(Hk, n) of the rows in `self.slots[layer]`: the least worth leave."""

    def note(self, layer: int, raw_q: Tensor, view: KVView) -> None:
        """A memory layer's pass: raw_q (1, H, T, d) not rotated; the view that it got. Not yet final: see `settle`."""

    def bias(self, layer: int) -> Tensor | None:
        """(Hk, n) what is added to the logits of the rows in `self.slots[layer]`; None for nothing."""
        return None

    def settle(self, model: BaseModel) -> None:
        """What was noted since the last time stays."""

    def forget_notes(self) -> None:
        """`length` has gone back: what was noted of the rows from there on is taken back."""

    # --- a pass ---

    def begin(self, stream: Stream) -> Tensor:
        rows = stream.rows
        self.check_batch(stream)
        self.check_rows(stream)
        for layer in range(self.spec.layers):
            self._make_room(layer, rows)
        self._first, self.length = self.length, self.length + rows
        self._unsettled += rows
        self._windows.begin()
        self._angles.clear()
        start = self._position(self.slots[self.spec.memory_layers[0]])
        return torch.arange(start, start + rows, device=self.spec.device)[None]

    def _position(self, slots: LayerSlots) -> int:
        """Of the first row of this pass."""
        return slots.count if self.positions == "cache" else self._first

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        slots, rotate = self.slots[layer], self.spec.rotation.rotate
        angles = self._angles_from(self._position(slots), k.shape[2])
        slots.append(k, rotate(k, angles), v, self._first)
        keys, values = slots.keys[:, :, : slots.count], slots.values[:, :, : slots.count]
        if layer not in self.spec.memory_layers:
            return self._windows.view(layer, rotate(q, angles), keys, values)
        view = KVView(rotate(q, angles), keys, values)
        self.note(layer, q, view)
        bias = self.bias(layer)
        return view if bias is None else view._replace(bias=bias_of_slots(bias, q.shape[1], q.shape[2]))

    def _angles_from(self, start: int, rows: int) -> Any:
        """Computed once a pass for all layers whose rows stand alike."""
        if start not in self._angles:
            self._angles[start] = self._turn(start, start + rows)
        return self._angles[start]

    def _turn(self, start: int, stop: int) -> Any:
        self.spec.rotation.reserve(stop)
        return self.spec.rotation.at(torch.arange(start, stop, device=self.spec.device))

    # --- eviction ---

    def _make_room(self, layer: int, rows: int) -> None:
        slots = self.slots[layer]
        if slots.count + rows <= slots.place.shape[1]:
            return
        if layer in self.spec.memory_layers:
            self.shrink(layer, self.layer_slots(layer) - max(rows, self.limits.spare))
        else:
            slots.keep_newest(self._window(layer) + self._unsettled)
        self._close_up(slots)

    def _close_up(self, slots: LayerSlots) -> None:
        """Where keys move, those that are left stand at their new index."""
        if slots.raw is not None:
            kept_rows = slots.raw[:, :, : slots.count]
            slots.keys[:, :, : slots.count] = self.spec.rotation.rotate(kept_rows, self._turn(0, slots.count))

    def shrink(self, layer: int, keep: int) -> None:
        """Leave at most `keep` rows in `self.slots[layer]`; where keys move, they are rotated anew afterwards."""
        self.slots[layer].keep(self.select(layer, keep))

    def select(self, layer: int, keep: int) -> Tensor:
        """(Hk, keep) the rows that stay, ascending. Raises ValueError if more must stay than `keep`."""
        slots, count = self.slots[layer], self.slots[layer].count
        if self._unsettled >= keep:
            raise ValueError(f"{self._unsettled} rows since the last maintain leave no room in {keep} slots")
        worth = self.worth(layer).clone()
        last = max(self._unsettled, min(self.recent, keep - self.sinks))
        worth[:, : min(self.sinks, keep - last)] = float("inf")
        worth[:, count - last :] = float("inf")
        return worth.topk(min(keep, slots.count), dim=1).indices.sort(dim=1).values

    # --- the rest of the contract ---

    def maintain(self, model: BaseModel, *, prompt: int = 0, words: tuple[int, int] | None = None) -> None:
        if self._unsettled:
            self.settle(model)
        self._unsettled = 0

    @property
    def usage(self) -> CacheUsage:
        counts = [self.slots[layer].count for layer in self.spec.memory_layers]
        mean = -(-sum(counts) // len(counts))
        return CacheUsage(self.length, mean, mean, held_bytes(self.held()))

    def rollback(self, mark: Mark) -> None:
        rows = mark.rows_back(self.length, self._unsettled)
        self.length, self.carry = mark.length, mark.carry
        self._unsettled -= rows
        if rows:
            for slots in self.slots.values():
                slots.truncate(rows)
            self.forget_notes()


def bias_of_slots(figures: Tensor, heads: int, rows: int) -> Tensor:
    """figures (Hk, S), one for each slot of each KV head -> (1, H, T, S) with the causal mask of the last `rows`."""
    kv_heads, count = figures.shape
    bias = figures.repeat_interleave(heads // kv_heads, 0)[:, None]
    return (bias if rows == 1 else bias + causal_bias(rows, count, bias.device, bias.dtype))[None]


def attention_weights(view: KVView) -> Tensor:
    """(H, T, n) what each row of a pass attends to, under the causal mask of a view without a bias; float32."""
    heads, rows, width = view.q.shape[1:]
    kv_heads, count = view.keys.shape[1:3]
    q = view.q[0].reshape(kv_heads, heads // kv_heads * rows, width) * width**-0.5
    scores = (q @ view.keys[0].transpose(-1, -2)).float().view(heads, rows, count)
    if rows > 1:
        future = torch.ones(rows, count, dtype=torch.bool, device=scores.device).triu_(count - rows + 1)
        scores.masked_fill_(future, float("-inf"))
    return scores.softmax(-1)


def flops_of_scores(view: KVView) -> int:
    """Multiply-adds x 2 of one q.k product over the view: what noting attention costs beside attention itself."""
    return 2 * view.q.shape[1] * view.q.shape[2] * view.keys.shape[2] * view.q.shape[3]
