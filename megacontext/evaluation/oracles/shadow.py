"""A plain cache of all of history that runs ahead of the memory it shadows, and keeps what its rows say of each block.

It serves several histories in turn: that of a memory and those of its copies. Each look goes back to where the text it
holds agrees with the text asked about, so that one history's tokens are never seen from another, and reads on from
there. So text that flows costs one row a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from megacontext.baselines.rereading import cost_of_reading
from megacontext.errors import ConfigError
from megacontext.evaluation.oracles.judging import Judge
from nanochat.hook import BaseModel, KVView, Mark, ModelSpec
from nanochat.kv_cache import DenseCache

READ_ROWS, JUDGED_ROWS = 512, 64  # of one pass: a judged row has its attention to all of history in memory


class WatchedCache(DenseCache):
    """Shows every layer's view to `watch`. raw: keep keys before rotation as well, to be placed elsewhere."""

    def __init__(self, spec: ModelSpec, *, raw: bool = False) -> None:
        super().__init__(spec, batch=1)
        self.raw = raw
        self.watch: Callable[[int, KVView], None] | None = None
        self._raw_keys: list[Tensor] = []

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        view = super().update(layer, q, k, v)
        if self.raw:
            self._raw_keys[layer][:, :, self._start : self.length] = k
        if self.watch is not None:
            self.watch(layer, view.bare())
        return view

    def chosen(self, layer: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Un-rotated keys and values (B, Hk, S, d) of the rows (B, S)."""
        keys, values = self._raw_keys[layer][0][:, rows], self._values[layer][0][:, rows]
        return keys.transpose(0, 1), values.transpose(0, 1)

    def stretch(self, layer: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Rotated keys and values (1, Hk, S, d) of the rows [start, stop)."""
        return self._keys[layer][:, :, start:stop], self._values[layer][:, :, start:stop]

    @property
    def nbytes(self) -> int:
        return self.usage.nbytes + sum(keys.untyped_storage().nbytes() for keys in self._raw_keys)

    def _reserve(self, length: int) -> None:
        super()._reserve(length)
        if not self.raw or (self._raw_keys and self._raw_keys[0].shape[2] == self.capacity):
            return
        old = self._raw_keys
        self._raw_keys = [self._buffer(self.capacity) for _ in range(self.spec.layers)]
        for before, now in zip(old, self._raw_keys, strict=False):
            now[:, :, : before.shape[2]] = before


class Shadow:
    """text: what `cache` holds. raw: see WatchedCache. flops: about what was spent so far, whoever asked."""

    def __init__(self, model: BaseModel, judge: Judge, *, raw: bool = False) -> None:
        self.model, self.judge = model, judge
        self.cache = WatchedCache(model.spec, raw=raw)
        self.text: list[int] = []
        self.flops = 0
        self._words: list[Tensor | None] = []  # of each row (N,), None if it was only read
        self._ends: dict[int, Tensor | None] = {0: None}  # where a pass ended, with the cache's carry
        self._found: Tensor | None = None

    def look(self, history: Sequence[int], ahead: Sequence[int], blocks: int) -> Tensor:
        """(blocks,): what the rows that predict the tokens `ahead`, at least one, say of the first blocks of `history`.

        Raises ConfigError past the trained length.
        """
        text, first = [*history, *ahead[:-1]], len(history) - 1
        within(self.model.spec, len(text))
        with torch.inference_mode():
            self._rewind(self._agreed(text, first))
            self._read(text, first)
            words = [row[:blocks] for row in self._words[first : len(text)] if row is not None]
            return self.judge.over_rows(torch.stack(words))

    def carry_before(self, row: int) -> Tensor | None:
        """The model's state ahead of this row of the last look, its first."""
        return self._ends.get(row)

    @property
    def nbytes(self) -> int:
        words = sum(row.nbytes for row in self._words if row is not None)
        return self.cache.nbytes + words

    def _agreed(self, text: Sequence[int], first: int) -> int:
        """How many rows may stay: they are of the same text, those from `first` on have been judged."""
        pairs = enumerate(zip(self.text, text, strict=False))
        same = next((row for row, (held, wanted) in pairs if held != wanted), min(len(self.text), len(text)))
        if self.cache.raw and self.cache.carry is not None and first not in self._ends:
            same = min(same, first)  # a pass must end there
        return next((row for row in range(first, same) if self._words[row] is None), same)

    def _rewind(self, rows: int) -> None:
        """Back to the end of a pass, at most so many rows."""
        end = max(end for end in self._ends if end <= rows)
        self.cache.rollback(Mark(end, self._ends[end]))
        del self.text[end:], self._words[end:]
        self._ends = {length: carry for length, carry in self._ends.items() if length <= end}

    def _read(self, text: Sequence[int], first: int) -> None:
        while (start := len(self.text)) < len(text):
            judged = start >= first
            stop = min(start + JUDGED_ROWS, len(text)) if judged else min(start + READ_ROWS, first)
            self._pass(text[start:stop], judged)

    def _pass(self, tokens: Sequence[int], judged: bool) -> None:
        self._found, self.cache.watch = None, self._judge if judged else None
        self.flops += cost_of_reading(self.model, len(self.text), len(tokens))
        rows = torch.tensor([list(tokens)], device=self.model.spec.device)
        self.model.forward(self.model.embed(rows), self.cache)
        self.text += tokens
        self._words += [None] * len(tokens) if self._found is None else list(self._found.cpu())
        self._ends[len(self.text)] = self.cache.carry

    def _judge(self, layer: int, view: KVView) -> None:
        if layer in self.model.spec.memory_layers:
            words = self.judge.layer(view, self.cache.length)
            self._found = words if self._found is None else self.judge.join(self._found, words)


def within(spec: ModelSpec, tokens: int) -> None:
    """Raises ConfigError if so many tokens are more than the model was trained on: full attention cannot judge them."""
    if tokens > spec.max_position:
        raise ConfigError(
            f"no row, because this oracle asks full attention, and {tokens} tokens are more than the "
            f"{spec.max_position} that the model was trained on; give the task fewer tokens"
        )
