"""RereadingCache: what all memories share that work on text: tokens in a prompt that the model reads anew.

All of history is kept as tokens, four bytes each. A plain cache holds keys and values of the prompt as it stands, never
more than the budget. A policy is a subclass: it says what the prompt is when there is no room or an answer is due.
Whatever the model computes for that counts as cost of choosing.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megacontext.baselines.limits import Limits
from megacontext.baselines.one_conversation import OneConversation
from nanochat.hook import BaseModel, CacheUsage, KVCache, KVView, Mark, ModelSpec, Stream
from nanochat.kv_cache import DenseCache, storage_bytes

REREAD_ROWS = 256  # of a pass of reading anew
Tokens = NDArray[np.int32]


class RereadingCache(OneConversation):
    """tokens: (length,) all of history. prompt: the plain cache whose rows are in view, at positions 0, 1, ..."""

    def __init__(self, spec: ModelSpec, limits: Limits) -> None:
        self.spec, self.limits = spec, limits
        self.prompt = DenseCache(spec, batch=1, capacity=limits.slots, limit=limits.slots)
        self.reset()

    def reset(self) -> None:
        self.prompt.reset()
        self.carry = None
        self.tokens: Tokens = np.zeros(0, dtype=np.int32)
        self.selection_flops = 0
        self._unsettled = 0

    # --- what a policy says ---

    @abstractmethod
    def refresh(self, model: BaseModel, query: Tokens | None) -> None:
        """Read another prompt, if there must be one. query: what was asked, when an answer comes next; else None."""

    # --- for policies ---

    @property
    def full(self) -> bool:
        """Whether the next pass might not fit."""
        return self.prompt.length + self.limits.chunk > self.limits.slots

    @torch.no_grad()
    def read(self, model: BaseModel, tokens: Tokens) -> Tensor:
        """Empty the prompt and read `tokens` into it; the last row (1, 1, D). Raises ValueError if they do not fit."""
        self.prompt.reset()
        last = self.more(model, tokens)
        self.carry, self.prompt.carry = self.prompt.carry, None
        return last

    @torch.no_grad()
    def more(self, model: BaseModel, tokens: Tokens) -> Tensor:
        """Read `tokens` after what stands in the prompt."""
        self.selection_flops += cost_of_reading(model, self.prompt.length, len(tokens))
        hidden = torch.empty(0)
        for start in range(0, len(tokens), REREAD_ROWS):
            rows = torch.from_numpy(tokens[start : start + REREAD_ROWS].astype(np.int64)).to(self.spec.device)
            hidden = model.forward(model.embed(rows[None]), self.prompt)
        return hidden[:, -1:]

    # --- a pass ---

    @property
    def length(self) -> int:  # type: ignore[override]  # what is kept says how long it is
        return len(self.tokens)

    def begin(self, stream: Stream) -> Tensor:
        if stream.tokens is None:
            raise ValueError(f"{type(self).__name__} works on text, and these rows are no tokens")
        self.check_rows(stream)
        positions = self.prompt.begin(stream)
        self.tokens = np.concatenate([self.tokens, stream.tokens[0].cpu().numpy().astype(np.int32)])
        self._unsettled += stream.rows
        return positions

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        return self.prompt.update(layer, q, k, v)

    def maintain(self, model: BaseModel, *, prompt: int = 0, words: tuple[int, int] | None = None) -> None:
        self._unsettled = 0
        self.refresh(model, self._asked(prompt, words) if prompt else None)

    def _asked(self, prompt: int, words: tuple[int, int] | None) -> Tokens:
        """What somebody said in a prompt of `prompt` tokens, all but the last of which are read."""
        start = max(len(self.tokens) - (prompt - 1), 0)
        first, last = words or (0, prompt)
        return self.tokens[start + first : start + last]

    # --- the rest of the contract ---

    @property
    def usage(self) -> CacheUsage:
        inner = self.prompt.usage
        return CacheUsage(
            self.length,
            inner.resident_slots,
            inner.read_slots,
            inner.nbytes + storage_bytes([self.carry]) + self._nbytes,
        )

    @property
    def _nbytes(self) -> int:
        """Of the arrays that belong to this memory."""
        return sum(value.nbytes for value in self.__dict__.values() if isinstance(value, np.ndarray))

    def fork(self, batch: int = 1) -> KVCache:
        self.check_fork(batch)
        twin: Any = object.__new__(type(self))
        twin.__dict__ = {**self.__dict__, "prompt": self.prompt.fork()}  # arrays are replaced, never written to
        twin.carry = None if self.carry is None else self.carry.clone()
        return twin

    def mark(self) -> Mark:
        return Mark(self.length, self.carry)

    def rollback(self, mark: Mark) -> None:
        rows = mark.rows_back(self.length, self._unsettled)
        self.prompt.rollback(Mark(self.prompt.length - rows, None))
        self.tokens, self.carry = self.tokens[: mark.length], mark.carry
        self._unsettled -= rows


def cost_of_reading(model: BaseModel, before: int, rows: int) -> int:
    """About: two for each weight but the embedding's and each row, and attention to what stands before the row."""
    spec = model.spec
    seen = rows * before + rows * rows // 2
    return (
        2 * rows * max(_weights(model) - spec.vocab * spec.width, 0)
        + 4 * spec.layers * spec.heads * spec.head_dim * seen
    )


def _weights(model: BaseModel) -> int:
    """How many numbers a model has: models of files say it, a torch module lists them."""
    found: Any = getattr(model, "parameters", 0)
    return sum(parameter.numel() for parameter in found()) if callable(found) else int(found)
