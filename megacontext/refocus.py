"""The tick of a memory: score -> plan -> page in -> read again -> report.

Plans are values (context.py, focus/), contents are slots (view.py, arena.py); here the view is made to show the plan,
and what the new view changes is computed anew. When a tick is due is the cache's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest

from megacontext.cache_parts import CacheParts
from megacontext.delta_nll import Measured
from megacontext.focus.allocator import Plan
from megacontext.focus.attention_mass import AttentionMass
from megacontext.focus.base import Moment, Scores
from megacontext.reread import reread
from megacontext.tick_report import Refocus, report
from nanochat.hook import BaseModel


def refocus(
    memory: CacheParts,
    reason: str,
    *,
    reserve: int,
    model: BaseModel | None = None,
    prompt: int = 0,
    words: tuple[int, int] | None = None,
) -> Scores:
    """One tick. Returns what was scored.

    reserve: slots that must be free afterwards. model: reads again what must be; None: nothing is. prompt, words: its
    rows and where in history its words stand, when one has just ended. Raises BudgetError for a plan that cannot work.
    """
    before, clock = memory.context, memory.clock
    clock.start()
    scores = _score(memory, words)
    clock.note("score")
    sharp = memory.held is not None or bool(prompt)
    plan = memory.allocator.plan(before, scores, memory.tick, reserve=reserve, sharp=sharp)
    clock.note("plan")
    moved = _page_in(memory, plan, prompt, scores)
    clock.note("page")
    _prefetch(memory, scores)
    again = _read_again(memory, model, plan, prompt) if model is not None else 0
    clock.note("forward")
    delta = _measure(memory, prompt)
    traffic, disk = memory.tree.traffic(), memory.tree.pages.disk or None
    memory.losses.add(traffic.lost, memory.sink)
    done = Refocus(memory.tick, reason, before, plan, scores, moved, again, traffic, clock.take(), delta, disk)
    slot_bytes = memory.view.arena.frame_bytes(1)
    memory.last_tick = report(done, memory.sink, memory.edits, slot_bytes=slot_bytes, resident_bytes=memory.nbytes)
    memory.edits.keep_only(memory.context.entries)
    memory.tick += 1
    memory.since_tick = 0
    return scores


def _score(memory: CacheParts, words: tuple[int, int] | None) -> Scores:
    if memory.held is not None and words is None:
        return memory.held
    view, context = memory.view, memory.context
    far_end = memory.recent_start(sharp=words is not None) // memory.config.block
    moment = Moment(context, view.arena, view.pages, view.tail, memory.tree, far_end, words, memory.mass, view.gists)
    scores = memory.scorer.score(moment)
    return memory.scorer.follow(moment, scores) if words else scores


def _measure(memory: CacheParts, prompt: int) -> Measured | None:
    """What the view costs, if that is due. At a prompt's end pages stand where the answer needs them, behind the text
    that would be scored.
    """
    probe, model = memory.probe, None if memory.model is None else memory.model()
    if probe is None or model is None or prompt or not probe.due(memory.tick):
        return None
    return probe.measure(model, memory, memory.tick, memory.last_rows)


# --- page in ---


def _page_in(memory: CacheParts, plan: Plan, prompt: int, scores: Scores) -> int:
    """Make the view show the plan. Returns pages copied."""
    if memory.mass is not None:
        _fold_leavers(memory, plan, memory.mass)
    memory.context = plan.context
    moved = memory.view.follow(plan.context, memory.tree, memory.recent_start()) if plan.edits else 0
    movable = memory.bounded and memory.spec.relocatable and memory.config.mode != "exact"
    if prompt and memory.config.prompt_near and movable:
        memory.view.renumber(memory.context, memory.recent_start(sharp=True), prompt=prompt, worth=scores)
    return moved


def _fold_leavers(memory: CacheParts, plan: Plan, mass: AttentionMass) -> None:
    """Pages about to leave: now it is known what later text looked at, so their gists can be made."""
    stay = set(plan.context.entries)
    for number, frame in memory.view.pages.items():
        if memory.grid.page(number) not in stay:
            if any(memory.config.gist_slots):
                memory.tree.fold(number, mass.total[:, :, frame.start : frame.stop])
            mass.forget(frame)
    for span, slots in memory.view.gists.items():
        if span not in stay:
            mass.forget(slots)


def _prefetch(memory: CacheParts, scores: Scores) -> None:
    """Bring what was scored next to the blocks in view into memory, ahead of the tick that may want it."""
    count = 0 if memory.files is None else memory.files.config.prefetch
    if count:
        others = ((score, number) for number, score in scores.items() if number not in memory.view.pages)
        memory.tree.pages.prefetch(number for _, number in nlargest(count, others))


# --- reading again ---


def begin_positions_anew(memory: CacheParts, model: BaseModel) -> None:
    """Learned positions that have come to their end: the recent text is read again from where positions are free.
    Pages far from the tail keep those they were computed with.
    """
    if not memory.view.crowded(memory.context, memory.config.read_chunk, settled=True):
        return
    memory.clock.start()
    memory.view.renumber(memory.context, memory.recent_start())
    block = memory.config.block
    _reread(memory, model, range(memory.recent_start() // block, memory.context.sealed // block))
    memory.clock.note("forward")


def _read_again(memory: CacheParts, model: BaseModel, plan: Plan, prompt: int) -> int:
    """What the new view changes is computed anew: all of it in `exact` mode, else a prompt's last tokens, so that
    they carry what they asked for. Returns how many blocks.
    """
    if memory.config.mode == "exact":
        return _reread_all(memory, model) if plan.edits else 0
    wanted = min(prompt, memory.config.reread_tokens) if memory.bounded else 0
    if not wanted:
        return 0
    block = memory.config.block
    last = memory.context.sealed // block
    count = -(-max(wanted - memory.context.tail, 0) // block)
    return _reread(memory, model, range(max(last - count, memory.recent_start() // block), last))


def _reread_all(memory: CacheParts, model: BaseModel) -> int:
    """Everything in view, in the order of positions, as one text."""
    memory.view.renumber(memory.context, memory.recent_start())
    pages, position = memory.view.pages, memory.view.arena.position
    return _reread(memory, model, sorted(pages, key=lambda number: position[pages[number].start]))


def _reread(memory: CacheParts, model: BaseModel, blocks: Sequence[int]) -> int:
    """These blocks and the tail, in this order. `frozen` pages in the tree become what was computed now."""
    exact, view = memory.config.mode == "exact", memory.view
    _, memory.carry = reread(
        model, memory.view_pass, memory.tree, memory.context, blocks, carry=memory.carry, alone=exact
    )
    for number in () if exact else blocks:
        memory.tree.replace(memory.grid.page(number), view.arena.contents(view.pages[number]))
    return len(blocks)
