"""What one layer of a plain pass says of each block of history. Knows views and blocks, neither models nor scorers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.attention import causal_bias
from nanochat.hook import KVView

LEAST_REST = 1e-4  # of a row's attention: without a block that has all the rest, the output is not told any finer


class Judge(ABC):
    """How blocks are judged: by one layer, by all layers, by all rows that look. block: tokens of one."""

    def __init__(self, block: int) -> None:
        self.block = block

    @abstractmethod
    def layer(self, view: KVView, length: int) -> Tensor:
        """(T, N): what each row says of each of the N blocks of `length` tokens; the view's slots are the last ones."""

    @abstractmethod
    def join(self, one: Tensor, other: Tensor) -> Tensor:
        """Two layers' words (T, N) as one."""

    @abstractmethod
    def over_rows(self, words: Tensor) -> Tensor:
        """(T, N) -> (N,)"""


class Mass(Judge):
    """The largest share of its attention that any row, in any head of any layer, gives the block."""

    def layer(self, view: KVView, length: int) -> Tensor:
        return _weights(view, length, self.block).sum(-1).amax(0)

    def join(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.maximum(one, other)

    def over_rows(self, words: Tensor) -> Tensor:
        return words.amax(0)


class Change(Judge):
    """How far attention's output moves when the block is taken away, in lengths of that output: m / (1 - m) times the
    distance of the block's own output from the whole, m the block's mass. The largest of any head, summed over layers,
    mean of the rows.
    """

    def layer(self, view: KVView, length: int) -> Tensor:
        weights = _weights(view, length, self.block)
        group = view.q.shape[1] // view.keys.shape[1]
        values = _blocks(view.values[0].float().transpose(1, 2), length, self.block).repeat_interleave(group, 0)
        parts = torch.einsum("htnb,hdnb->htnd", weights, values)
        whole, mass = parts.sum(2), weights.sum(-1)
        rest = (1 - mass).clamp(min=LEAST_REST)
        moved = (parts - mass[..., None] * whole[:, :, None]).norm(dim=-1) / rest
        return (moved / whole.norm(dim=-1, keepdim=True).clamp(min=1e-12)).amax(0)

    def join(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other

    def over_rows(self, words: Tensor) -> Tensor:
        return words.mean(0)


def _weights(view: KVView, length: int, block: int) -> Tensor:
    """Attention (H, T, N, block) of each row, in float32."""
    heads, rows, width = view.q.shape[1:]
    keys = view.keys[0].float().repeat_interleave(heads // view.keys.shape[1], 0)
    scores = view.q[0].float() @ keys.transpose(-1, -2) * width**-0.5
    bias = causal_bias(rows, keys.shape[1], keys.device, keys.dtype) if view.bias is None else view.bias
    return _blocks((scores + bias).reshape(scores.shape).softmax(-1), length, block)


def _blocks(slots: Tensor, length: int, block: int) -> Tensor:
    """(..., S), the last S of `length` tokens -> (..., N, block), nothing at the others."""
    return F.pad(slots, (length - slots.shape[-1], -length % block)).unflatten(-1, (-1, block))
