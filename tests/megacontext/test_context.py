"""WorkingContext against a list of integers: for each sealed token of history, the level that shows it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from megacontext.context import Collapse, Edit, Expand, LawError, WorkingContext
from megacontext.span import Grid, Span

LEVELS = 3


class Oracle:
    """levels[t]: what shows token t; the tail is a count."""

    def __init__(self, grid: Grid, costs: tuple[int, ...]) -> None:
        self.grid, self.costs = grid, costs
        self.levels: list[int] = []
        self.tail = 0

    def entries(self) -> list[Span]:
        found, at = [], 0
        while at < len(self.levels):
            found.append(self.grid.node(self.levels[at], at))
            at = found[-1].end
        return found

    def slots(self) -> int:
        gists = sum(self.costs[e.level] for e in self.entries() if e.level)
        return gists + self.levels.count(0) + self.tail

    def can_expand(self, span: Span) -> bool:
        return span.level > 0 and span in self.entries()

    def can_collapse(self, span: Span) -> bool:
        if not (1 <= span.level < len(self.costs) and self.grid.on_grid(span) and span.end <= len(self.levels)):
            return False
        return set(self.levels[span.start : span.end]) == {span.level - 1}

    def legal(self, edit: Edit) -> bool:
        return self.can_expand(edit.span) if isinstance(edit, Expand) else self.can_collapse(edit.span)

    def apply(self, edit: Edit) -> None:
        span = edit.span
        level = span.level - 1 if isinstance(edit, Expand) else span.level
        self.levels[span.start : span.end] = [level] * (span.end - span.start)


class ContextMachine(RuleBasedStateMachine):
    @initialize(
        block=st.integers(2, 3),
        fanout=st.integers(2, 3),
        costs=st.sampled_from([(0, 0, 0, 0), (0, 1, 1, 1), (9, 2, 1, 3)]),
    )
    def begin(self, block, fanout, costs):
        grid = Grid(block, fanout)
        self.context = WorkingContext(100, grid, costs)
        self.oracle = Oracle(grid, costs)
        self.since: dict[Span, int] = {}
        self.now = 0

    def _nodes(self) -> list[Span]:
        grid, end = self.oracle.grid, len(self.oracle.levels) + 2
        nodes = {grid.node(level, at) for level in range(LEVELS + 2) for at in range(end)}
        crooked = {Span(n.start + grid.block, n.end + grid.block, n.level) for n in nodes}
        return sorted(nodes | crooked | {Span(0, grid.block, -1)})

    @rule(tokens=st.integers(0, 12))
    def grow(self, tokens):
        self.context = self.context.grow(tokens)
        self.oracle.tail += tokens

    @rule()
    def seal_all(self):
        block = self.oracle.grid.block
        while self.oracle.tail >= block:
            at = len(self.oracle.levels)
            self.context = self.context.seal(self.now)
            self.oracle.levels += [0] * block
            self.oracle.tail -= block
            self.since[Span(at, at + block, 0)] = self.now
        with pytest.raises(LawError):
            self.context.seal(self.now)

    @rule(tokens=st.integers(0, 6))
    def shrink(self, tokens):
        if tokens > self.oracle.tail:
            with pytest.raises(LawError):
                self.context.shrink(tokens)
        else:
            self.context = self.context.shrink(tokens)
            self.oracle.tail -= tokens

    @rule(data=st.data())
    def edit(self, data):
        """Mostly legal edits, so that something happens; any other must raise and leave the value as it is."""
        self.now += 1
        edits = [kind(span) for span in self._nodes() for kind in (Expand, Collapse)]
        legal = [edit for edit in edits if self.oracle.legal(edit)]
        pool = legal if legal and data.draw(st.integers(0, 3)) else edits
        edit = data.draw(st.sampled_from(pool))
        before = self.context
        if not self.oracle.legal(edit):
            with pytest.raises(LawError):
                before.apply([edit], self.now)
            return
        self.context = before.apply([edit], self.now)
        self.oracle.apply(edit)
        new = self.context.grid.children(edit.span) if isinstance(edit, Expand) else (edit.span,)
        self.since.update(dict.fromkeys(new, self.now))
        opposite = Collapse(edit.span) if isinstance(edit, Expand) else Expand(edit.span)
        back = self.context.apply([opposite], self.now)
        assert (back.entries, back.slots, back.tail) == (before.entries, before.slots, before.tail)

    @rule(data=st.data())
    def bring_a_page_into_view(self, data):
        if not self.oracle.levels:
            return
        block = self.oracle.grid.block
        page = self.context.grid.page(data.draw(st.integers(0, len(self.oracle.levels) // block - 1)))
        path = self.context.path(page)
        assert len(path) == self.oracle.levels[page.start]
        shown = self.context.apply(path, self.now)
        assert page in shown.entries
        assert shown.path(page) == []

    @invariant()
    def agrees_with_the_oracle(self):
        if not hasattr(self, "oracle"):
            return
        context, oracle = self.context, self.oracle
        assert list(context.entries) == oracle.entries()
        assert context.since == tuple(self.since[entry] for entry in context.entries)
        assert context.slots == oracle.slots()
        assert context.free == 100 - oracle.slots()
        assert (context.sealed, context.tail) == (len(oracle.levels), oracle.tail)
        assert context.history == len(oracle.levels) + oracle.tail
        entries = [entry.level for entry in oracle.entries()]
        assert context.lod_counts() == {level: entries.count(level) for level in sorted(set(entries))}
        context.check()
        if context.slots > 100:
            with pytest.raises(LawError, match="L2"):
                context.check_budget()
        else:
            context.check_budget()

    @invariant()
    def every_token_is_covered_by_the_entry_that_shows_it(self):
        if not hasattr(self, "oracle"):
            return
        for at, level in enumerate(self.oracle.levels):
            assert self.context.covering(at) == self.context.grid.node(level, at)
        for outside in (-1, len(self.oracle.levels)):
            with pytest.raises(IndexError):
                self.context.index(outside)

    @invariant()
    def what_is_foldable_agrees_with_the_oracle(self):
        if not hasattr(self, "oracle"):
            return
        for node in self._nodes():
            assert self.context.foldable(node) == self.oracle.can_collapse(node), node


TestWorkingContext = ContextMachine.TestCase
TestWorkingContext.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_several_edits_apply_in_order_and_all_or_none():
    grid = Grid(2, 2)
    context = WorkingContext(64, grid).grow(8)
    for _ in range(4):
        context = context.seal(0)
    fold = [Collapse(grid.node(1, 0)), Collapse(grid.node(1, 2)), Collapse(grid.node(2, 0))]
    assert context.apply(fold, 1).entries == (Span(0, 4, 2), Span(4, 6, 0), Span(6, 8, 0))
    with pytest.raises(LawError):
        context.apply(fold[::-1], 1)
    assert len(context.entries) == 4


@pytest.mark.parametrize(
    ("entries", "law"),
    [
        ((Span(2, 4, 0),), "L1"),
        ((Span(0, 2, 0), Span(4, 6, 0)), "L1"),
        ((Span(0, 2, 0), Span(0, 2, 0)), "L1"),
        ((Span(0, 4, 0),), "L3"),
        ((Span(0, 2, 0), Span(2, 6, 2)), "L3"),
        ((Span(0, 2, 7),), "L3"),
    ],
)
def test_entries_that_break_a_law_make_no_context(entries, law):
    with pytest.raises(LawError, match=law):
        WorkingContext(64, Grid(2, 2), entries=entries, since=(0,) * len(entries))


def test_every_entry_has_an_age_and_the_tail_is_no_debt():
    with pytest.raises(LawError, match="ages"):
        WorkingContext(64, Grid(2, 2), entries=(Span(0, 2, 0),))
    with pytest.raises(LawError, match="tail"):
        WorkingContext(64, Grid(2, 2), tail=-1)
