"""A conversation of random rows, for scorers to look at."""

from __future__ import annotations

import torch

from megacontext.arena import Arena, Page
from megacontext.context import WorkingContext
from megacontext.focus.attention_mass import AttentionMass
from megacontext.focus.base import Moment, Scorer
from megacontext.gist.top_token import TopTokenGist
from megacontext.span import Grid
from megacontext.testing.toy import toy_model, toy_tokens
from megacontext.tree.memory_tree import MemoryTree

BLOCK = 4
MODEL = toy_model("G0", n_layer=4, n_head=4, n_kv_head=2, n_embd=32, vocab_size=64, sequence_len=512)
SPEC = MODEL.spec


class Scene:
    """A history of pages, all in view, and the moment in which a scorer is asked."""

    def __init__(self, scorer: Scorer, blocks: int, seed: int = 0, tail: int = 3) -> None:
        rng = torch.Generator().manual_seed(seed)
        shape = (len(SPEC.memory_layers), SPEC.kv_heads, blocks * BLOCK + tail, SPEC.head_dim)
        self.keys, self.values = torch.randn(2, *shape, generator=rng)
        self.tokens = toy_tokens(blocks * BLOCK + tail, vocab=64, seed=seed)
        self.scorer, self.tail = scorer, tail

    def moment(self, words: tuple[int, int] | None = None, far_end: int | None = None) -> Moment:
        """The scorer has seen all of it by then."""
        grid, history = Grid(BLOCK), len(self.tokens)
        blocks = history // BLOCK
        arena, tree = Arena(SPEC, history + BLOCK), MemoryTree(grid, TopTokenGist())
        context = WorkingContext(history, grid).grow(history)
        tree.append(self.tokens)
        shown = {}
        for number in range(blocks):
            shown[number] = arena.allocate(BLOCK)
            at = slice(number * BLOCK, (number + 1) * BLOCK)
            page = Page(self.keys[:, :, at].clone(), self.values[:, :, at].clone())
            arena.put(shown[number], page.keys, page.values, number * BLOCK)
            tree.seal(page)
            context = context.seal(0)
            self.scorer.observe(self.tokens[at])
            self.scorer.seal(number, page)
        frame = arena.allocate(BLOCK)
        rest = slice(blocks * BLOCK, history)
        arena.put(frame[: self.tail], self.keys[:, :, rest], self.values[:, :, rest], blocks * BLOCK)
        self.scorer.observe(self.tokens[rest])
        mass = AttentionMass(SPEC, arena.capacity)
        return Moment(context, arena, shown, [frame], tree, blocks if far_end is None else far_end, words, mass)
