"""View: slots follow a working context, whatever it does. The oracle holds the K/V of every token of history."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_toys import random_page, small_model

from megacontext.arena import Page
from megacontext.context import WorkingContext
from megacontext.focus.allocator import FocusAllocator
from megacontext.gist.top_token import TopTokenGist
from megacontext.span import Grid
from megacontext.tree.memory_tree import MemoryTree
from megacontext.view import View, by_worth

SPEC = small_model().spec
BLOCK, BUDGET, CHUNK = 4, 40, 5
ALLOCATOR = FocusAllocator(1, recent_tokens=10, far_blocks=3, prompt_blocks=2, gist_budget=8)


class Conversation:
    """What a cache does with a view, without a model: rows are random numbers."""

    def __init__(self, seed: int, slack: int = 12, gist_slots: tuple[int, ...] = (0, 0, 0)) -> None:
        self.rng, self.now = Random(seed), 0
        budget = BUDGET + 40 * any(gist_slots)
        grid = Grid(BLOCK, 3)
        self.context = WorkingContext(budget, grid, (0, *gist_slots))
        self.view = View(SPEC, BLOCK, budget, slack, 1, budget if any(gist_slots) else 0)
        self.tree = MemoryTree(grid, TopTokenGist(), gist_slots)
        self.truth = random_page(SPEC, 2000, seed)

    def rows(self, start: int, stop: int) -> Page:
        return Page(self.truth.keys[:, :, start:stop], self.truth.values[:, :, start:stop])

    def append(self, count: int) -> None:
        view, start = self.view, self.context.history
        if view.crowded(self.context, count):
            view.renumber(self.context, ALLOCATOR.recent_start(self.context))
        for run in view.open_rows(self.context, count):
            page = self.rows(start, start + len(run))
            view.arena.put(run, page.keys, page.values, int(view.arena.position[run.start]))
            start += len(run)
        self.tree.append([0] * count)
        self.context = self.context.grow(count)

    def seal(self) -> None:
        while self.context.tail >= BLOCK:
            self.tree.seal(self.view.arena.contents(self.view.seal(self.context.sealed // BLOCK)))
            self.context = self.context.seal(self.now)

    def refocus(self, prompt: int = 0) -> int:
        """Returns the pages moved."""
        self.now += 1
        blocks = range(self.context.sealed // BLOCK + 1)
        scores = {n: self.rng.random() for n in self.rng.sample(blocks, min(5, len(blocks)))}
        plan = ALLOCATOR.plan(self.context, scores, self.now, reserve=CHUNK, sharp=bool(prompt))
        stay = {entry.start // BLOCK for entry in plan.context.entries if entry.level == 0}
        for number in self.view.pages.keys() - stay:
            if self.tree.slots[0]:
                self.tree.fold(number, torch.rand(len(SPEC.memory_layers), SPEC.kv_heads, BLOCK))
        self.context = plan.context
        moved = self.view.follow(self.context, self.tree, ALLOCATOR.recent_start(self.context))
        if prompt:
            self.view.renumber(self.context, ALLOCATOR.recent_start(self.context), prompt=prompt)
        return moved

    def forget(self, rows: int) -> None:
        self.view.drop_rows(self.context.tail - rows, rows)
        self.tree.truncate(self.context.history - rows)
        self.context = self.context.shrink(rows)

    def step(self) -> None:
        if self.rng.random() < 0.5:
            self.view.close_ranks()
        count = self.rng.randint(1, CHUNK)
        self.append(count)
        if self.rng.random() < 0.2:
            self.forget(self.rng.randint(1, count))
        self.seal()
        self.refocus(prompt=self.rng.choice((0, 0, 0, 5)))

    # --- what must be true ---

    def slot_of(self, token: int) -> int:
        number, row = divmod(token, BLOCK)
        run = self.view.pages[number] if token < self.context.sealed else self.view.tail[number - len(self.tree_pages)]
        return run[row]

    @property
    def tree_pages(self) -> range:
        return range(self.context.sealed // BLOCK)

    def exact_tokens(self) -> list[int]:
        exact = [t for e in self.context.entries if e.level == 0 for t in range(e.start, e.end)]
        return [*exact, *range(self.context.sealed, self.context.history)]

    def check(self) -> None:
        view, arena = self.view, self.view.arena
        view.check(self.context)
        exact = self.exact_tokens()
        slots = [self.slot_of(token) for token in exact]
        positions = arena.position[slots].tolist()
        assert len(set(slots)) == len(slots)
        assert arena.visible[slots].all()
        assert len(set(positions)) == len(positions), "two tokens at one position"
        assert max(positions, default=-1) < min(view.next_position, SPEC.max_position)
        assert torch.equal(arena.raw[:, 0, :, slots], self.truth.keys[:, :, exact])
        assert torch.equal(arena.values[:, 0, :, slots], self.truth.values[:, :, exact])
        angles = SPEC.rotation.at(torch.tensor(positions, dtype=torch.long))
        expected = SPEC.rotation.rotate(self.truth.keys[:, :, exact], angles)
        torch.testing.assert_close(arena.keys[:, 0, :, slots], expected)

    def check_gists(self) -> None:
        gists = {e for e in self.context.entries if e.level and self.context.costs[e.level]}
        assert self.view.gists.keys() == gists
        for span in gists:
            slots, gist = list(self.view.gists[span]), self.tree.gist(span)
            assert torch.equal(self.view.arena.raw[:, 0, :, slots], gist.keys)
            assert torch.equal(self.view.arena.values[:, 0, :, slots], gist.values)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 12, 1000]))
def test_slots_positions_and_contents_follow_every_random_step(seed, slack):
    conversation = Conversation(seed, slack)
    for _ in range(60):
        conversation.step()
        conversation.check()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(1, 1, 1), (2, 1, 3)]))
def test_gists_stand_in_view_as_the_tree_has_them(seed, slots):
    conversation = Conversation(seed, gist_slots=slots)
    for _ in range(60):
        conversation.step()
        conversation.check()
        conversation.check_gists()


def read(seed: int = 0, steps: int = 30, slack: int = 12) -> Conversation:
    conversation = Conversation(seed, slack)
    for _ in range(steps):
        conversation.append(conversation.rng.randint(1, CHUNK))
        conversation.seal()
        conversation.refocus()
    return conversation


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 9))
def test_renumbering_makes_positions_compact_and_keeps_the_newest_last(seed, prompt):
    conversation = read(seed)
    view, context = conversation.view, conversation.context
    view.renumber(context, ALLOCATOR.recent_start(context), prompt=prompt)
    conversation.check()
    order = {int(view.arena.position[conversation.slot_of(t)]): t for t in conversation.exact_tokens()}
    assert sorted(order) == list(range(context.slots))
    assert view.next_position == context.slots
    tokens = [order[at] for at in sorted(order)]
    assert tokens[:BLOCK] == list(range(BLOCK)), "the first block comes first"
    recent = ALLOCATOR.recent_start(context)
    newest = [token for token in tokens if token >= recent]
    assert newest == list(range(recent, context.history)), "recent text stands in time order"
    last = context.history - prompt if prompt else recent
    assert tokens[-(context.history - last) :] == list(range(last, context.history)), "the prompt comes last"


def test_a_swap_moves_nothing_but_the_newcomer():
    conversation = read(seed=3, slack=1000)
    swaps = 0
    for _ in range(40):
        before = {n: view_positions(conversation, n) for n in conversation.view.pages}
        keys, vacant = conversation.view.arena.keys.clone(), bool(conversation.view.vacant)
        moved = conversation.refocus()
        pages = conversation.view.pages
        left = len(before.keys() - pages.keys())
        if not moved or moved > left + vacant:
            continue
        swaps += 1
        for number in before.keys() & pages.keys():
            assert view_positions(conversation, number) == before[number]
            frame = slice(pages[number].start, pages[number].stop)
            assert torch.equal(conversation.view.arena.keys[..., frame, :], keys[..., frame, :])
    assert swaps > 5


def view_positions(conversation: Conversation, number: int) -> list[int]:
    return conversation.view.arena.position[list(conversation.view.pages[number])].tolist()


@pytest.mark.parametrize("more", [0, 5])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_mask_lets_rows_see_what_is_visible_and_nothing_after_them(rows, more):
    conversation = read(seed=5)
    view = conversation.view
    shown = view.arena.visible.copy()
    runs = view.open_rows(conversation.context, rows)
    for run in runs:
        view.arena.show(run)
    own, reach = [slot for run in runs for slot in run], view.arena.reach
    bias = view.mask(rows, view.rows_index(runs), reach, reach + more)
    slots = reach if bias is None else reach + more
    expected = torch.full((rows, slots), float("-inf"))
    for row in range(rows):
        for slot in range(reach):
            if shown[slot] or slot in own[: row + 1]:
                expected[row, slot] = 0
    if bias is None:
        bias = torch.full((rows, reach), float("-inf")).triu(reach - rows + 1)
    assert torch.equal(bias.expand(rows, slots), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 9), st.sampled_from([1, 5]))
def test_where_ranks_are_closed_no_pass_needs_a_mask_and_positions_stay(seed, prompt, rows):
    conversation = read(seed)
    conversation.refocus(prompt)
    view, exact = conversation.view, conversation.exact_tokens()
    before = [int(view.arena.position[conversation.slot_of(token)]) for token in exact]
    view.close_ranks()
    conversation.check()
    assert [int(view.arena.position[conversation.slot_of(token)]) for token in exact] == before
    assert view.arena.reach == conversation.context.slots
    runs = view.open_rows(conversation.context, rows)
    for run in runs:
        view.arena.show(run)
    assert view.mask(rows, view.rows_index(runs), view.arena.reach, view.arena.reach) is None


def test_closed_ranks_stay_as_they_are():
    conversation = read(seed=3)
    conversation.view.close_ranks()
    keys, pages = conversation.view.arena.keys.clone(), dict(conversation.view.pages)
    conversation.view.close_ranks()
    assert conversation.view.pages == pages
    assert torch.equal(conversation.view.arena.keys, keys)


def test_a_view_without_holes_needs_no_mask():
    conversation = Conversation(0)
    view = conversation.view
    runs = view.open_rows(conversation.context, 6)
    for run in runs:
        view.arena.show(run)
    assert view.mask(6, view.rows_index(runs), view.arena.reach, view.arena.reach) is None


def test_a_copy_goes_its_own_way():
    conversation = read(seed=7)
    twin = Conversation(7)
    twin.view, twin.tree, twin.context = conversation.view.copy(), conversation.tree.copy(), conversation.context
    for _ in range(20):
        twin.step()
    conversation.check()
    twin.check()


@pytest.mark.parametrize("runs", [[(3, 4), (4, 8), (8, 9)], [(7, 8), (0, 4), (12, 13)], [(5, 8), (0, 2)], [(2, 3)]])
def test_rows_go_to_the_slots_of_their_runs_and_nowhere_else(runs):
    """Three runs can be as long as the way from the first to the last, and yet lie elsewhere."""
    runs = [range(*run) for run in runs]
    at = Conversation(0).view.rows_index(runs)
    assert torch.arange(20)[at].tolist() == [slot for run in runs for slot in run]


def test_pages_of_an_answer_stand_by_worth_but_nearly_equal_ones_by_time():
    """What was said later holds: it stands nearer to the question."""
    worth = {3: 0.2, 9: 0.95, 10: 0.3, 20: 0.88, 30: 0.5}
    assert by_worth([30, 20, 10, 9, 3], worth) == [3, 30, 9, 10, 20]
    assert by_worth([20, 9], {9: 0.95, 20: 0.7}) == [20, 9]
    assert by_worth([5, 4], {}) == [4, 5]
