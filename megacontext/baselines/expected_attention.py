"""Expected Attention: what future queries will probably look at stays, in closed form. It never sees an attention map.

Devoto, Jeblick, Jegou: Expected Attention: KV Cache Compression by Estimating Attention from Future Queries
Distribution (2025, arXiv 2510.00636), section 3: queries of a head, before rotation, are taken for a Gaussian with the
mean m and covariance C of those seen; rotated by the mean rotation R over the next 512 positions they have mean R m and
covariance R C R'. A key k is then expected to get exp(k.Rm / sqrt(d) + k'RCR'k / 2d), normalised over the rows. A row
is worth (that + epsilon) times the norm of its value. Settings are those of the authors' evaluation (their library
kvpress: 512 positions, 4 sinks, epsilon 0.01). Grouped queries their way: expectations of a KV head's query heads are
averaged. Every head of every layer keeps as many rows (theirs adds AdaKV's uneven heads, which is another paper).

A stream differs from the paper in this: rows leave whenever the budget is full, not once after a prompt; and mean and
covariance are of all queries since the beginning (the paper's prompt; while decoding it takes a buffer of the last
ones). They are kept as sums: d x d numbers a query head, which `nbytes` counts. Where a model normalises its queries
the method applies to what comes out of the norm, since that is what a cache is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megacontext.baselines.evicting import EvictingCache, Positions
from megacontext.baselines.limits import Limits, TextSide
from megacontext.baselines.query_notes import QueryNotes
from nanochat.hook import BaseModel, KVView, ModelSpec


@dataclass(frozen=True)
class ExpectedAttentionConfig:
    """future: positions that the rotation is averaged over. sinks: first rows that stay; their queries do not count.

    covariance, value_norm: off for the paper's ablations. recent, positions: as in KeyDiffConfig.
    """

    future: int = 512
    sinks: int = 4
    epsilon: float = 0.01
    covariance: bool = True
    value_norm: bool = True
    recent: int = 0
    positions: Positions = "text"


class ExpectedAttention(EvictingCache):
    """seen: queries counted. sums (layers: (H, d)), products (layers: (H, d, d)): of the queries and of their pairs."""

    def __init__(
        self,
        spec: ModelSpec,
        limits: Limits,
        config: ExpectedAttentionConfig = ExpectedAttentionConfig(),
        text: TextSide | None = None,
    ) -> None:
        self.config = config
        super().__init__(spec, limits, positions=config.positions, sinks=config.sinks, recent=config.recent)

    def reset(self) -> None:
        super().reset()
        shape, device = (self.spec.heads, self.spec.head_dim), self.spec.device
        self.seen = 0
        self.sums = {layer: torch.zeros(shape, device=device) for layer in self.spec.memory_layers}
        self.products = {
            layer: torch.zeros(*shape, self.spec.head_dim, device=device)
            for layer in (self.spec.memory_layers if self.config.covariance else ())
        }
        self._notes = QueryNotes()
        self._mean_rotation: tuple[int, Tensor] | None = None

    # --- what queries look like ---

    def note(self, layer: int, raw_q: Tensor, view: KVView) -> None:
        self._notes.add(layer, self._first, raw_q)

    def forget_notes(self) -> None:
        self._notes.drop_from(self.length)

    def settle(self, model: BaseModel) -> None:
        counted = 0
        for layer, (places, queries) in self._notes.take().items():
            asked = queries[:, places >= self.config.sinks].float()
            counted = asked.shape[1]
            self.sums[layer] += asked.sum(1)
            if self.config.covariance:
                self.products[layer] += asked.mT @ asked
                self.selection_flops += 2 * asked.numel() * asked.shape[2]
        self.seen += counted

    def query_statistics(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """Mean (H, d) and covariance (H, d, d) of the queries that were asked, not rotated; float32."""
        count = max(self.seen, 1)
        mean = self.sums[layer] / count
        if not self.config.covariance:
            return mean, None
        return mean, self.products[layer] / count - mean[:, :, None] * mean[:, None, :]

    def mean_rotation(self, layer: int) -> Tensor:
        """(d, d) float32, the mean of the rotations to the positions that come next: `mean @ x` rotates a column x."""
        start = self.slots[layer].count if self.positions == "cache" else self.length
        if self._mean_rotation is None or self._mean_rotation[0] != start:
            basis = torch.eye(self.spec.head_dim, device=self.spec.device, dtype=self.spec.dtype)
            spread = basis[:, None].expand(-1, self.config.future, -1)
            turned = self.spec.rotation.rotate(spread, self._turn(start, start + self.config.future))
            self._mean_rotation = start, turned.float().mean(1).T.contiguous()
        return self._mean_rotation[1]

    # --- what a row is worth ---

    def worth(self, layer: int) -> Tensor:
        slots = self.slots[layer]
        keys, values = slots.keys[0, :, : slots.count], slots.values[0, :, : slots.count]
        mean, covariance = self.query_statistics(layer)
        turn = self.mean_rotation(layer)
        mean = mean @ turn.T
        if covariance is not None:
            covariance = turn @ covariance @ turn.T
            self.selection_flops += 2 * self.spec.heads * slots.count * self.spec.head_dim**2
        self.selection_flops += 4 * self.spec.heads * slots.count * self.spec.head_dim
        worth = expected_attention(keys, mean, covariance, self.config.sinks) + self.config.epsilon
        return worth * values.float().norm(dim=-1) if self.config.value_norm else worth


def expected_attention(keys: Tensor, mean: Tensor, covariance: Tensor | None, sinks: int) -> Tensor:
    """keys (Hk, n, d); mean (H, d), covariance (H, d, d) of rotated queries -> (Hk, n), 1 in sum over all but sinks."""
    kv_heads, count, width = keys.shape
    keys = keys.float()
    scores = torch.einsum("hgd,hnd->hgn", mean.view(kv_heads, -1, width), keys) * width**-0.5
    if covariance is not None:
        spread = covariance.view(kv_heads, -1, width, width)
        scores += ((keys[:, None] @ spread) * keys[:, None]).sum(-1) / (2 * width)
    scores[:, :, :sinks] = float("-inf")
    return scores.softmax(-1).mean(1).view(kv_heads, count)
