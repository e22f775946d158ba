"""ContextCache: the KVCache whose contents follow a working context.

A pass fills the open tail. Between passes `maintain` seals full blocks and, when a tick is due, refocuses:
score -> plan -> apply -> page in -> report. Plans are values (context.py, focus/), contents are tensors (arena.py),
history is the tree (tree/): this file only joins them, and is the only one that moves K/V.

The batch is one conversation. Ownership of slots, by part of history:
    [0, sealed)          entries: pages in `shown`, one frame of `block` slots each; gists in `gists`
    [sealed, history)    the tail: the frames in `tail`, the last one partly filled
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from megacontext.arena import Arena, Slots
from megacontext.config import MemoryConfig
from megacontext.context import WorkingContext
from megacontext.errors import BudgetError
from megacontext.focus.allocator import FocusAllocator, Plan
from megacontext.focus.base import Moment, Scorer, Scores
from megacontext.focus.scorers import make_scorer
from megacontext.ring import Ring
from megacontext.span import Grid, Span
from megacontext.tree.memory_tree import MemoryTree
from nanochat.hook import BaseModel, CacheUsage, KVCache, KVView, Mark, ModelSpec, Stream

class ContextCache(KVCache):
    """A budgeted view of all of history. See MemoryConfig for the settings."""

    def __init__(self, spec: ModelSpec, config: MemoryConfig, scorer: Scorer | None = None) -> None:
        self.spec, self.config = spec, config
        self.grid = Grid(config.block)
        self.allocator = FocusAllocator(
            protect_first=config.protect_first,
            recent_tokens=config.recent_tokens,
            far_blocks=config.far_blocks,
            prompt_blocks=config.prompt_blocks,
            fill=config.prompt_fill,
            sharpness=config.prompt_sharpness,
            expand_above=config.expand_above,
            hysteresis=config.hysteresis,
            cooldown=config.cooldown,
            max_edits=config.max_edits,
        )
        self._custom_scorer = scorer
        self._check_budget()
        self.reset()

    def _check_budget(self) -> None:
        config = self.config
        least = config.protect_first * config.block + config.recent_tokens + 2 * config.block
        if config.budget < least:
            raise BudgetError(
                f"memory.budget {config.budget} cannot hold the {config.protect_first} protected blocks, "
                f"{config.recent_tokens} recent tokens and two open blocks; set it to {least} or more, "
                "or lower memory.recent_tokens"
            )
        if config.budget > self.spec.max_position:
            raise BudgetError(
                f"memory.budget {config.budget} is more than the {self.spec.max_position} positions the model was "
                f"trained on; set it to {self.spec.max_position} or less"
            )

    def reset(self) -> None:
        config, block = self.config, self.config.block
        self.length, self.carry = 0, None
        self.context = WorkingContext(config.budget, self.grid, (0, *config.gist_slots))
        self.tree = MemoryTree(self.grid)
        self.scorer = self._custom_scorer.copy() if self._custom_scorer else self._make_scorer()
        self.arena = Arena(self.spec, (config.budget // block + 2) * block)
        self.rings = {i: Ring(self.spec, w) for i, w in enumerate(self.spec.windows) if self._has_ring(i, w)}
        self.shown: dict[int, Slots] = {}  # by block number
        self.tail: list[Slots] = []
        self.vacant: list[int] = []  # first positions of frames that a page left
        self.tick = self.next_position = self.since_tick = self._unobserved = 0
        self._memory_index = {layer: i for i, layer in enumerate(self.spec.memory_layers)}
        self._rows: slice | Tensor = slice(0, 0)
        self._rewrite: Slots | None = None
        self.answering = False  # from a prompt's end until the next text comes: what the prompt asked for stays in view

    def _make_scorer(self) -> Scorer:
        return make_scorer(self.config.scorer, self.spec, block=self.config.block, seed=self.config.seed)

    def _has_ring(self, layer: int, window: int | None) -> bool:
        return window is not None and layer not in self.spec.memory_layers

    # --- a pass ---

    def room(self, rows: int) -> int:
        return min(rows, self.config.read_chunk)

    def begin(self, stream: Stream) -> Tensor:
        if self._rewrite is not None:
            return self._enter([self._rewrite])
        rows = stream.rows
        self.answering = self.answering and rows == 1
        if stream.x.shape[0] != 1:
            raise ValueError(f"a ContextCache holds one conversation, not a batch of {stream.x.shape[0]}")
        if stream.tokens is None:
            raise ValueError("a ContextCache needs the tokens of its rows: they are the truth that pages are made from")
        if self.context.free < rows:
            self._refocus("budget", reserve=rows)
        positions = self._enter(self._new_rows(rows))
        self.tree.append(stream.tokens[0].tolist())
        self.context = self.context.grow(rows)
        self.length += rows
        self._unobserved += rows
        return positions

    def _new_rows(self, rows: int) -> list[Slots]:
        """Slots with positions for `rows` new rows at the end of the tail."""
        block, filled = self.config.block, self.context.tail
        unused = self.next_position - self.context.slots
        if unused > self.config.position_slack or self.next_position + rows > self.spec.max_position:
            self._renumber()
        while len(self.tail) * block < filled + rows:
            self.tail.append(self.arena.allocate(block))
        runs = self._tail_runs(filled, filled + rows)
        for run in runs:
            self.arena.position[run.start : run.stop] = range(self.next_position, self.next_position + len(run))
            self.next_position += len(run)
        self.spec.rotation.reserve(self.next_position)
        return runs

    def _enter(self, runs: list[Slots]) -> Tensor:
        """Open the pass on these slots: where its rows go, what they see, how they turn. Returns positions (1, T)."""
        for run in runs:
            self.arena.show(run)
        self._rows, self._reach = self._index(runs), self.arena.reach
        rows = sum(map(len, runs))
        self._bias = self._mask(rows)
        index = [slot for run in runs for slot in run]
        positions = torch.from_numpy(self.arena.position[index]).to(self.spec.device)[None]
        self._angles = self.spec.rotation.at(positions)
        return positions

    def _tail_runs(self, start: int, stop: int) -> list[Slots]:
        """The slots of the tail's rows [start, stop), as runs."""
        block, runs = self.config.block, []
        for at, frame in enumerate(self.tail):
            run = frame[max(start - at * block, 0) : max(stop - at * block, 0)]
            if len(run):
                runs.append(run)
        return runs

    def _index(self, runs: Sequence[Slots]) -> slice | Tensor:
        """A slice where the runs are one, else a tensor of slots."""
        if runs[-1].stop - runs[0].start == sum(map(len, runs)):
            return slice(runs[0].start, runs[-1].stop)
        return torch.tensor([slot for run in runs for slot in run], device=self.spec.device)

    def _mask(self, rows: int) -> Tensor | None:
        """None if the new rows are the last of a view without holes, else (rows, reach)."""
        reach, at = self._reach, self._rows
        last = isinstance(at, slice) and at.stop == reach
        if last and self.arena.visible[:reach].all():
            return None
        if rows == 1:
            return self.arena.hidden[:reach]
        bias = self.arena.hidden[:reach].repeat(rows, 1)
        bias[:, at] = torch.full((rows, rows), float("-inf"), dtype=bias.dtype, device=bias.device).triu_(1)
        return bias

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        ring = self.rings.get(layer)
        if ring is not None:
            return ring.update(q, k, v)
        at, arena, rotate = self._memory_index[layer], self.arena, self.spec.rotation.rotate
        keys, values = arena.keys[at], arena.values[at]
        arena.raw[at][:, :, self._rows] = k
        keys[:, :, self._rows] = rotate(k, self._angles)
        values[:, :, self._rows] = v
        reach = self._reach
        return KVView(rotate(q, self._angles), keys[:, :, :reach], values[:, :, :reach], self._bias)

    # --- between passes ---

    def maintain(self, model: BaseModel, *, prompt: int = 0) -> None:
        if self._unobserved:
            self.scorer.observe(self.tree.tokens(self.length - self._unobserved, self.length), None)
            self.since_tick += self._unobserved
            self._unobserved = 0
        while self.context.tail >= self.config.block:
            self._seal()
        if prompt:
            self.answering = True
            self._refocus("prompt", prompt=max(prompt - 1, 1))
            self._reread(model, prompt - 1)
        elif self.since_tick >= self.config.tick_tokens and not self.answering:
            self._refocus("text")

    def _seal(self) -> None:
        frame = self.tail.pop(0)
        number = self.context.sealed // self.config.block
        page = self.arena.page(frame)
        self.tree.seal(page)
        self.scorer.seal(number, page)
        self.shown[number] = frame
        self.context = self.context.seal(self.tick)

    def _refocus(self, reason: str, *, reserve: int = 1, prompt: int = 0) -> None:
        """The tick: score, plan, apply, page in, report."""
        started = time.perf_counter()
        scores = self._score(prompt)
        scored = time.perf_counter()
        plan = self.allocator.plan(self.context, scores, self.tick, reserve=reserve, sharp=bool(prompt))
        planned = time.perf_counter()
        self._page_in(plan)
        if prompt and self.config.prompt_near:
            self._renumber(prompt=prompt)
        paged = time.perf_counter()
        self.tick += 1
        self.since_tick = 0
        self.times = (scored - started, planned - scored, paged - planned)

    def _score(self, prompt: int) -> Scores:
        far_end = self.allocator.recent_start(self.context) // self.config.block
        return self.scorer.score(Moment(self.context, self.arena, self.shown, self.tail, far_end, prompt))

    def _page_in(self, plan: Plan) -> None:
        """Make the arena show what the plan says: leavers free their frames, newcomers take them."""
        self.context = plan.context
        if not plan.edits:
            return
        block = self.config.block
        now = {e.start // block for e in plan.context.entries if e.level == 0}
        for number in [n for n in self.shown if n not in now]:
            frame = self.shown.pop(number)
            self.vacant.append(int(self.arena.position[frame.start]))
            self.arena.release(frame)
        for number in sorted(now - self.shown.keys()):
            frame = self.arena.allocate(block)
            self.shown[number] = frame
            if not self.vacant:
                self._renumber(but=number)
            self.arena.put(frame, self.tree.page(self.grid.page(number)), self.vacant.pop())

    # --- positions ---

    def _renumber(self, but: int | None = None, prompt: int = 0) -> None:
        """Compact positions: far pages in their order, then a frame for page `but`, then the rest in time order.

        prompt: rows of a prompt that has just ended; the far pages then stand right before it.
        """
        block, position = self.config.block, self.arena.position
        recent = self.allocator.recent_start(self.context) // block
        near = (self.context.history - prompt) // block if prompt else recent
        others = sorted(n for n in self.shown if n != but)
        first = [n for n in others if n < self.config.protect_first]
        far = [n for n in others if self.config.protect_first <= n < recent]
        far.sort(key=lambda n: position[self.shown[n].start])
        before = [n for n in others if recent <= n < near]
        after = [n for n in others if n >= max(near, recent)]
        far_frames = [self.shown[n] for n in far]
        head = [self.shown[n] for n in (*first, *before)]
        self.vacant = []
        if but is not None:
            far_frames.append(self.shown[but])
            self.vacant = [sum(map(len, (*head, *far_frames[:-1])))]
        order = [*head, *far_frames, *(self.shown[n] for n in after), *self._tail_runs(0, self.context.tail)]
        self.next_position = self.arena.renumber(order)

    # --- computing again ---

    def _reread(self, model: BaseModel, prompt: int) -> None:
        """Compute the newest tokens again, whole blocks of them, now that the view fits the prompt."""
        wanted = min(prompt, self.config.reread_tokens) - self.context.tail
        blocks = -(-max(wanted, 0) // self.config.block)
        last = self.context.sealed // self.config.block
        newest = range(max(last - blocks, self.config.protect_first), last)
        self._recompute(model, newest)
        for number in newest:
            self.tree.replace(self.grid.page(number), self.arena.page(self.shown[number]))

    def _recompute(self, model: BaseModel, blocks: Sequence[int]) -> None:
        """Run the model over these blocks and the tail once more, in this order, each seeing what stands before it."""
        block, start = self.config.block, self.context.sealed
        pieces = [(self.shown[n], self.tree.tokens(n * block, (n + 1) * block)) for n in blocks]
        for at, run in enumerate(self._tail_runs(0, self.context.tail)):
            pieces.append((run, self.tree.tokens(start + at * block, start + at * block + len(run))))
        if not pieces:
            return
        first = blocks[0] * block if blocks else start
        rows = sum(len(run) for run, _ in pieces)
        for ring in self.rings.values():
            ring.truncate(rows)
        for run, _ in pieces:
            self.arena.hide(run)
        if self.carry is not None and first:
            self.carry = self._embed(model, self.tree.tokens(first - 1, first)).x
        for run, tokens in pieces:
            self._rewrite = run
            model.forward(self._embed(model, tokens), self)
        self._rewrite = None

    def _embed(self, model: BaseModel, tokens: list[int]) -> Stream:
        return model.embed(torch.tensor([tokens], device=self.spec.device))

    # --- the rest of the contract ---

    @property
    def usage(self) -> CacheUsage:
        rings = sum(ring.nbytes for ring in self.rings.values())
        nbytes = self.arena.nbytes + self.tree.nbytes + self.scorer.nbytes + rings
        return CacheUsage(self.length, self.context.slots, self.context.slots, nbytes)

    def rollback(self, mark: Mark) -> None:
        rows = self.length - mark.length
        if rows > self._unobserved:
            raise ValueError(f"cannot forget {rows} rows: a maintain came after {rows - self._unobserved} of them")
        if not rows:
            return
        block, filled = self.config.block, self.context.tail - rows
        for run in self._tail_runs(filled, self.context.tail):
            self.arena.hide(run)
        while len(self.tail) > -(-filled // block):
            self.arena.release(self.tail.pop())
        for ring in self.rings.values():
            ring.truncate(rows)
        self.tree.truncate(mark.length)
        self.context = self.context.shrink(rows)
        self.length, self.carry = mark.length, mark.carry
        self.next_position -= rows
        self._unobserved -= rows

    def fork(self, batch: int = 1) -> ContextCache:
        if batch != 1:
            raise ValueError(f"a ContextCache holds one conversation, not {batch}: fork it {batch} times")
        twin = ContextCache.__new__(ContextCache)
        twin.__dict__ = {
            **self.__dict__,
            "arena": self.arena.copy(self.spec),
            "tree": self.tree.copy(),
            "scorer": self.scorer.copy(),
            "rings": {i: ring.copy(self.spec) for i, ring in self.rings.items()},
            "shown": dict(self.shown),
            "tail": list(self.tail),
            "vacant": list(self.vacant),
        }
        return twin
