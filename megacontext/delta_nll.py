"""ΔNLL while a conversation runs: what the view costs, in nats a token.

Every so many ticks the newest tokens are scored twice, under the view as it stands and under a reference, and the mean
losses are compared. The view is scored on a copy (`reread.py`), so measuring changes nothing. References:

    exact   what is in view, in the order of time, computed afresh by a plain cache: the price of pages that keep the
            keys and values of when they were read
    full    all of history by a plain cache that follows along: the price of not seeing everything. It ends where the
            model's trained positions end.

The view was chosen knowing the scored tokens, as a prompt's view is; nothing is told about tokens to come. Views of
running text are measured, not those of a prompt's end: their pages stand for the answer, behind the text before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.config import TelemetryConfig
from megacontext.context import WorkingContext
from megacontext.reread import reread
from megacontext.ring import Ring
from megacontext.telemetry.events import Warning_
from megacontext.telemetry.sinks import Sink
from megacontext.telemetry.timing import percentile
from megacontext.tree.memory_tree import MemoryTree
from megacontext.view import View
from megacontext.view_pass import ViewPass
from nanochat.hook import BaseModel, KVCache, ModelSpec
from nanochat.kv_cache import DenseCache, storage_bytes

CHUNK = 256  # rows of one pass of a reference
REPEATS = 3  # timings of the baseline's pass


class Measured(NamedTuple):
    """nats: loss under the view less loss under the reference, a token. took_ms: what measuring cost. baseline_ms: a
    pass of as many rows as the memory's last one, by a plain cache that holds what is in view.
    """

    nats: float
    reference: str
    took_ms: float
    baseline_ms: float | None = None


class Measurable(Protocol):
    """What a measurement asks of a memory."""

    spec: ModelSpec
    context: WorkingContext
    view: View
    tree: MemoryTree
    rings: dict[int, Ring]
    carry: Tensor | None
    sink: Sink


class DeltaNll:
    """reference: exact or full. every: ticks between two measurements. tokens: how many of the newest are scored."""

    def __init__(self, reference: str, every: int, tokens: int) -> None:
        self.every, self.tokens = every, tokens
        self._kind = REFERENCES[reference]
        self.reset()

    @classmethod
    def of(cls, config: TelemetryConfig) -> DeltaNll | None:
        """As the settings say; None where it is off."""
        off = config.delta_nll == "off"
        return None if off else cls(config.delta_nll, config.delta_nll_every, config.delta_nll_tokens)

    def reset(self) -> None:
        """A new history."""
        self._reference = self._kind(self.tokens)
        self._next = self.every - 1

    def due(self, tick: int) -> bool:
        """Whether this tick, counted from 0, ends with a measurement; one that could not be made stays due."""
        return tick >= self._next

    @property
    def nbytes(self) -> int:
        """What the reference keeps between two measurements."""
        return self._reference.nbytes

    @torch.no_grad()
    def measure(self, model: BaseModel, memory: Measurable, tick: int, rows: int) -> Measured | None:
        """None: too little history, or a reference that has ended. rows: of the memory's last pass."""
        started = perf_counter()
        first = self._first_block(memory)
        if first is None:
            return None
        loss = self._reference.loss(model, memory, first)
        if loss is None:
            return None
        nats = _loss_in_view(model, memory, first, self.tokens) - loss
        baseline_ms = self._reference.baseline_ms(model, memory, rows)
        self._next = tick + self.every
        return Measured(nats, self._reference.name, (perf_counter() - started) * 1e3, baseline_ms)

    def _first_block(self, memory: Measurable) -> int | None:
        """The block with the row that predicts the first scored token; None if that cannot be read again."""
        context, block = memory.context, memory.context.grid.block
        row = context.history - self.tokens - 1
        if row < 0:
            return None
        first = row // block
        shown = all(n in memory.view.pages for n in range(first, context.sealed // block))
        kept = all(context.history - first * block <= ring.spare for ring in memory.rings.values())
        return first if shown and kept else None


class Reference(ABC):
    """What a view is compared with. tokens: how many of the newest are scored."""

    name: str

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    @abstractmethod
    def loss(self, model: BaseModel, memory: Measurable, first: int) -> float | None:
        """Mean loss of the newest tokens; None where there is none. first: the block where their rows begin."""

    def baseline_ms(self, model: BaseModel, memory: Measurable, rows: int) -> float | None:
        """A plain pass of so many rows over what is in view, after `loss`; None where that was not computed."""
        return None

    @property
    def nbytes(self) -> int:
        return 0


class Exact(Reference):
    """The text in view, in the order of time, computed afresh."""

    name = "exact"

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self._cache: DenseCache | None = None

    def loss(self, model: BaseModel, memory: Measurable, first: int) -> float:
        block, tree, context = memory.context.grid.block, memory.tree, memory.context
        before = [n for n in sorted(memory.view.pages) if n < first]
        text = [token for n in before for token in tree.tokens(n * block, (n + 1) * block)]
        newest = tree.tokens(first * block, context.history)
        self._cache = DenseCache(memory.spec, capacity=len(text) + len(newest))
        _feed(model, self._cache, text)
        hidden = _feed(model, self._cache, newest)
        return float(_losses(model, hidden[:, :-1], newest[1:])[-self.tokens :].mean())

    def baseline_ms(self, model: BaseModel, memory: Measurable, rows: int) -> float | None:
        cache, self._cache = self._cache, None
        if cache is None:
            return None
        mark, last = cache.mark(), memory.tree.tokens(memory.context.history - rows, memory.context.history)
        times = []
        for _ in range(REPEATS):
            started = perf_counter()
            _feed(model, cache, last)
            times.append((perf_counter() - started) * 1e3)
            cache.rollback(mark)
        return percentile(times, 0.5)


class Full(Reference):
    """All of history, by a plain cache that follows along: each token is computed once more, when next measured."""

    name = "full"

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self._cache: DenseCache | None = None
        self._last: Tensor | None = None  # the newest hidden row (1, 1, D): it predicts the next token
        self._newest = torch.empty(0)  # losses of the newest tokens
        self._ended = False

    def loss(self, model: BaseModel, memory: Measurable, first: int) -> float | None:
        history, trained = memory.context.history, memory.spec.max_position
        if self._ended or history > trained:
            self._end(memory.sink, trained)
            return None
        self._cache = self._cache or DenseCache(memory.spec)
        new = memory.tree.tokens(self._cache.length, history)
        hidden = _feed(model, self._cache, new)
        rows = hidden[:, :-1] if self._last is None else torch.cat([self._last, hidden[:, :-1]], 1)
        scored = min(self.tokens, rows.shape[1])
        losses = _losses(model, rows[:, rows.shape[1] - scored :], new[len(new) - scored :])
        self._last, self._newest = hidden[:, -1:], torch.cat([self._newest, losses])[-self.tokens :]
        return float(self._newest.mean())

    def _end(self, sink: Sink, trained: int) -> None:
        if not self._ended:
            message = f"ΔNLL against full attention ends here: history has passed the {trained} trained positions"
            sink.emit(Warning_(message=message, hint="telemetry.delta_nll: exact goes on at any length"))
        self._ended, self._cache, self._last, self._newest = True, None, None, torch.empty(0)

    @property
    def nbytes(self) -> int:
        cache = 0 if self._cache is None else self._cache.usage.nbytes
        return cache + storage_bytes((self._last, self._newest))


REFERENCES: dict[str, type[Reference]] = {kind.name: kind for kind in (Exact, Full)}


def _loss_in_view(model: BaseModel, memory: Measurable, first: int, tokens: int) -> float:
    """Mean loss of the newest tokens when they are read again, on a copy, under the view as it stands."""
    context, block = memory.context, memory.context.grid.block
    rings = {layer: ring.copy() for layer, ring in memory.rings.items()}
    door = ViewPass(memory.spec, memory.view.copy(), rings)
    blocks = range(first, context.sealed // block)
    hidden, _ = reread(model, door, memory.tree, context, blocks, carry=memory.carry)
    newest = memory.tree.tokens(first * block, context.history)
    return float(_losses(model, torch.cat(hidden, 1)[:, :-1], newest[1:])[-tokens:].mean())


def _feed(model: BaseModel, cache: KVCache, tokens: Sequence[int]) -> Tensor:
    """Final hidden rows (1, n, D) of `tokens`, fed in chunks; (1, 0, D) for none."""
    spec = model.spec
    parts = [torch.empty(1, 0, spec.width, device=spec.device)]
    for start in range(0, len(tokens), CHUNK):
        piece = torch.tensor([list(tokens[start : start + CHUNK])], dtype=torch.long, device=spec.device)
        parts.append(model.forward(model.embed(piece), cache))
    return torch.cat(parts[1:] or parts, 1)


def _losses(model: BaseModel, hidden: Tensor, targets: Sequence[int]) -> Tensor:
    """Loss in nats of each target, on the host: hidden (1, n, D) are the rows before them."""
    logits = model.logits(hidden)[0]
    return F.cross_entropy(logits, torch.tensor(list(targets), device=logits.device), reduction="none").cpu()
