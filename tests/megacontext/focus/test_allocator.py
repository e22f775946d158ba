"""FocusAllocator.plan: laws over random histories, and its policy on small examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.config import MemoryConfig
from megacontext.context import Collapse, Expand, WorkingContext
from megacontext.errors import BudgetError
from megacontext.focus.allocator import FocusAllocator, Plan
from megacontext.span import Grid, Span

GRID = Grid(block=4, fanout=3)
FREE, COSTLY = (0, 0, 0, 0), (0, 1, 1, 1)


class Step(NamedTuple):
    before: WorkingContext
    scores: dict[int, float]
    now: int
    reserve: int
    sharp: bool
    plan: Plan


def least(allocator: FocusAllocator) -> int:
    """Slots that hold the protected ends of any history, its open block and a chunk of 4 (gists cost nothing)."""
    return (allocator.protect_first + 1) * GRID.block + allocator.recent_tokens + 4


def steps(allocator: FocusAllocator, seed: int, spare: int, costs=FREE, ticks: int = 60) -> Iterator[Step]:
    """A conversation as a cache would drive it: text and prompts, random scores, a plan after every pass."""
    rng = Random(seed)
    gists = 2 * (GRID.fanout - 1) * sum(costs) + 12 * costs[-1]
    context = WorkingContext(least(allocator) + gists + spare, GRID, costs)
    for now in range(ticks):
        context = context.grow(rng.randint(1, 4))
        while context.tail >= GRID.block:
            context = context.seal(now)
        blocks = rng.sample(range(context.sealed // GRID.block + 1), min(6, context.sealed // GRID.block + 1))
        scores = {block: rng.uniform(-0.5, 1) for block in blocks}
        sharp, reserve = rng.random() < 0.2, rng.choice((1, 4))
        plan = allocator.plan(context, scores, now, reserve=reserve, sharp=sharp)
        yield Step(context, scores, now, reserve, sharp, plan)
        context = plan.context


allocators = st.builds(
    FocusAllocator,
    protect_first=st.integers(0, 2),
    recent_tokens=st.integers(0, 17),
    prompt_recent_tokens=st.integers(0, 26),
    far_blocks=st.integers(0, 5),
    prompt_blocks=st.integers(0, 3),
    broad_blocks=st.sampled_from([0, 5]),
    expand_above=st.sampled_from([0.0, 0.4]),
    hysteresis=st.sampled_from([0.0, 0.2]),
    cooldown=st.integers(0, 5),
    max_edits=st.integers(1, 4),
    gist_budget=st.integers(0, 8),
    fill=st.booleans(),
    sharpness=st.sampled_from([0.0, 0.5, 0.9]),
)
random_histories = given(allocators, st.integers(0, 2**32), st.integers(0, 30), st.sampled_from([FREE, COSTLY]))
quick = settings(max_examples=60, deadline=None)


def pages(context: WorkingContext) -> set[Span]:
    return {entry for entry in context.entries if entry.level == 0}


def newcomers(step: Step) -> set[Span]:
    return pages(step.plan.context) - pages(step.before)


@quick
@random_histories
def test_a_plan_is_a_pure_function_and_its_edits_give_its_context(allocator, seed, spare, costs):
    for step in steps(allocator, seed, spare, costs):
        scores, before = dict(step.scores), step.before
        again = allocator.plan(before, step.scores, step.now, reserve=step.reserve, sharp=step.sharp)
        assert (again, step.scores) == (step.plan, scores)
        assert before.apply(step.plan.edits, step.now) == step.plan.context


@quick
@random_histories
def test_the_budget_holds_with_the_reserve_and_the_laws_with_it(allocator, seed, spare, costs):
    for step in steps(allocator, seed, spare, costs):
        step.plan.context.check()
        assert step.plan.context.free >= step.reserve
        assert step.plan.context.history == step.before.history


@quick
@random_histories
def test_the_protected_ends_stay_exact(allocator, seed, spare, costs):
    for step in steps(allocator, seed, spare, costs):
        history = step.before.history
        for entry in step.plan.context.entries:
            if entry.start < allocator.protect_first * GRID.block or entry.end > history - allocator.recent_tokens:
                assert entry.level == 0, f"{entry} of {history}"


@quick
@random_histories
def test_newcomers_are_few_scored_and_under_their_caps(allocator, seed, spare, costs):
    for step in steps(allocator, seed, spare, costs):
        sharp = step.sharp and step.before.history + step.reserve > step.before.budget
        new = {page for page in newcomers(step) if page.end <= allocator.recent_start(step.before, sharp)}
        above = 0 if sharp and allocator.broad_blocks else allocator.expand_above
        assert all(step.scores.get(page.start // GRID.block, 0) > above for page in new)
        few, many = allocator.prompt_blocks, allocator.broad_blocks
        most = max(few, many) if sharp else min(allocator.far_blocks, allocator.max_edits)
        assert len(new) <= most


@quick
@random_histories
def test_a_prompts_end_shows_few_and_sharp(allocator, seed, spare, costs):
    for step in steps(replace(allocator, fill=False, broad_blocks=0), seed, spare, costs):
        if not step.sharp or step.before.history + step.reserve <= step.before.budget:
            continue
        far = {page.start // GRID.block for page in allocator.far_pages(step.plan.context, True)}
        assert len(far) <= allocator.prompt_blocks
        known = {p.start // GRID.block: p for p in (GRID.page(n) for n in step.scores) if p.end <= step.before.sealed}
        low, high = allocator.first_end(step.before), allocator.recent_start(step.before, True)
        rank = {n: step.scores[n] for n, p in known.items() if low <= p.start < high}
        rank = {n: score for n, score in rank.items() if score > allocator.expand_above}
        assert far <= rank.keys()
        if far:
            worst = min(rank[n] for n in far)
            assert worst >= allocator.sharpness * max(*rank.values(), *(step.scores[n] for n in known))
            assert sum(score > worst for score in rank.values()) < len(far)


@quick
@random_histories
def test_complete_groups_of_free_gists_are_folded(allocator, seed, spare, costs):
    for step in steps(allocator, seed, spare, FREE):
        context = step.plan.context
        for entry in context.entries:
            parent = GRID.parent(entry)
            if entry.level and parent.end <= allocator.recent_start(context):
                assert not context.foldable(parent), f"{parent} in {context.entries}"


@quick
@random_histories
def test_gists_keep_their_budget_while_groups_can_be_folded(allocator, seed, spare, costs):
    for step in steps(allocator, seed, spare, COSTLY):
        context = step.plan.context
        if sum(COSTLY[e.level] for e in context.entries if e.level) <= allocator.gist_budget:
            continue
        gists = [e for e in context.entries if e.level and GRID.parent(e).end <= allocator.recent_start(context)]
        assert not any(context.foldable(GRID.parent(gist)) for gist in gists)


@quick
@random_histories
def test_nothing_flips_back_in_its_cooldown_unless_a_forced_one_says_so(allocator, seed, spare, costs):
    """L6. A prompt's end may expand what has just collapsed; nothing may collapse in silence."""
    expanded: dict[Span, int] = {}
    collapsed: dict[Span, int] = {}
    for step in steps(allocator, seed, spare, costs):
        came, went = newcomers(step), pages(step.before) - pages(step.plan.context)
        flips = {page for page in went if step.now - expanded.get(page, -99) < allocator.cooldown}
        assert flips <= set(step.plan.forced)
        assert set(step.plan.forced) <= went
        if not step.sharp:
            assert all(step.now - collapsed.get(page, -99) >= allocator.cooldown for page in came)
        expanded.update(dict.fromkeys(came, step.now))
        collapsed.update(dict.fromkeys(went, step.now))


