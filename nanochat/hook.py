"""The contract between a model and its memory. Types only, no logic.

A model talks to its memory through three verbs: `begin` once per pass, `update` once per layer, `maintain` between
passes. A plain KV cache, a streaming cache and MegaContext are implementations of the same contract, so the engine,
the chat and every benchmark use them without an `if`.

Two rules make that possible:
- Keys and queries arrive normalised and *un-rotated*. The cache owns positions: it decides where each slot sits and
  rotates. (nanochat's QK-norm has no weights, so norm and rotation commute exactly.)
- The cache owns the mask. It answers with the keys the rows may see and an additive logit bias.

Shapes: B batch, T new rows, S slots of a view, H query heads, Hk KV heads, d head width, D model width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """Rows on their way into the model.

    x: (B, T, D) embedded rows. tokens: (B, T) int64 ids, or None for rows that are no tokens.
    side: what a family adds beside the stream, for example nanochat's value embeddings.
    """

    x: Tensor
    tokens: Tensor | None = None
    side: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.x.shape[1]


class KVView(NamedTuple):
    """What the new rows of one layer may attend to.

    q: (B, H, T, d) rotated. keys, values: (B, Hk, S, d), keys rotated.
    bias: additive logit bias, broadcastable to (B, H, T, S); None means causal, aligned at the end:
    row t sees the first S - spare - T + t + 1 slots.
    spare: of S, the last slots that no row sees. They are finite, and there so that shapes repeat from token to token;
    for a single row without bias alone. `nanochat.attention` leaves them out; whoever does without it takes `bare()`.
    """

    q: Tensor
    keys: Tensor
    values: Tensor
    bias: Tensor | None = None
    spare: int = 0

    def bare(self) -> KVView:
        """The same without spare slots."""
        if not self.spare:
            return self
        seen = self.keys.shape[2] - self.spare
        return KVView(self.q, self.keys[:, :, :seen], self.values[:, :, :seen], self.bias)


class CacheUsage(NamedTuple):
    """Real use of memory. nbytes counts storage: padding, metadata, gists and indexes included."""

    seen: int  # tokens since the last reset
    resident_slots: int  # slots that hold something a row may attend to
    read_slots: int  # slots that the next single row will read, itself excluded
    nbytes: int


class Mark(NamedTuple):
    """A point to roll back to. Opaque to callers."""

    length: int
    carry: Tensor | None

    def rows_back(self, length: int, unsettled: int) -> int:
        """How many rows a rollback from `length` to here takes back.

        unsettled: rows since the last `maintain`. Raises ValueError if it would take others.
        """
        rows = length - self.length
        if not 0 <= rows <= unsettled:
            raise ValueError(
                f"cannot go from length {length} back to {self.length}: only the {unsettled} rows since the last "
                "maintain can be forgotten"
            )
        return rows


class Rotation(Protocol):
    """How a family moves a vector to a position. `at` is computed once a pass, `rotate` is called once a layer."""

    def reserve(self, length: int) -> None:
        """Make positions 0 .. length - 1 available: tables grow on demand, there is no longest."""

    def at(self, positions: Tensor) -> Any:
        """Angles for `positions` (..., T)."""

    def rotate(self, x: Tensor, angles: Any) -> Tensor:
        """x: (..., heads, T, d) un-rotated -> same shape, rotated. Never in place."""


@dataclass(frozen=True)
class ModelSpec:
    """What a memory must know of a model.

    max_position: positions the model was trained on, 0 .. max_position - 1.
    windows: per layer, None for full attention, else w: row i sees row j iff 0 <= i - j <= w.
    memory_layers: layers whose history MegaContext keeps; the others have a window and need only their ring.
    relocatable: keys can be moved to another position by rotation (False for learned positions, GPT-2).
    fingerprint: identifies the weights; derived data made by another fingerprint is never used.
    """

    family: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    vocab: int
    max_position: int
    rotation: Rotation
    dtype: torch.dtype
    device: torch.device
    windows: tuple[int | None, ...] = ()
    memory_layers: tuple[int, ...] = ()
    relocatable: bool = True
    fingerprint: str = ""


class KVCache(ABC):
    """One conversation's memory, as a model sees it.

    length: tokens seen since the last reset. carry: model state that travels with the keys (nanochat's smear keeps
    the last row's embedding there).
    """

    length: int = 0
    carry: Tensor | None = None

    @abstractmethod
    def begin(self, stream: Stream) -> Tensor:
        """Open a pass over `stream.rows` new rows, which count as seen from here on. Returns positions (B, T).

        A family with learned positions adds them at the input; one with rotary positions may ignore them.
        Raises ValueError if the rows do not fit (see `room`).
        """

    @abstractmethod
    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        """Store this layer's rows, say what they see. q (B,H,T,d), k and v (B,Hk,T,d), normalised, NOT rotated."""

    def maintain(self, model: BaseModel, *, prompt: int = 0, words: tuple[int, int] | None = None) -> None:  # noqa: B027 - a plain cache has nothing to do
        """Between passes: the one moment to seal, evict, refocus, page.

        prompt: 0, or the tokens of a prompt that an answer follows. The engine calls `maintain` after every pass, and
        once with `prompt` when only the prompt's last token is left, so that the row whose logits become the answer's
        first token already sees the new view. words: the prompt's tokens [start, stop) that somebody said, without
        the chat format around them; None for all.
        """

    def room(self, rows: int) -> int:
        """How many of `rows` the next pass may bring (at least 1)."""
        return rows

    @property
    @abstractmethod
    def usage(self) -> CacheUsage:
        """Real use, now."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything."""

    @abstractmethod
    def fork(self, batch: int = 1) -> KVCache:
        """An independent copy, broadcast to `batch` rows. Raises ValueError if it cannot hold so many."""

    def mark(self) -> Mark:
        """Remember this point; valid until the next `maintain`."""
        return Mark(self.length, self.carry)

    @abstractmethod
    def rollback(self, mark: Mark) -> None:
        """Forget the rows since `mark`. Raises ValueError if a `maintain` came between."""


@runtime_checkable
class BaseModel(Protocol):
    """A language model behind the hook."""

    @property
    def spec(self) -> ModelSpec: ...

    def embed(self, tokens: Tensor) -> Stream:
        """tokens (B, T) int64 -> Stream."""

    def forward(self, stream: Stream, cache: KVCache) -> Tensor:
        """One pass: begin, update per layer, attention. Returns the final normalised hidden rows (B, T, D)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> (B, T, V) float32."""
