"""Text in view, run through the model once more where it stands: its rows see what is in view *now*.

A prompt is read again under the view that it asked for; `exact` mode reads everything again; a family with learned
positions reads its recent text again when positions begin anew; ΔNLL telemetry reads a copy, to score it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megacontext.arena import Slots
from megacontext.context import WorkingContext
from megacontext.tree.memory_tree import MemoryTree
from megacontext.view_pass import ViewPass
from nanochat.hook import BaseModel, KVView, Stream
from nanochat.kv_cache import NoCache


def reread(
    model: BaseModel,
    view_pass: ViewPass,
    tree: MemoryTree,
    context: WorkingContext,
    blocks: Sequence[int],
    *,
    carry: Tensor | None,
    alone: bool = False,
) -> tuple[list[Tensor], Tensor | None]:
    """Read these blocks and the tail again, in this order, each seeing what stands before it.

    carry: the model state that travels with the newest row. alone: nothing in view comes before these rows in the
    order of positions. Returns the final hidden rows (1, n, D) of each piece, and the carry after the last.
    An interrupt leaves the view whole, with the pieces not yet read as they were.
    """
    pieces = _pieces(view_pass, context, blocks)
    if not pieces:
        return [], carry
    for ring in view_pass.rings.values():
        ring.truncate(sum(len(run) for run, _ in pieces))
    arena = view_pass.view.arena
    for run, _ in pieces:
        arena.hide(run)
    first = pieces[0][1]
    door = _Rewrite(view_pass)
    if carry is not None and not alone and first:
        door.carry = _embed(model, tree, first - 1, first).x
    try:
        hidden = []
        for run, start in pieces:
            door.run = run
            hidden.append(model.forward(_embed(model, tree, start, start + len(run)), door))
    finally:  # an interrupt must not leave rows hidden
        for run, _ in pieces:
            arena.show(run)
    return hidden, door.carry


def _pieces(view_pass: ViewPass, context: WorkingContext, blocks: Sequence[int]) -> list[tuple[Slots, int]]:
    """(slots, first token) of the blocks, then of the tail."""
    view, start, width = view_pass.view, context.sealed, context.grid.block
    pieces = [(view.pages[number], number * width) for number in blocks]
    return pieces + [(run, start + i * width) for i, run in enumerate(view.tail_runs(0, context.tail))]


def _embed(model: BaseModel, tree: MemoryTree, start: int, end: int) -> Stream:
    return model.embed(torch.tensor([tree.tokens(start, end)], device=model.spec.device))


class _Rewrite(NoCache):
    """The door for rows that have their slots already: `run` says which."""

    def __init__(self, view_pass: ViewPass) -> None:
        super().__init__(view_pass.spec)
        self._pass = view_pass
        self.run: Slots = range(0)

    def begin(self, stream: Stream) -> Tensor:
        return self._pass.open([self.run])

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        return self._pass.update(layer, q, k, v)