@quick
@random_histories
def test_only_the_budget_forces_no_better_score_does(allocator, seed, spare, costs):
    for step in steps(allocator, seed, spare, FREE):
        if step.sharp or not step.plan.forced:
            continue
        assert not newcomers(step)
        for page in allocator.far_pages(step.plan.context):
            assert step.now - step.before.since[step.before.index(page.start)] < allocator.cooldown


@quick
@random_histories
def test_all_of_a_history_that_fits_stays_in_view(allocator, seed, spare, costs):
    """L9: with a budget larger than history nothing changes, not even when a prompt ends."""
    for step in steps(allocator, seed, 200, FREE, ticks=40):
        if step.before.history + step.reserve <= step.before.budget:
            assert step.plan.edits == ()


@quick
@given(allocators, st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([FREE, COSTLY]))
def test_the_number_that_a_budget_error_names_works(allocator, seed, short, costs):
    for step in steps(allocator, seed, 8, costs, ticks=30):
        tight = replace(step.before, budget=step.before.budget - short)
        args = {"scores": step.scores, "now": step.now, "reserve": step.reserve, "sharp": step.sharp}
        try:
            allocator.plan(tight, **args)
        except BudgetError as error:
            named = int(re.search(r"memory.budget to (\d+)", str(error))[1])
            assert named > tight.budget
            allocator.plan(replace(tight, budget=named), **args)


