"""Tick, expand and collapse events against the working contexts they speak of."""

from __future__ import annotations

import pytest
from memory_toys import NoisyScorer, converse, small_config, small_llama

from megacontext.cache import ContextCache
from megacontext.context import WorkingContext
from megacontext.span import Span
from megacontext.telemetry.events import Collapse, Event, Expand, Tick


class Recorder:
    """A sink that remembers, at each tick, the working context after it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.contexts: dict[int, WorkingContext] = {}
        self.cache: ContextCache | None = None

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Tick) and self.cache is not None:
            self.contexts[event.tick] = self.cache.context

    def close(self) -> None:
        pass

    @property
    def ticks(self) -> list[Tick]:
        return [event for event in self.events if isinstance(event, Tick)]


@pytest.fixture(
    params=[{}, {"gist_slots": (1, 1), "budget": 180, "gist_budget": 3}, {"cooldown": 6}], ids=["", "gists", "cooldown"]
)
def recorded(request) -> Recorder:
    model, sink = small_llama(), Recorder()
    sink.cache = ContextCache(model.spec, small_config(**request.param), NoisyScorer(), sink=sink)
    converse(model, sink.cache, seed=2, turns=12)
    return sink


def replay(sink: Recorder) -> dict[int, tuple[list[Span], list[Span]]]:
    """tick -> (entries before, entries after), from the events alone."""
    grid, entries, at = sink.cache.grid, [], {}
    edits: list[Event] = []
    for event in sink.events:
        if not isinstance(event, Tick):
            edits.append(event)
            continue
        sealed = event.history_tokens // grid.block * grid.block
        end = entries[-1].end if entries else 0
        entries = [*entries, *(grid.page(n) for n in range(end // grid.block, sealed // grid.block))]
        before = list(entries)
        for edit in edits:
            old = [e for e in entries if edit.start <= e.start and e.end <= edit.end]
            assert {e.level for e in old} == {edit.from_level}
            width = grid.width(edit.to_level)
            new = [Span(start, start + width, edit.to_level) for start in range(edit.start, edit.end, width)]
            first = entries.index(old[0])
            entries[first : first + len(old)] = new
            assert edit.tick == event.tick
        at[event.tick], edits = (before, list(entries)), []
    assert not edits
    return at


def test_ticks_are_counted_without_a_gap(recorded):
    assert [tick.tick for tick in recorded.ticks] == list(range(recorded.cache.tick))
    assert {tick.reason for tick in recorded.ticks} == {"text", "prompt", "budget"}
    assert recorded.cache.last_tick is recorded.ticks[-1]


def test_the_edits_replayed_give_the_working_context(recorded):
    for tick, (_, after) in replay(recorded).items():
        assert tuple(after) == recorded.contexts[tick].entries


def test_a_ticks_figures_can_be_computed_from_the_contexts(recorded):
    contexts, cache, edits = replay(recorded), recorded.cache, recorded.events
    for tick in recorded.ticks:
        before, after = contexts[tick.tick]
        context = recorded.contexts[tick.tick]
        mine = [event for event in edits if isinstance(event, (Expand, Collapse)) and event.tick == tick.tick]
        assert tick.num_expand == sum(isinstance(event, Expand) for event in mine)
        assert tick.num_collapse == sum(isinstance(event, Collapse) for event in mine)
        assert tick.history_tokens == context.history
        assert tick.working_budget == cache.config.budget
        slots = sum(context.cost(entry) for entry in after) + context.tail
        assert tick.active_slots == slots
        assert tick.utilization == pytest.approx(slots / cache.config.budget, abs=1e-4)
        levels = [entry.level for entry in after]
        assert tick.lod_counts == {level: levels.count(level) for level in set(levels)}
        came = {e for e in after if e.level == 0} - {e for e in before if e.level == 0}
        assert tick.pages_moved == len(came)
        assert tick.faults == 0  # all pages are in memory
        element = cache.view.arena.raw.element_size()
        row = len(cache.spec.memory_layers) * cache.spec.kv_heads * cache.spec.head_dim * element
        assert tick.bytes_moved == len(came) * 4 * row * 3
        if not after:
            assert tick.swap_rate is None
            continue
        assert tick.swap_rate == pytest.approx(len(mine) / len(after), abs=1e-4)
        stayed = sum(context.cost(entry) for entry in set(before) & set(after)) + context.tail
        assert tick.residency == pytest.approx(stayed / slots, abs=1e-4)
        ages = [tick.tick - since for since in context.since]
        assert tick.mean_residency_ticks == pytest.approx(sum(ages) / len(ages), abs=1e-2)


def test_times_of_the_parts_add_up_to_the_total(recorded):
    for tick in recorded.ticks:
        times = dict(tick.latency_ms)
        assert min(times.values()) >= 0
        assert times.pop("total") == pytest.approx(sum(times.values()), abs=1e-3)
        assert set(times) == {"score", "plan", "page", "assemble", "forward"}


def test_an_edit_that_the_budget_forced_says_so(recorded):
    """L6: what came into view less than `cooldown` ticks ago and leaves again."""
    contexts, cooldown = replay(recorded), recorded.cache.config.cooldown
    folds = [e for e in recorded.events if isinstance(e, Collapse) and e.to_level == 1]
    for fold in folds:
        page = Span(fold.start, fold.end, 0)
        earlier = recorded.contexts.get(fold.tick - 1)
        sealed_since = earlier is None or page not in earlier.entries
        since = None if sealed_since else earlier.since[earlier.index(page.start)]
        if since is not None:
            assert ("forced" in fold.reason) == (fold.tick - since < cooldown), contexts[fold.tick]


def test_stats_are_those_of_the_last_tick_and_of_now(recorded):
    cache, stats = recorded.cache, recorded.cache.stats()
    assert stats["num_expand"] == cache.last_tick.num_expand
    assert stats["latency_ms"] == cache.last_tick.latency_ms
    assert (stats["history_tokens"], stats["active_slots"]) == (cache.length, cache.context.slots)
    assert stats["lod_counts"] == cache.context.lod_counts()
    assert stats["resident_bytes"] == cache.usage.nbytes
