"""ContextCache: the KVCache whose contents follow a working context.

A pass fills the open tail. Between passes `maintain` seals full blocks and, when a tick is due, refocuses:
score -> plan -> page in -> report. Plans are values (context.py, focus/), contents are slots (view.py, arena.py),
history is the tree (tree/); this file only joins them. The batch is one conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import torch
from torch import Tensor

from megacontext.arena import Slots
from megacontext.config import MemoryConfig
from megacontext.context import WorkingContext
from megacontext.errors import BudgetError, ConfigError
from megacontext.focus.allocator import FocusAllocator, Plan
from megacontext.focus.attention_mass import AttentionMass
from megacontext.focus.base import Moment, Scorer, Scores
from megacontext.focus.scorers import make_scorer
from megacontext.gist.top_token import TopTokenGist
from megacontext.ring import Ring
from megacontext.span import Grid, Span
from megacontext.telemetry.events import Tick
from megacontext.telemetry.sinks import NullSink, Sink
from megacontext.tick_report import TickTimes, report
from megacontext.tree.memory_tree import MemoryTree
from megacontext.view import View
from nanochat.hook import BaseModel, CacheUsage, KVCache, KVView, Mark, ModelSpec, Stream
from nanochat.kv_cache import DenseCache, NoCache, storage_bytes


def build_cache(spec: ModelSpec, config: MemoryConfig, *, sink: Sink | None = None) -> KVCache:
    """The memory that `config.cache` names. Raises BudgetError or ConfigError for settings that cannot work."""
    if config.cache == "none":
        return NoCache(spec)
    if config.cache == "full":
        return DenseCache(spec)
    if config.cache == "recency":
        config = config.recency_only()
    return ContextCache(spec, config, sink=sink)


class ContextCache(KVCache):
    """A budgeted view of all of history. MemoryConfig says what the settings mean.

    scorer: instead of the one that `config.scorer` names, for evaluation. sink: receives tick, expand and collapse.
    """

    def __init__(
        self, spec: ModelSpec, config: MemoryConfig, scorer: Scorer | None = None, *, sink: Sink | None = None
    ) -> None:
        self.spec, self.config = spec, config
        self.sink: Sink = sink or NullSink()
        self.grid = Grid(config.block)
        self.allocator = _allocator(config)
        self._given_scorer = scorer
        self._layer_index = {layer: i for i, layer in enumerate(spec.memory_layers)}
        _check(spec, config)
        self.reset()

    def reset(self) -> None:
        config = self.config
        self.length, self.carry = 0, None
        self.context = WorkingContext(config.budget, self.grid, (0, *config.gist_slots))
        self.tree = MemoryTree(self.grid, TopTokenGist(), config.gist_slots)
        self.scorer = self._given_scorer.copy() if self._given_scorer else self._make_scorer()
        gist_room = config.budget if any(config.gist_slots) else 0
        self.view = View(self.spec, config.block, config.budget, config.position_slack, config.protect_first, gist_room)
        windowed = [i for i in range(self.spec.layers) if i not in self._layer_index]
        spare = max(256, config.reread_tokens + config.block)  # a prompt's end takes so many rows back
        self.rings = {i: Ring(self.spec, self.spec.windows[i] or 0, spare) for i in windowed}
        wants_mass = self.scorer.wants_attention or any(config.gist_slots)
        self.mass = AttentionMass(self.spec, self.view.arena.capacity) if wants_mass else None
        self.tick = self._since_tick = self._unobserved = 0
        self.last_tick: Tick | None = None
        self._rewrite: Slots | None = None  # while a pass computes again what stands in these slots
        self._held: Scores | None = None  # while an answer runs: what its prompt asked for stays in view
        self._open_pass([])

    def _make_scorer(self) -> Scorer:
        config = self.config
        return make_scorer(
            config.scorer, self.spec, block=config.block, seed=config.seed, attention=config.attention_weight
        )

    # --- a pass ---

    def room(self, rows: int) -> int:
        return min(rows, self.config.read_chunk)

    def begin(self, stream: Stream) -> Tensor:
        if self._rewrite is not None:
            return self._open_pass([self._rewrite])
        if stream.x.shape[0] != 1:
            raise ValueError(f"a ContextCache holds one conversation, not a batch of {stream.x.shape[0]}")
        if stream.tokens is None:
            raise ValueError("a ContextCache needs the tokens of its rows: they are the truth that pages are made from")
        rows = stream.rows
        if rows > 1:
            self._held = None  # more than one row is new text, not the answer
        if self.context.free < rows:
            self._refocus("budget", reserve=rows)
        if self.view.crowded(self.context, rows, settled=self._held is not None):
            self.view.renumber(self.context, self._recent_start())
        positions = self._open_pass(self.view.open_rows(self.context, rows))
        self.tree.append(stream.tokens[0].tolist())
        self.context = self.context.grow(rows)
        self.length += rows
        self._unobserved += rows
        return positions

    def _open_pass(self, runs: Sequence[Slots]) -> Tensor:
        """A pass whose rows go to these slots: what they see, how they turn. Returns positions (1, T)."""
        arena = self.view.arena
        for run in runs:
            arena.show(run)
        self._rows: slice | Tensor = self.view.rows_index(runs) if runs else slice(0, 0)
        self._reach = arena.reach
        self._bias = self.view.mask(sum(map(len, runs)), self._rows, self._reach) if runs else None
        where = arena.position[[slot for run in runs for slot in run]]
        positions = torch.from_numpy(where).to(self.spec.device)[None]
        self._angles = self.spec.rotation.at(positions)
        return positions

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        ring = self.rings.get(layer)
        if ring is not None:
            return ring.update(q, k, v)
        at, arena, rotate = self._layer_index[layer], self.view.arena, self.spec.rotation.rotate
        keys, values = arena.keys[at], arena.values[at]
        arena.raw[at][:, :, self._rows] = k.to(keys.dtype)
        keys[:, :, self._rows] = rotate(k, self._angles).to(keys.dtype)
        values[:, :, self._rows] = v.to(values.dtype)
        q = rotate(q, self._angles)
        if self.mass is not None:
            self.mass.note(at, q)
        return KVView(q, keys[:, :, : self._reach], values[:, :, : self._reach], self._bias)

    # --- between passes ---

    def maintain(self, model: BaseModel, *, prompt: int = 0, words: tuple[int, int] | None = None) -> None:
        self._observe()
        while self.context.tail >= self.config.block:
            self._seal()
        if prompt:
            start = max(self.length - (prompt - 1), 0)
            said = (start, self.length) if words is None else (start + words[0], min(start + words[1], self.length))
            self._focus_on_prompt(model, max(prompt - 1, 1), said)
        elif self.context.free < self._reserve:
            self._refocus("budget", reserve=self._reserve, model=model)
        elif self._held is None and self._since_tick >= self.config.tick_tokens:
            self._refocus("text", reserve=self._reserve, model=model)

    @property
    def _reserve(self) -> int:
        """Slots that must be free after a plan. `exact` also needs room for a chunk: it can only recompute here."""
        return self.config.read_chunk if self.config.mode == "exact" else 1

    def _observe(self) -> None:
        if not self._unobserved:
            return
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
        times, before = TickTimes(perf_counter()), self.context
        scores = self._score(words)
        times.score = perf_counter()
        sharp = self._held is not None or bool(prompt)
        plan = self.allocator.plan(before, scores, self.tick, reserve=reserve, sharp=sharp)
        times.plan = perf_counter()
        moved = self._page_in(plan, prompt, scores)
        if self.config.mode == "exact" and plan.edits and model is not None:
            self._recompute_all(model)
        times.page = perf_counter()
        self.last_tick = report(before, plan, scores, self.tick, reason, moved, times, self)
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
        if prompt and self.config.prompt_near and self._bounded and self.config.mode != "exact":
            self.view.renumber(self.context, self._recent_start(sharp=True), prompt=prompt, worth=scores)
        return moved

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

    # --- computing again ---

    def _focus_on_prompt(self, model: BaseModel, rows: int, words: tuple[int, int]) -> None:
        """Few and sharp, before the answer's first token; then the prompt is read again under the view it asked for."""
        self._held = None
        self._held = self._refocus("prompt", reserve=self._reserve, model=model, prompt=rows, words=words)
        wanted = min(rows, self.config.reread_tokens)
        if not wanted or not self._bounded or self.config.mode == "exact":
            return
        last = self.context.sealed // self.config.block
        count = -(-max(wanted - self.context.tail, 0) // self.config.block)
        newest = range(max(last - count, self._recent_start() // self.config.block), last)
        self._recompute(model, newest)
        for number in newest:
            self.tree.replace(self.grid.page(number), self.view.arena.contents(self.view.pages[number]))

    def _recompute_all(self, model: BaseModel) -> None:
        """`exact`: everything in view, in the order of positions, as one text."""
        self.view.renumber(self.context, self._recent_start())
        position = self.view.arena.position
        self._recompute(model, sorted(self.view.pages, key=lambda n: position[self.view.pages[n].start]))

    def _recompute(self, model: BaseModel, blocks: Sequence[int]) -> None:
        """Run the model over these blocks and the tail once more, in this order, each seeing what stands before it."""
        block, start = self.config.block, self.context.sealed
        pieces = [(self.view.pages[n], n * block) for n in blocks]
        pieces += [(run, start + i * block) for i, run in enumerate(self.view.tail_runs(0, self.context.tail))]
        if not pieces:
            return
        for ring in self.rings.values():
            ring.truncate(sum(len(run) for run, _ in pieces))
        for run, _ in pieces:
            self.view.arena.hide(run)
        first = pieces[0][1]
        if self.carry is not None:
            alone = first == 0 or self.config.mode == "exact"  # then nothing in view comes before these rows
            self.carry = None if alone else self._embed(model, first - 1, first).x
        try:
            for run, begin in pieces:
                self._rewrite = run
                model.forward(self._embed(model, begin, begin + len(run)), self)
        finally:  # an interrupt must not leave the next pass writing here, or rows hidden
            self._rewrite = None
            for run, _ in pieces:
                self.view.arena.show(run)

    def _embed(self, model: BaseModel, start: int, end: int) -> Stream:
        return model.embed(torch.tensor([self.tree.tokens(start, end)], device=self.spec.device))

    # --- what can be asked ---

    @property
    def far_pages(self) -> list[Span]:
        """The exact pages far from the tail, oldest first."""
        return self.allocator.far_pages(self.context)

    @property
    def usage(self) -> CacheUsage:
        mass = self.mass.nbytes if self.mass else 0
        rings = sum(ring.nbytes for ring in self.rings.values())
        bias = None if self._bias is None or self._bias.dim() == 1 else self._bias  # one row's is the arena's
        opened = storage_bytes((bias, *self._angles, self.carry))
        nbytes = self.view.arena.nbytes + self.tree.nbytes + self.scorer.nbytes + rings + mass + opened
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
        }
        return twin


def _allocator(config: MemoryConfig) -> FocusAllocator:
    return FocusAllocator(
        protect_first=config.protect_first,
        recent_tokens=config.recent_tokens,
        prompt_recent_tokens=config.prompt_recent_tokens,
        far_blocks=config.far_blocks,
        prompt_blocks=config.prompt_blocks,
        expand_above=config.expand_above,
        hysteresis=config.hysteresis,
        cooldown=config.cooldown,
        max_edits=config.max_edits,
        gist_budget=config.gist_budget,
        fill=config.prompt_fill,
        sharpness=config.prompt_sharpness,
    )


def _check(spec: ModelSpec, config: MemoryConfig) -> None:
    """Settings that cannot work, before anything is read."""
    _check_gists(config)
    if config.budget < config.least_budget:
        raise BudgetError(
            f"memory.budget {config.budget} cannot hold {config.protect_first} protected blocks, "
            f"{config.recent_tokens} recent tokens, the open block, {config.read_chunk} new tokens and their gists; "
            f"set it to {config.least_budget} or more, or lower memory.recent_tokens"
        )
    if config.budget > spec.max_position:
        raise BudgetError(
            f"memory.budget {config.budget} is more than the {spec.max_position} positions the model was trained on; "
            f"set it to {spec.max_position} or less"
        )
    if not spec.relocatable:
        raise ConfigError(f"memory.cache megacontext cannot move the keys of a {spec.family} model yet; use full")
    if config.mode == "exact" and (any(config.gist_slots) or len(spec.memory_layers) < spec.layers):
        raise ConfigError("memory.mode exact recomputes tokens: it needs gist_slots of 0 and no layer with a window")


def _check_gists(config: MemoryConfig) -> None:
    """A gist is chosen from the tokens, or the children's slots, that it stands for."""
    most = config.block
    for slots in config.gist_slots:
        if not 0 <= slots <= most:
            raise ConfigError(f"memory.gist_slots {list(config.gist_slots)}: {slots} is not between 0 and {most}")
        most = Grid().fanout * slots
    if not config.gist_slots:
        raise ConfigError("memory.gist_slots is empty; give one number per level, such as [0, 0, 0, 0]")