@quick
@random_histories
def test_the_least_context_fits_in_what_is_required(allocator, seed, spare, costs):
    for step in steps(allocator, seed, spare, FREE, ticks=30):
        need = allocator.required(step.before)
        plan = allocator.plan(replace(step.before, budget=need), {}, step.now, sharp=True)
        assert plan.context.slots <= need


# --- the policy, on one small history ---


def history(blocks: int, budget: int, costs=FREE) -> WorkingContext:
    context = WorkingContext(budget, GRID, costs).grow(blocks * GRID.block)
    for _ in range(blocks):
        context = context.seal(0)
    return context


def folded(allocator: FocusAllocator, blocks: int = 20, budget: int = 60) -> WorkingContext:
    """All far blocks collapsed, at tick 0."""
    return replace(allocator, fill=False).plan(history(blocks, budget), {}, 0, sharp=True).context


def shown(plan: Plan, allocator: FocusAllocator) -> list[int]:
    return [page.start // GRID.block for page in allocator.far_pages(plan.context)]


def test_the_best_blocks_come_best_first_and_the_rest_is_refused():
    allocator = FocusAllocator(1, recent_tokens=16, far_blocks=2, max_edits=8)
    plan = allocator.plan(folded(allocator), {3: 0.5, 7: 0.9, 9: 0.7, 11: -0.2}, 1)
    assert shown(plan, allocator) == [7, 9]
    assert [refusal.span for refusal in plan.refused] == [GRID.page(3)]


def test_at_most_max_edits_blocks_come_while_text_flows():
    allocator = FocusAllocator(1, recent_tokens=16, far_blocks=6, max_edits=2)
    plan = allocator.plan(folded(allocator), {3: 0.5, 7: 0.9, 9: 0.7}, 1)
    assert shown(plan, allocator) == [7, 9]
    assert {refusal.reason for refusal in plan.refused} == {"max_edits"}


def test_hysteresis_keeps_a_block_that_scores_a_little_less():
    """While text flows: a prompt's end asks anew."""
    allocator = FocusAllocator(1, recent_tokens=16, far_blocks=1, prompt_blocks=1)
    with_seven = allocator.plan(folded(allocator, budget=24), {7: 0.9}, 1).context
    assert shown(allocator.plan(with_seven, {7: 0.5, 9: 0.6}, 2), allocator) == [9]
    sticky = replace(allocator, hysteresis=0.2)
    assert shown(sticky.plan(with_seven, {7: 0.5, 9: 0.6}, 2), allocator) == [7]
    assert shown(sticky.plan(with_seven, {7: 0.5, 9: 0.6}, 2, sharp=True), allocator) == [9]


def at_a_prompts_end(scores: dict[int, float], **policy: Any) -> list[int]:
    allocator = FocusAllocator(1, recent_tokens=16, prompt_blocks=2, sharpness=0.7, **policy)
    plan = allocator.plan(folded(allocator), scores, 1, sharp=True)
    return [page.start // GRID.block for page in allocator.far_pages(plan.context, True)]


UNSURE = {2: 0.5, 3: 0.4, 4: 0.34, 5: 0.34, 6: 0.3, 7: 0.3, 8: 0.27, 9: 0.26, 11: 0.2}


def test_where_no_block_stands_out_many_that_are_alike_come():
    assert at_a_prompts_end(UNSURE, expand_above=0.35) == [2, 3]
    assert at_a_prompts_end(UNSURE, expand_above=0.35, broad_blocks=12) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert at_a_prompts_end(UNSURE, expand_above=0.35, broad_blocks=5) == [2, 3, 4, 5, 7]


def test_where_a_block_stands_out_or_none_deserves_detail_few_come():
    sure = {n: score * 1.5 for n, score in UNSURE.items()}
    assert at_a_prompts_end(sure, expand_above=0.35, broad_blocks=12) == [2, 3]
    no_crowd = {**UNSURE, 9: 0.2}
    assert at_a_prompts_end(no_crowd, expand_above=0.35, broad_blocks=12) == [2, 3]
    weak = {n: score * 0.6 for n, score in UNSURE.items()}
    assert at_a_prompts_end(weak, expand_above=0.35, broad_blocks=12) == []


def test_a_sure_block_in_the_recent_text_leaves_nobody_unsure():
    assert at_a_prompts_end({**UNSURE, 18: 0.9}, expand_above=0.35, broad_blocks=12) == []


def test_blocks_in_view_keep_free_places_newest_first():
    allocator = FocusAllocator(1, recent_tokens=16, far_blocks=4)
    plan = allocator.plan(history(20, 40), {}, 1, reserve=1)
    assert shown(plan, allocator) == [12, 13, 14, 15]


def test_recent_text_and_first_blocks_need_no_score_and_take_none():
    allocator = FocusAllocator(1, recent_tokens=16, far_blocks=1)
    plan = allocator.plan(folded(allocator), {0: 1.0, 19: 1.0, 20: 1.0, 999: 1.0, 5: 0.1}, 1)
    assert shown(plan, allocator) == [5]


def test_an_expansion_goes_down_level_by_level_and_its_siblings_stay_gists():
    allocator = FocusAllocator(0, recent_tokens=0, far_blocks=1)
    context = folded(allocator, blocks=9, budget=20)
    assert context.entries == (Span(0, 36, 3),)
    plan = allocator.plan(context, {4: 1.0}, 1)
    assert plan.edits == (Expand(Span(0, 36, 3)), Expand(Span(12, 24, 2)), Expand(Span(16, 20, 1)))
    assert plan.context.lod_counts() == {0: 1, 1: 2, 2: 2}
    back = allocator.plan(plan.context, {}, 2, sharp=True)
    assert back.context.entries == context.entries
    assert all(isinstance(edit, Collapse) for edit in back.edits)


def test_an_empty_history_needs_no_plan():
    assert FocusAllocator().plan(WorkingContext(64, GRID), {0: 1.0}, 0, reserve=4, sharp=True).edits == ()


def test_a_budget_error_says_what_does_not_fit():
    with pytest.raises(BudgetError, match=r"10 slots cannot hold .* set memory.budget to 21 or more"):
        FocusAllocator(1, recent_tokens=16).plan(history(20, 10), {}, 0, reserve=1)


@quick
@random_histories
def test_a_prompts_end_brings_its_longer_recent_part_back_as_far_as_there_are_places(allocator, seed, spare, costs):
    for step in steps(replace(allocator, fill=False, broad_blocks=0), seed, spare, costs):
        if not step.sharp or step.before.history + step.reserve <= step.before.budget:
            continue
        context, block = step.plan.context, GRID.block
        numbers = range(allocator.recent_start(context, True) // block, allocator.recent_start(context) // block)
        shown = [n for n in numbers if context.covering(n * block).level == 0]
        missing = [n for n in numbers if n not in shown]
        if costs is FREE and missing:
            assert context.free - step.reserve < block, f"{missing} would have fitted"


@pytest.mark.parametrize("budget", [512, 576, 768, 1024, 2048])
def test_the_longer_recent_part_of_a_prompt_leaves_room_for_what_it_asks_for(budget):
    """With the settings that users get: at 512 slots the 480 newest tokens would take every place."""
    allocator = FocusAllocator.of(MemoryConfig(budget=budget))
    context = WorkingContext(budget, Grid(32), (0, 0, 0, 0, 0))
    for now in range(100):
        plan = allocator.plan(context.grow(32).seal(now), {}, now, reserve=32)
        context = plan.context
    shown = allocator.plan(context.grow(20), {7: 1.0, 30: 0.9}, 100, reserve=1, sharp=True).context
    assert {page.start // 32 for page in pages(shown)} >= {7, 30}
    assert shown.free >= 1


def test_far_pages_must_measure_up_to_the_recent_text():
    """Block 95 is recent: where it answers the prompt best, pages that are much worse would only distract."""
    allocator = FocusAllocator.of(MemoryConfig())
    context = WorkingContext(1024, Grid(32), (0, 0, 0, 0, 0))
    for now in range(100):
        context = allocator.plan(context.grow(32).seal(now), {}, now, reserve=32).context
    for recent, shown in ((0.9, {30}), (0.5, {7, 30})):
        scores = {7: 0.5, 30: 0.8, 95: recent}
        found = allocator.plan(context.grow(20), scores, 100, reserve=1, sharp=True).context
        far = {page.start // 32 for page in allocator.far_pages(found, True)}
        assert far == {30} if recent > 0.75 else far <= shown
