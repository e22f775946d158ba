"""ContextCache: the KVCache whose contents follow a working context.

A pass fills the open tail. Between passes `maintain` seals full blocks and, when a tick is due, lets refocus.py do one.
History is the tree (tree/), what it is made of stands in cache_parts.py, where it stands can be kept (cache_state.py);
this file says what happens when. The batch is one conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import ref

import numpy as np
from torch import Tensor

from megacontext.cache_parts import CacheParts
from megacontext.cache_state import fingerprint_of, restore, state_of
from megacontext.config import MemoryConfig
from megacontext.delta_nll import DeltaNll
from megacontext.errors import StoreError
from megacontext.models.text import TextModel
from megacontext.refocus import begin_positions_anew, refocus
from megacontext.span import Span
from megacontext.telemetry.events import Warning_
from megacontext.telemetry.sinks import Sink
from megacontext.tree.memory_files import MemoryFiles
from megacontext.tree.snapshot import State
from nanochat.hook import BaseModel, CacheUsage, KVCache, KVView, Mark, ModelSpec, Stream
from nanochat.kv_cache import DenseCache, NoCache


def build_cache(
    spec: ModelSpec,
    config: MemoryConfig,
    *,
    sink: Sink | None = None,
    probe: DeltaNll | None = None,
    files: MemoryFiles | None = None,
    text: TextModel | None = None,
) -> KVCache:
    """The memory that `config.cache` names. Raises BudgetError or ConfigError for settings that cannot work.

    sink: receives its events. probe: measures ΔNLL; a plain cache warns that it has nothing to measure. files: where
    pages and states are kept; None: in memory, all of them. text: says which ids are the same word, for looking up.
    """
    if config.cache in ("none", "full"):
        if probe is not None and sink is not None:
            message = f"ΔNLL is not measured: memory.cache {config.cache} has no view to compare"
            sink.emit(Warning_(message=message, hint="set telemetry.delta_nll to off, or memory.cache to megacontext"))
        return NoCache(spec) if config.cache == "none" else DenseCache(spec)
    return ContextCache(spec, config.as_shown(), sink=sink, probe=probe, files=files, text=text)


class ContextCache(CacheParts, KVCache):
    """A budgeted view of all of history. MemoryConfig says what the settings mean.

    scorer: instead of the one that `config.scorer` names, for evaluation. sink: receives tick, expand and collapse.
    probe: measures ΔNLL at some ticks. files: where pages and states are kept; None: in memory, all of them.
    text: says which ids are the same word, for looking up; None: each is its own.
    """

    # --- a pass ---

    def room(self, rows: int) -> int:
        return min(rows, self.config.read_chunk)

    def begin(self, stream: Stream) -> Tensor:
        if stream.x.shape[0] != 1:
            raise ValueError(f"a ContextCache holds one conversation, not a batch of {stream.x.shape[0]}")
        if stream.tokens is None:
            raise ValueError("a ContextCache needs the tokens of its rows: they are the truth that pages are made from")
        rows = stream.rows
        if rows > 1:
            self.held = None  # more than one row is new text, not the answer
        tokens = stream.tokens[0].tolist()
        self._focus_ahead(tokens)
        self.clock.start()
        self._make_positions(rows)
        if not self.marked and self.mass is None:  # attention that was measured belongs to slots
            self.view.close_ranks()
        runs = self.view.open_rows(self.context, rows)
        self.tree.append(tokens)
        self.context = self.context.grow(rows)
        self.length += rows
        self.unobserved += rows
        self.last_rows = rows
        positions = self._pass.open(runs)
        self.clock.note("assemble")
        return positions

    def _focus_ahead(self, tokens: Sequence[int]) -> None:
        """A tick before the pass, if one is due or must be: its rows see what their own tokens ask for."""
        rows, ahead = len(tokens), self._plans_ahead and not self.marked
        full, due = self.context.free < rows, ahead and self.since_tick + rows >= self.config.tick_tokens
        if not (full or due):
            return
        if ahead:
            self.scorer.expect(tokens)
        refocus(self, "budget" if full else "text", reserve=rows)
        if ahead:
            self.since_tick = -rows  # the plan knew these rows: they are no reason for the next one

    @property
    def _plans_ahead(self) -> bool:
        """Whether ticks come before passes now. In `exact` mode a tick reads everything again: it has to come after."""
        return self.config.plan_ahead and self.held is None and self.config.mode != "exact"

    def _make_positions(self, rows: int) -> None:
        """Room for the positions of `rows` more rows."""
        settled = self.held is not None or not self.spec.relocatable
        if not self.view.crowded(self.context, rows, settled=settled):
            return
        if not self.spec.relocatable:
            raise ValueError(
                f"{rows} rows do not fit behind position {self.view.next_position} of {self.spec.max_position}: bring "
                f"at most `room` rows ({self.config.read_chunk}) a pass, and call `maintain` after each"
            )
        self.view.renumber(self.context, self.recent_start())

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        return self._pass.update(layer, q, k, v)

    # --- between passes ---

    def maintain(self, model: BaseModel, *, prompt: int = 0, words: tuple[int, int] | None = None) -> None:
        self.model, self.marked = ref(model), False
        self._observe()
        sealed = self.context.sealed
        while self.context.tail >= self.config.block:
            self._seal()
        if prompt:
            self._focus_on(model, prompt, words)
        elif not self._plans_ahead:
            self._focus_behind(model)
        if not self.spec.relocatable:
            begin_positions_anew(self, model)
        if self.files is not None and (prompt or self.context.sealed > sealed) and not self.rings:  # a ring is much
            self.files.keep(self)

    def _focus_behind(self, model: BaseModel) -> None:
        """A tick after the pass, if one is due or must be."""
        if self.context.free < self._reserve:
            refocus(self, "budget", reserve=self._reserve, model=model)
        elif self.held is None and self.since_tick >= self.config.tick_tokens:
            refocus(self, "text", reserve=self._reserve, model=model)
        elif self.held is not None:
            self.clock.take()  # an answer's passes belong to no tick

    def _focus_on(self, model: BaseModel, prompt: int, words: tuple[int, int] | None) -> None:
        """What a prompt that has ended asked for stays in view while it is answered."""
        start = max(self.length - (prompt - 1), 0)
        said = (start, self.length) if words is None else (start + words[0], min(start + words[1], self.length))
        self.held = None
        rows = max(prompt - 1, 1)
        self.held = refocus(self, "prompt", reserve=self._reserve, model=model, prompt=rows, words=said)

    @property
    def _reserve(self) -> int:
        """Slots that must be free after a plan: for a chunk while text is read, so that one plan does for two.

        `exact` always needs them: it can only recompute here.
        """
        return self.config.read_chunk if self.config.mode == "exact" or self.last_rows > 1 else 1

    def _observe(self) -> None:
        if not self.unobserved:
            return
        self.clock.note("forward")
        self.scorer.observe(self.tree.tokens(self.length - self.unobserved, self.length))
        if self.mass is not None:
            self.mass.measure(self.view.arena)
        self.since_tick += self.unobserved
        self.unobserved = 0

    def _seal(self) -> None:
        number = self.context.sealed // self.config.block
        page = self.view.arena.contents(self.view.seal(number))
        self.tree.seal(page)
        self.scorer.seal(number, page)
        self.context = self.context.seal(self.tick)

    # --- what can be asked ---

    @property
    def far_pages(self) -> list[Span]:
        """The exact pages far from the tail, oldest first."""
        return self.allocator.far_pages(self.context)

    @property
    def usage(self) -> CacheUsage:
        return CacheUsage(self.length, self.context.slots, self.context.slots, self.nbytes)

    @property
    def selection_flops(self) -> int:
        """Multiply-adds x 2 that its scorer has spent since the last reset; measured attention mass is not in."""
        return self.scorer.flops

    def stats(self) -> dict:
        """The last tick's figures, under the names of telemetry/metrics.py."""
        tick = self.last_tick
        names = ("num_expand", "num_collapse", "swap_rate", "residency", "latency_ms")
        known = {name: getattr(tick, name) for name in names if tick is not None and getattr(tick, name) is not None}
        now = {
            "history_tokens": self.context.history,
            "working_budget": self.context.budget,
            "active_slots": self.context.slots,
            "utilization": round(self.context.slots / self.context.budget, 4),
            "lod_counts": self.context.lod_counts(),
            "resident_bytes": self.nbytes,
            "tick": self.tick,
        }
        return {**now, **known}

    # --- kept and brought back ---

    @property
    def failure(self) -> StoreError | None:
        """Why pages, gists or indexes are not written any more; they go on in memory."""
        return self.tree.failure or self.scorer.failure

    @property
    def fingerprint(self) -> str:
        """Of everything that a state depends on: model, number format, settings of the memory."""
        return fingerprint_of(self)

    @property
    def can_be_kept(self) -> bool:
        """Whether `state` is whole now: between passes."""
        return self.unobserved == 0

    def state(self) -> State:
        """Where everything stands, between passes: what `restore` needs beside tokens and pages."""
        return state_of(self)

    def restore(self, state: State, tokens: Sequence[int] | np.ndarray, model: BaseModel) -> None:
        """Into an empty memory; raises ValueError for a state that does not fit (cache_state.restore)."""
        restore(self, state, tokens, model)

    # --- the rest of the contract ---

    def mark(self) -> Mark:
        self.marked = True
        return super().mark()

    def rollback(self, mark: Mark) -> None:
        rows = mark.rows_back(self.length, self.unobserved)
        if rows:
            self.view.drop_rows(self.context.tail - rows, rows)
            for ring in self.rings.values():
                ring.truncate(rows)
            self.tree.truncate(mark.length)
            self.context = self.context.shrink(rows)
            self.length = mark.length
            self.unobserved -= rows
        self.carry = mark.carry

    def fork(self, batch: int = 1) -> ContextCache:
        if batch != 1:
            raise ValueError(f"a ContextCache holds one conversation, not {batch}: fork it {batch} times")
        twin = ContextCache.__new__(ContextCache)
        self.copy_to(twin)
        return twin
