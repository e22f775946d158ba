"""ContextCache: the KVCache whose contents follow a working context.

A pass fills the open tail. Between passes `maintain` seals full blocks and, when a tick is due, refocuses:
score -> plan -> page in -> read again -> report. Plans are values (context.py, focus/), contents are slots (view.py,
arena.py), passes write them (view_pass.py, reread.py), history is the tree (tree/); this file only joins them. The
batch is one conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from weakref import ref

import numpy as np
from torch import Tensor

from megacontext.arena import Page
from megacontext.config import MemoryConfig
from megacontext.context import WorkingContext
from megacontext.delta_nll import DeltaNll
from megacontext.errors import StoreError
from megacontext.focus.allocator import FocusAllocator, Plan
from megacontext.focus.attention_mass import AttentionMass
from megacontext.focus.base import Moment, Scorer, Scores
from megacontext.focus.scorers import make_scorer
from megacontext.gist.top_token import TopTokenGist
from megacontext.memory_check import check_memory
from megacontext.recompute import recompute_page
from megacontext.reread import reread
from megacontext.ring import Ring
from megacontext.span import Grid, Span
from megacontext.telemetry.events import Tick, Warning_
from megacontext.telemetry.sinks import NullSink, Sink
from megacontext.tick_report import Refocus, TickClock, report
from megacontext.tree.memory_files import MemoryFiles
from megacontext.tree.memory_tree import MemoryTree
from megacontext.tree.snapshot import State
from megacontext.view import View
from megacontext.view_pass import ViewPass
from nanochat.hook import BaseModel, CacheUsage, KVCache, KVView, Mark, ModelSpec, Stream
from nanochat.kv_cache import DenseCache, NoCache, storage_bytes


def build_cache(
    spec: ModelSpec,
    config: MemoryConfig,
    *,
    sink: Sink | None = None,
    probe: DeltaNll | None = None,
    files: MemoryFiles | None = None,
) -> KVCache:
    """The memory that `config.cache` names. Raises BudgetError or ConfigError for settings that cannot work.

    sink: receives its events. probe: measures ΔNLL; a plain cache warns that it has nothing to measure. files: where
    pages and states are kept; None: in memory, all of them.
    """
    if config.cache in ("none", "full"):
        if probe is not None and sink is not None:
            message = f"ΔNLL is not measured: memory.cache {config.cache} has no view to compare"
            sink.emit(Warning_(message=message, hint="set telemetry.delta_nll to off, or memory.cache to megacontext"))
        return NoCache(spec) if config.cache == "none" else DenseCache(spec)
    return ContextCache(spec, config.as_shown(), sink=sink, probe=probe, files=files)


class ContextCache(KVCache):
    """A budgeted view of all of history. MemoryConfig says what the settings mean.

    scorer: instead of the one that `config.scorer` names, for evaluation. sink: receives tick, expand and collapse.
    probe: measures ΔNLL at some ticks. files: where pages and states are kept; None: in memory, all of them.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: MemoryConfig,
        scorer: Scorer | None = None,
        *,
        sink: Sink | None = None,
        probe: DeltaNll | None = None,
        files: MemoryFiles | None = None,
    ) -> None:
        check_memory(spec, config)
        self.files = files
        self.spec, self.config, self.probe = spec, config, probe
        self.sink: Sink = sink or NullSink()
        self.grid = Grid(config.block)
        self.allocator = FocusAllocator.of(config)
        self._given_scorer = scorer
        self.reset()

    def reset(self) -> None:
        config = self.config
        self.length, self.carry = 0, None
        self.context = WorkingContext(config.budget, self.grid, (0, *config.gist_slots))
        self.tree = self._make_tree()
        self.tree.pages.recompute = self._recompute_page
        self.scorer = self._given_scorer.copy() if self._given_scorer else self._make_scorer()
        gist_room = config.budget if any(config.gist_slots) else 0
        self.view = View(self.spec, config.block, config.budget, config.position_slack, config.protect_first, gist_room)
        windowed = set(range(self.spec.layers)) - set(self.spec.memory_layers)
        spare = max(256, config.reread_tokens + config.block)  # a prompt's end takes so many rows back
        self.rings = {i: Ring(self.spec, self.spec.windows[i] or 0, spare) for i in sorted(windowed)}
        wants_mass = self.scorer.wants_attention or any(config.gist_slots)
        self.mass = AttentionMass(self.spec, self.view.arena.capacity) if wants_mass else None
        self._pass = ViewPass(self.spec, self.view, self.rings, self.mass)
        self._clock = TickClock()
        self.tick = self._since_tick = self._unobserved = self._last_rows = 0
        self.last_tick: Tick | None = None
        self._held: Scores | None = None  # while an answer runs: what its prompt asked for stays in view
        self._model: ref[BaseModel] | None = None  # the last one that passed, for pages that must be computed again
        if self.probe is not None:
            self.probe.reset()

    def _make_tree(self) -> MemoryTree:
        maker, slots, files = TopTokenGist(), self.config.gist_slots, self.files
        if files is None:
            return MemoryTree(self.grid, maker, slots)
        files.pages.clear()
        return MemoryTree(self.grid, maker, slots, files.pages, files.gists(self.grid, slots, maker.fingerprint))

    def _make_scorer(self) -> Scorer:
        config = self.config
        return make_scorer(
            config.scorer,
            self.spec,
            block=config.block,
            seed=config.seed,
            attention=config.attention_weight,
            files=self.files,
        )

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
            self._held = None  # more than one row is new text, not the answer
        if self.context.free < rows:
            self._refocus("budget", reserve=rows)
        self._clock.start()
        self._make_positions(rows)
        runs = self.view.open_rows(self.context, rows)
        self.tree.append(stream.tokens[0].tolist())
        self.context = self.context.grow(rows)
        self.length += rows
        self._unobserved += rows
        self._last_rows = rows
        positions = self._pass.open(runs)
        self._clock.note("assemble")
        return positions

    def _make_positions(self, rows: int) -> None:
        """Room for the positions of `rows` more rows."""
        settled = self._held is not None or not self.spec.relocatable
        if not self.view.crowded(self.context, rows, settled=settled):
            return
        if not self.spec.relocatable:
            raise ValueError(
                f"{rows} rows do not fit behind position {self.view.next_position} of {self.spec.max_position}: bring "
                f"at most `room` rows ({self.config.read_chunk}) a pass, and call `maintain` after each"
            )
        self.view.renumber(self.context, self._recent_start())

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        return self._pass.update(layer, q, k, v)

    # --- between passes ---

    def maintain(self, model: BaseModel, *, prompt: int = 0, words: tuple[int, int] | None = None) -> None:
        self._model = ref(model)
        self._observe()
        sealed = self.context.sealed
        while self.context.tail >= self.config.block:
            self._seal()
        if prompt:
            start = max(self.length - (prompt - 1), 0)
            said = (start, self.length) if words is None else (start + words[0], min(start + words[1], self.length))
            self._held = None
            self._held = self._refocus(
                "prompt", reserve=self._reserve, model=model, prompt=max(prompt - 1, 1), words=said
            )
        elif self.context.free < self._reserve:
            self._refocus("budget", reserve=self._reserve, model=model)
        elif self._held is None and self._since_tick >= self.config.tick_tokens:
            self._refocus("text", reserve=self._reserve, model=model)
        elif self._held is not None:
            self._clock.take()  # an answer's passes belong to no tick
        if not self.spec.relocatable:
            self._begin_positions_anew(model)
        if self.files is not None and (prompt or self.context.sealed > sealed) and not self.rings:  # a ring is much
            self.files.keep(self)

    @property
    def _reserve(self) -> int:
        """Slots that must be free after a plan: for a chunk while text is read, so that one plan does for two.

        `exact` always needs them: it can only recompute here.
        """
        return self.config.read_chunk if self.config.mode == "exact" or self._last_rows > 1 else 1

    def _observe(self) -> None:
        if not self._unobserved:
            return
        self._clock.note("forward")
        self.scorer.observe(self.tree.tokens(self.length - self._unobserved, self.length))
        if self.mass is not None:
            self.mass.measure(self.view.arena)
        self._since_tick += self._unobserved
        self._unobserved = 0

    def _seal(self) -> None:
        number = self.context.sealed // self.config.block
        page = self.view.arena.contents(self.view.seal(number))
        self.tree.seal(page)
        self.scorer.seal(number, page)
        self.context = self.context.seal(self.tick)

    # --- the tick ---

    def _refocus(
        self,
        reason: str,
        *,
        reserve: int,
        model: BaseModel | None = None,
        prompt: int = 0,
        words: tuple[int, int] | None = None,
    ) -> Scores:
        """The tick. prompt, words: its rows and where in history its words stand, when one has just ended."""
        before, clock = self.context, self._clock
        clock.start()
        scores = self._score(words)
        clock.note("score")
        sharp = self._held is not None or bool(prompt)
        plan = self.allocator.plan(before, scores, self.tick, reserve=reserve, sharp=sharp)
        clock.note("plan")
        moved = self._page_in(plan, prompt, scores)
        clock.note("page")
        self._prefetch(scores)
        again = self._read_again(model, plan, prompt) if model is not None else 0
        clock.note("forward")
        # At a prompt's end pages stand where the answer needs them, behind the text that would be scored.
        due = self.probe is not None and not prompt and self.probe.due(self.tick)
        delta = self.probe.measure(model, self, self.tick, self._last_rows) if self.probe and model and due else None
        pages = self.tree.pages
        traffic, disk = pages.traffic(), pages.disk or None
        done = Refocus(self.tick, reason, before, plan, scores, moved, again, traffic, clock.take(), delta, disk)
        slot_bytes = self.view.arena.frame_bytes(1)
        self.last_tick = report(done, self.sink, slot_bytes=slot_bytes, resident_bytes=self.usage.nbytes)
        self.tick += 1
        self._since_tick = 0
        return scores

    def _score(self, words: tuple[int, int] | None) -> Scores:
        if self._held is not None and words is None:
            return self._held
        view = self.view
        far_end = self._recent_start(sharp=words is not None) // self.config.block
        return self.scorer.score(
            Moment(self.context, view.arena, view.pages, view.tail, self.tree, far_end, words, self.mass, view.gists)
        )

    def _page_in(self, plan: Plan, prompt: int, scores: Scores) -> int:
        """Make the view show the plan. Returns pages copied."""
        if self.mass is not None:
            self._fold_leavers(plan, self.mass)
        self.context = plan.context
        moved = self.view.follow(plan.context, self.tree, self._recent_start()) if plan.edits else 0
        movable = self._bounded and self.spec.relocatable and self.config.mode != "exact"
        if prompt and self.config.prompt_near and movable:
            self.view.renumber(self.context, self._recent_start(sharp=True), prompt=prompt, worth=scores)
        return moved

    def _prefetch(self, scores: Scores) -> None:
        """Bring what was scored next to the blocks in view into memory, ahead of the tick that may want it."""
        count = 0 if self.files is None else self.files.config.prefetch
        if count:
            others = ((score, number) for number, score in scores.items() if number not in self.view.pages)
            self.tree.pages.prefetch(number for _, number in nlargest(count, others))

    def _fold_leavers(self, plan: Plan, mass: AttentionMass) -> None:
        """Pages about to leave: now it is known what later text looked at, so their gists can be made."""
        stay = set(plan.context.entries)
        for number, frame in self.view.pages.items():
            if self.grid.page(number) not in stay:
                if any(self.config.gist_slots):
                    self.tree.fold(number, mass.total[:, :, frame.start : frame.stop])
                mass.forget(frame)
        for span, slots in self.view.gists.items():
            if span not in stay:
                mass.forget(slots)

    @property
    def _bounded(self) -> bool:
        """Whether something of history is out of view: until then this is a plain cache."""
        return any(entry.level for entry in self.context.entries)

    def _recent_start(self, sharp: bool = False) -> int:
        return self.allocator.recent_start(self.context, sharp)

    # --- reading again ---

    def _read_again(self, model: BaseModel, plan: Plan, prompt: int) -> int:
        """What the new view changes is computed anew: all of it in `exact` mode, else a prompt's last tokens, so that
        they carry what they asked for. Returns how many blocks.
        """
        if self.config.mode == "exact":
            if plan.edits:
                return self._reread_all(model)
        elif wanted := self._bounded and min(prompt, self.config.reread_tokens):
            block = self.config.block
            last = self.context.sealed // block
            count = -(-max(wanted - self.context.tail, 0) // block)
            return self._reread(model, range(max(last - count, self._recent_start() // block), last))
        return 0

    def _begin_positions_anew(self, model: BaseModel) -> None:
        """Learned positions that have come to their end: the recent text is read again from where positions are free.
        Pages far from the tail keep those they were computed with.
        """
        if not self.view.crowded(self.context, self.config.read_chunk, settled=True):
            return
        self._clock.start()
        self.view.renumber(self.context, self._recent_start())
        block = self.config.block
        self._reread(model, range(self._recent_start() // block, self.context.sealed // block))
        self._clock.note("forward")

    def _reread_all(self, model: BaseModel) -> int:
        """Everything in view, in the order of positions, as one text."""
        self.view.renumber(self.context, self._recent_start())
        position = self.view.arena.position
        return self._reread(model, sorted(self.view.pages, key=lambda n: position[self.view.pages[n].start]))

    def _reread(self, model: BaseModel, blocks: Sequence[int]) -> int:
        """These blocks and the tail, in this order. `frozen` pages in the tree become what was computed now."""
        exact = self.config.mode == "exact"
        _, self.carry = reread(model, self._pass, self.tree, self.context, blocks, carry=self.carry, alone=exact)
        for number in () if exact else blocks:
            self.tree.replace(self.grid.page(number), self.view.arena.contents(self.view.pages[number]))
        return len(blocks)

    def _recompute_page(self, number: int) -> Page:
        model = None if self._model is None else self._model()
        if model is None:
            raise StoreError(f"page {number} is nowhere, and there is no model that could compute it")
        return recompute_page(model, self.tree, self.grid, number)

    # --- what can be asked ---

    @property
    def far_pages(self) -> list[Span]:
        """The exact pages far from the tail, oldest first."""
        return self.allocator.far_pages(self.context)

    @property
    def usage(self) -> CacheUsage:
        parts = (self.view.arena, self.tree, self.scorer, self._pass, self.mass, self.probe, *self.rings.values())
        nbytes = storage_bytes([self.carry]) + sum(part.nbytes for part in parts if part is not None)
        return CacheUsage(self.length, self.context.slots, self.context.slots, nbytes)

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
            "resident_bytes": self.usage.nbytes,
            "tick": self.tick,
        }
        return {**now, **known}

    # --- kept and brought back ---

    @property
    def failure(self) -> StoreError | None:
        """Why pages or indexes are not written any more; they go on in memory."""
        return self.tree.pages.failure or self.scorer.failure

    @property
    def fingerprint(self) -> str:
        """Of everything that a state depends on: model, number format, settings of the memory."""
        return f"{self.spec.fingerprint} {self.config.model_dump_json()}"

    @property
    def can_be_kept(self) -> bool:
        """Whether `state` is whole now: between passes."""
        return self._unobserved == 0

    def state(self) -> State:
        """Where everything stands, between passes: what `restore` needs beside tokens and pages."""
        context = self.context
        return {
            "length": self.length,
            "tick": self.tick,
            "since_tick": self._since_tick,
            "last_rows": self._last_rows,
            "entries": np.array(context.entries, np.int64).reshape(-1, 3),
            "since": np.array(context.since, np.int64),
            "tail": context.tail,
            "held": None if self._held is None else [[n, score] for n, score in self._held.items()],
            "carry": self.carry,
            "view": self.view.state(context),
            "rings": {str(layer): ring.state() for layer, ring in self.rings.items()},
            "mass": None if self.mass is None else self.mass.state(),
            "scorer": self.scorer.state(),
        }

    def restore(self, state: State, tokens: Sequence[int] | np.ndarray, model: BaseModel) -> None:
        """Into an empty memory over a store that holds the pages: stand where the state was taken, computing nothing.

        tokens: history up to then. model: computes a page that the store has lost. Raises ValueError if they do not fit
        together; then the memory must be reset.
        """
        self._model = ref(model)
        if len(tokens) != state["length"]:
            raise ValueError(f"a state after {state['length']} tokens does not fit a history of {len(tokens)}")
        entries = tuple(Span(*entry) for entry in np.asarray(state["entries"]).tolist())
        since = tuple(np.asarray(state["since"]).tolist())
        empty = self.context
        self.context = WorkingContext(empty.budget, empty.grid, empty.costs, entries, since, int(state["tail"]))
        if self.context.history != len(tokens) or self.context.slots > self.config.budget:
            raise ValueError(f"entries over {self.context.history} tokens do not tile {len(tokens)}, or take too much")
        self.tree.restore(tokens, self.context.sealed // self.config.block)
        self.view.restore(state["view"], self.context, self.tree)
        for layer, ring in self.rings.items():
            ring.restore(state["rings"][str(layer)])
        if self.mass is not None:
            self.mass.restore(state["mass"])
        self.scorer.restore(state["scorer"], self.tree)
        self.length, self.carry = len(tokens), state["carry"]
        self.tick, self._since_tick = int(state["tick"]), int(state["since_tick"])
        self._last_rows = int(state["last_rows"])
        self._held = None if state["held"] is None else {int(n): float(score) for n, score in state["held"]}

    # --- the rest of the contract ---

    def rollback(self, mark: Mark) -> None:
        rows = self.length - mark.length
        if not 0 <= rows <= self._unobserved:
            raise ValueError(
                f"cannot go from length {self.length} back to {mark.length}: only the {self._unobserved} rows "
                "since the last maintain can be forgotten"
            )
        if rows:
            self.view.drop_rows(self.context.tail - rows, rows)
            for ring in self.rings.values():
                ring.truncate(rows)
            self.tree.truncate(mark.length)
            self.context = self.context.shrink(rows)
            self.length = mark.length
            self._unobserved -= rows
        self.carry = mark.carry

    def fork(self, batch: int = 1) -> ContextCache:
        if batch != 1:
            raise ValueError(f"a ContextCache holds one conversation, not {batch}: fork it {batch} times")
        twin = ContextCache.__new__(ContextCache)
        twin.__dict__ = {
            **self.__dict__,
            "view": self.view.copy(),
            "tree": self.tree.copy(),
            "scorer": self.scorer.copy(),
            "rings": {i: ring.copy() for i, ring in self.rings.items()},
            "mass": self.mass.copy() if self.mass else None,
            "probe": None,
            "_clock": TickClock(),
            "files": None,
        }
        twin.tree.pages.recompute = twin._recompute_page
        twin._pass = ViewPass(twin.spec, twin.view, twin.rings, twin.mass)
        return twin
