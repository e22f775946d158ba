"""Where a memory stands, as plain values and arrays, and back again, bit for bit.

The bytes are snapshot's, the files memory_files'. Tokens and pages are not in a state: it speaks of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import ref

import numpy as np

from megacontext.cache_parts import CacheParts
from megacontext.context import WorkingContext
from megacontext.span import Span
from megacontext.tree.snapshot import State
from nanochat.hook import BaseModel


def fingerprint_of(memory: CacheParts) -> str:
    """Of everything that a state depends on: model, number format, settings of the memory."""
    return f"{memory.spec.fingerprint} {memory.config.model_dump_json()}"


def state_of(memory: CacheParts) -> State:
    """Where everything stands, between passes: what `restore` needs beside tokens and pages."""
    context = memory.context
    return {
        "length": memory.length,
        "tick": memory.tick,
        "since_tick": memory.since_tick,
        "last_rows": memory.last_rows,
        "entries": np.array(context.entries, np.int64).reshape(-1, 3),
        "since": np.array(context.since, np.int64),
        "tail": context.tail,
        "held": None if memory.held is None else [[n, score] for n, score in memory.held.items()],
        "carry": memory.carry,
        "view": memory.view.state(context),
        "rings": {str(layer): ring.state() for layer, ring in memory.rings.items()},
        "mass": None if memory.mass is None else memory.mass.state(),
        "scorer": memory.scorer.state(),
        "edits": memory.edits.state(),
    }


def restore(memory: CacheParts, state: State, tokens: Sequence[int] | np.ndarray, model: BaseModel) -> None:
    """Into an empty memory over a store that holds the pages: stand where the state was taken, computing nothing.

    tokens: history up to then. model: computes a page that the store has lost. Raises ValueError if they do not fit
    together; then the memory must be reset.
    """
    memory.model = ref(model)
    if len(tokens) != state["length"]:
        raise ValueError(f"a state after {state['length']} tokens does not fit a history of {len(tokens)}")
    memory.context = _context_of(memory, state, len(tokens))
    memory.tree.restore(tokens, memory.context.sealed // memory.config.block)
    memory.view.restore(state["view"], memory.context, memory.tree)
    for layer, ring in memory.rings.items():
        ring.restore(state["rings"][str(layer)])
    if memory.mass is not None:
        memory.mass.restore(state["mass"])
    memory.scorer.restore(state["scorer"], memory.tree)
    memory.length, memory.carry = len(tokens), state["carry"]
    memory.tick, memory.since_tick = int(state["tick"]), int(state["since_tick"])
    memory.last_rows = int(state["last_rows"])
    memory.edits.restore(state["edits"])
    memory.held = None if state["held"] is None else {int(n): float(score) for n, score in state["held"]}


def _context_of(memory: CacheParts, state: State, tokens: int) -> WorkingContext:
    entries = tuple(Span(*entry) for entry in np.asarray(state["entries"]).tolist())
    since = tuple(np.asarray(state["since"]).tolist())
    empty = memory.context
    context = WorkingContext(empty.budget, empty.grid, empty.costs, entries, since, int(state["tail"]))
    if context.history != tokens or context.slots > memory.config.budget:
        raise ValueError(f"entries over {context.history} tokens do not tile {tokens}, or take too much")
    return context
