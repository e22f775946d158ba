"""What a ContextCache is made of: its parts, built from the settings, and where it stands.

Whoever works on a memory between passes (refocus.py, cache_state.py) is given one of these. Knows how parts are built,
forked and counted; nothing of passes, ticks or files.
"""

from __future__ import annotations

from weakref import ref

from torch import Tensor

from megacontext.arena import Page
from megacontext.config import MemoryConfig
from megacontext.context import WorkingContext
from megacontext.delta_nll import DeltaNll
from megacontext.edit_ledger import EditLedger
from megacontext.errors import StoreError
from megacontext.focus.allocator import FocusAllocator
from megacontext.focus.attention_mass import AttentionMass
from megacontext.focus.base import Scorer, Scores
from megacontext.focus.scorers import make_scorer
from megacontext.gist.top_token import TopTokenGist
from megacontext.memory_check import check_memory
from megacontext.models.text import TextModel
from megacontext.recompute import measure_attention, recompute_page
from megacontext.ring import Ring
from megacontext.span import Grid
from megacontext.telemetry.events import Tick
from megacontext.telemetry.sinks import NullSink, Sink
from megacontext.tick_report import Losses, TickClock
from megacontext.tree.memory_files import MemoryFiles
from megacontext.tree.memory_tree import MemoryTree
from megacontext.view import View
from megacontext.view_pass import ViewPass
from nanochat.hook import BaseModel, ModelSpec
from nanochat.kv_cache import storage_bytes


class CacheParts:
    """spec, config, sink, probe, files, text: as given. grid, allocator: what the settings come to.

    Where it stands: `length` tokens seen, of which the scorer has not observed the last `unobserved`; `carry` (the
    model's state that travels with the keys); `context` (the plan) and `view` (its contents), `tree` (history),
    `rings` by layer, `mass` or None, `scorer`. tick: the next one's number; since_tick: tokens since the last one
    that it did not know of. last_rows: of the newest pass. marked: whether the next rows may be taken back. held: while
    an answer runs, what its prompt asked for stays in view. model: the last one that passed, for what must be computed
    again. losses: what the disk lost, so far. edits: the last edit of each entry in view.
    """

    carry: Tensor | None
    make_view = View  # another kind of view, for evaluation

    def __init__(
        self,
        spec: ModelSpec,
        config: MemoryConfig,
        scorer: Scorer | None = None,
        *,
        sink: Sink | None = None,
        probe: DeltaNll | None = None,
        files: MemoryFiles | None = None,
        text: TextModel | None = None,
    ) -> None:
        check_memory(spec, config)
        self.files, self.text = files, text
        self.spec, self.config, self.probe = spec, config, probe
        self.sink: Sink = NullSink() if sink is None else sink
        self.grid = Grid(config.block)
        self.allocator = FocusAllocator.of(config)
        self._given_scorer = scorer
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        config = self.config
        self.length, self.carry = 0, None
        self.context = WorkingContext(config.budget, self.grid, (0, *config.gist_slots))
        self.tree = self._make_tree()
        self._make_again()
        self.scorer = self._given_scorer.copy() if self._given_scorer else self._make_scorer()
        gist_room = config.budget if any(config.gist_slots) else 0
        self.view = self.make_view(
            self.spec, config.block, config.budget, config.position_slack, config.protect_first, gist_room
        )
        windowed = set(range(self.spec.layers)) - set(self.spec.memory_layers)
        spare = max(256, config.reread_tokens + config.block)  # a prompt's end takes so many rows back
        self.rings = {i: Ring(self.spec, self.spec.windows[i] or 0, spare) for i in sorted(windowed)}
        wants_mass = self.scorer.wants_attention or any(config.gist_slots)
        self.mass = AttentionMass(self.spec, self.view.arena.capacity) if wants_mass else None
        self._pass = ViewPass(self.spec, self.view, self.rings, self.mass)
        self.clock, self.losses, self.edits = TickClock(), Losses(), EditLedger()
        self.edits.begin(0)
        self.tick = self.since_tick = self.unobserved = self.last_rows = 0
        self.last_tick: Tick | None = None
        self.held: Scores | None = None
        self.marked = False
        self.model: ref[BaseModel] | None = None
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
            text=self.text,
            follows=config.prompt_follows,
            nearness=config.nearness,
        )

    def _make_again(self) -> None:
        """What is nowhere is made again by the model that passed last."""
        self.tree.pages.recompute = self._recompute_page
        self.tree.measure = self._measure_attention

    def _recompute_page(self, number: int) -> Page:
        return recompute_page(self._reader(number), self.tree, self.grid, number)

    def _measure_attention(self, number: int) -> Tensor:
        return measure_attention(self._reader(number), self.tree, self.grid, number)

    def _reader(self, number: int) -> BaseModel:
        model = None if self.model is None else self.model()
        if model is None:
            raise StoreError(f"page {number} is nowhere, and there is no model that could compute it")
        return model

    @property
    def view_pass(self) -> ViewPass:
        """The door that passes of the model go through."""
        return self._pass

    @property
    def bounded(self) -> bool:
        """Whether something of history is out of view: until then this is a plain cache."""
        return any(entry.level for entry in self.context.entries)

    def recent_start(self, sharp: bool = False) -> int:
        """The first token of the recent text, which is never folded. sharp: as at a prompt's end."""
        return self.allocator.recent_start(self.context, sharp)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, of all parts."""
        parts = (self.view.arena, self.tree, self.scorer, self._pass, self.mass, self.probe, *self.rings.values())
        return storage_bytes([self.carry]) + sum(part.nbytes for part in parts if part is not None)

    def copy_to(self, twin: CacheParts) -> None:
        """Let `twin`, in which nothing is set yet, stand where this one stands, independent. It writes to no files."""
        twin.__dict__ = {
            **self.__dict__,
            "view": self.view.copy(),
            "tree": self.tree.copy(),
            "scorer": self.scorer.copy(),
            "rings": {i: ring.copy() for i, ring in self.rings.items()},
            "mass": self.mass.copy() if self.mass else None,
            "probe": None,
            "clock": TickClock(),
            "losses": Losses(),
            "edits": self.edits.copy(),
            "files": None,
        }
        twin._make_again()
        twin._pass = ViewPass(twin.spec, twin.view, twin.rings, twin.mass)
