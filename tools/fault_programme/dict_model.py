"""A memory on disk against one that is a dictionary: whatever is done to both, they show the same.

Both are fed the same tokens and told by the same script which blocks deserve detail. The one has its pages in a file
and room for a few in memory, is closed and brought back now and then; the pages of the other stand in a dictionary,
and it never goes away. After each step their views agree bit for bit, and the budget holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from megacontext.arena import Page
from megacontext.cache import ContextCache
from megacontext.config import MemoryConfig, PagesConfig
from megacontext.focus.base import Moment, Scorer, Scores
from megacontext.testing.toy import ids, run, toy_model
from megacontext.tree.memory_files import MemoryFiles
from megacontext.tree.memory_tree import MemoryTree
from megacontext.tree.token_log import TokenLog

if TYPE_CHECKING:
    from nanochat.hook import BaseModel

VOCAB, BLOCK = 64, 4
CONFIG = MemoryConfig(
    budget=48,
    block=BLOCK,
    recent_tokens=12,
    read_chunk=6,
    far_blocks=4,
    prompt_blocks=2,
    reread_tokens=8,
    position_slack=16,
    prompt_recent_tokens=0,
)
PAGES_IN_MEMORY = 3


def small_model() -> BaseModel:
    torch.set_num_threads(1)
    return toy_model("G4", n_layer=1, n_head=2, n_kv_head=1, n_embd=32, vocab_size=VOCAB, window_pattern="L")


class Wishes(Scorer):
    """What it is told. Kept with the memory."""

    def __init__(self, wanted: Scores | None = None) -> None:
        self.wanted = dict(wanted or {})

    def score(self, moment: Moment) -> Scores:
        blocks = moment.context.sealed // moment.context.grid.block
        return {block: score for block, score in self.wanted.items() if block < blocks}

    def state(self) -> dict[str, Any]:
        return {"wanted": [[block, score] for block, score in self.wanted.items()]}

    def restore(self, state: dict[str, Any], tree: MemoryTree) -> None:
        self.wanted = {int(block): float(score) for block, score in state["wanted"]}

    def copy(self) -> Wishes:
        return Wishes(self.wanted)


class Both:
    """The memory on disk, and the dictionary. tokens: all that was fed."""

    def __init__(self, model: BaseModel, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.tokens: list[int] = []
        self.log = TokenLog.open(folder / "tokens.log", vocab=VOCAB, fingerprint="f")
        self.oracle = ContextCache(model.spec, CONFIG, Wishes())
        self.memory = self._opened()

    def _opened(self) -> ContextCache:
        size = Page(*torch.zeros(2, len(self.model.spec.memory_layers), 1, BLOCK, self.model.spec.head_dim)).nbytes
        config = PagesConfig(ram_bytes=PAGES_IN_MEMORY * size)
        files = MemoryFiles(self.folder, self.model.spec, BLOCK, config, log=self.log)
        return ContextCache(self.model.spec, CONFIG, Wishes(), files=files)

    # --- what can be done ---

    def feed(self, tokens: list[int]) -> None:
        """As much as a pass takes at a time."""
        while tokens:
            rows = self.oracle.room(len(tokens))
            self.log.append(tokens[:rows])
            self.tokens += tokens[:rows]
            self._same_logits(self.memory, self.oracle, tokens[:rows])
            tokens = tokens[rows:]

    def _same_logits(self, one: ContextCache, other: ContextCache, tokens: list[int]) -> None:
        batch = ids(self.model, tokens)
        assert torch.equal(run(self.model, one, batch), run(self.model, other, batch)), "other logits"
        one.maintain(self.model)
        other.maintain(self.model)

    def end_prompt(self, rows: int) -> None:
        """The last `rows` tokens were a prompt, and its last one is yet to come."""
        for cache in (self.memory, self.oracle):
            cache.maintain(self.model, prompt=rows + 1)

    def wish(self, block: int, score: float) -> None:
        """From now on this block deserves detail, or can spare it."""
        for cache in (self.memory, self.oracle):
            assert isinstance(cache.scorer, Wishes)
            cache.scorer.wanted = {block: score}

    def fork(self, tokens: list[int]) -> None:
        """Go on with copies for a while."""
        twins = self.memory.fork(), self.oracle.fork()
        self._same_logits(*twins, tokens)

    def reopen(self) -> None:
        """The process ends, and another one takes the memory up."""
        self.close()
        self.log = TokenLog.open(self.folder / "tokens.log", vocab=VOCAB, fingerprint="f")
        self.memory = self._opened()
        assert self.memory.files is not None
        why = self.memory.files.bring_back(self.memory, self.log.array(0, len(self.log)), self.model)
        assert not why, why
        assert not self.memory.files.made_anew

    def close(self) -> None:
        assert self.memory.files is not None
        self.memory.files.keep(self.memory)
        self.memory.files.close()
        self.log.close()

    # --- what must hold ---

    def check(self) -> None:
        """Equal views, and the laws."""
        memory, oracle = self.memory, self.oracle
        assert memory.context == oracle.context, f"{memory.context} instead of {oracle.context}"
        assert memory.tree.tokens(0, len(memory.tree)) == self.tokens, "other tokens"
        memory.context.check()
        memory.context.check_budget()
        memory.view.check(memory.context)
        seen = oracle.view.arena.visible
        assert np.array_equal(memory.view.arena.visible, seen), "other slots"
        assert np.array_equal(memory.view.arena.position[seen], oracle.view.arena.position[seen]), "other positions"
        for name in ("raw", "keys", "values"):
            one, other = (getattr(cache.view.arena, name)[..., seen, :] for cache in (memory, oracle))
            assert torch.equal(one, other), f"other {name}"

    def check_pages(self) -> None:
        """Every page of history, wherever it is."""
        for number in range(self.oracle.context.sealed // BLOCK):
            one, other = (cache.tree.page(cache.grid.page(number)) for cache in (self.memory, self.oracle))
            assert torch.equal(one.keys, other.keys), f"page {number}"
            assert torch.equal(one.values, other.values), f"page {number}"
