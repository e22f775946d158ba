"""A log's views against those of the memory that wrote it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_toys import NoisyScorer, converse, small_config, small_model

from megacontext.cache import ContextCache
from megacontext.errors import MegaContextError
from megacontext.replay import replay
from megacontext.span import Span
from megacontext.telemetry.events import Collapse, Event, MemoryOpened, RunStart, Tick
from megacontext.telemetry.sinks import FanOut
from megacontext.telemetry.ticks import TickSummary
from megacontext.testing.toy import cached_logits, toy_tokens


class Watch:
    """The entries in view at the moment each tick is reported."""

    def __init__(self) -> None:
        self.cache: ContextCache | None = None
        self.entries: dict[int, tuple[Span, ...]] = {}

    def emit(self, event: Event) -> None:
        if isinstance(event, Tick) and self.cache is not None:
            self.entries[event.tick] = self.cache.context.entries

    def close(self) -> None: ...


class Lines:
    """A log's lines, in memory."""

    def __init__(self, *first: Event) -> None:
        self.events = list(first)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None: ...


def start_of(config: object) -> RunStart:
    return RunStart(program="test", config={"memory": config.model_dump(mode="json")})  # type: ignore[attr-defined]


def recorded(every: int, scorer: NoisyScorer | None = None, **changes: object) -> tuple[ContextCache, Watch, Lines]:
    """A memory whose events are summed up as in a log, and watched before that."""
    config = small_config(**changes)
    watch, lines = Watch(), Lines(start_of(config))
    sink = FanOut([watch, TickSummary(lines, every)])
    cache = ContextCache(small_model().spec, config, scorer, sink=sink)
    watch.cache = cache
    lines.events.append(MemoryOpened(cache="megacontext", working_budget=config.budget))
    return cache, watch, lines


def check_views(cache: ContextCache, watch: Watch, lines: Lines) -> int:
    """Every view of the log is the one that was there. Returns the coarsest level seen."""
    cache.sink.close()
    views = list(replay(lines.events))
    assert [view.tick for view in views] == [event for event in lines.events if isinstance(event, Tick)]
    for view in views:
        assert view.context.entries == watch.entries[view.tick.tick]
        view.context.check()
    assert {t for view in views for t in range(view.first_tick, view.tick.tick + 1)} == set(watch.entries)
    return max(entry.level for view in views for entry in view.context.entries)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    every=st.sampled_from([1, 2, 7, 32]),
    block=st.sampled_from([2, 4]),
    cooldown=st.sampled_from([0, 5]),
    gists=st.sampled_from([(0, 0), (1, 1, 1), (0,)]),
)
def test_every_tick_line_leads_to_the_view_that_was_there(
    seed: int, every: int, block: int, cooldown: int, gists: tuple[int, ...]
) -> None:
    budget = 48 + 64 * sum(gists)
    changes = {"block": block, "cooldown": cooldown, "gist_slots": gists, "gist_budget": 8, "budget": budget}
    cache, watch, lines = recorded(every, NoisyScorer(seed), expand_above=-0.5, max_edits=3, **changes)
    converse(small_model(), cache, seed, turns=3, check=lambda _: None)
    check_views(cache, watch, lines)


def test_groups_of_groups_fold_and_open_in_a_log_as_in_the_view() -> None:
    changes = {"block": 2, "protect_first": 0, "gist_slots": (0, 0, 0), "tick_tokens": 8}
    cache, watch, lines = recorded(32, NoisyScorer(1), expand_above=0.9, **changes)
    with torch.no_grad():
        cached_logits(small_model(), cache, toy_tokens(2400, vocab=64), [6] * 400)
    assert check_views(cache, watch, lines) == 3


MEMORY = {"block": 4, "gist_slots": [0, 0], "budget": 48}
START = RunStart(program="test", config={"memory": MEMORY})
FOLD = Collapse(tick=3, start=4, end=8, from_level=0, to_level=1)


def test_a_view_is_rebuilt_from_tokens_and_edits() -> None:
    lines = [START, FOLD, Tick(tick=3, ticks=4, history_tokens=14, lod_counts={0: 2, 1: 1})]
    (view,) = replay(lines)
    assert view.context.entries == (Span(0, 4, 0), Span(4, 8, 1), Span(8, 12, 0))
    assert (view.context.since, view.context.tail, view.context.slots, view.first_tick) == ((0, 3, 0), 2, 10, 0)


def test_a_memory_that_opens_begins_anew() -> None:
    lines = [START, Tick(tick=5, history_tokens=40), MemoryOpened(cache="megacontext"), Tick(tick=0, history_tokens=9)]
    assert [len(view.context.entries) for view in replay(lines)] == [10, 2]


def test_a_run_that_goes_on_needs_the_view_that_an_earlier_one_kept() -> None:
    (before,) = replay([START, FOLD, Tick(tick=3, ticks=4, history_tokens=14)])
    opened = MemoryOpened(cache="megacontext", recovered_tokens=15)
    fold = Collapse(tick=4, start=8, end=12, from_level=0, to_level=1)
    run = [START, opened, fold, Tick(tick=4, history_tokens=17, lod_counts={0: 2, 1: 2})]
    (view,) = replay(run, before.context)
    assert [entry.level for entry in view.context.entries] == [0, 1, 1, 0]
    with pytest.raises(MegaContextError, match="begins with tick 4, so the run took up a view"):
        list(replay(run))
    read_again = [START, opened, Tick(tick=0, history_tokens=17)]
    assert [len(view.context.entries) for view in replay(read_again, before.context)] == [4]


@pytest.mark.parametrize(
    "lines",
    [
        [FOLD, FOLD, Tick(tick=3, history_tokens=14)],
        [Tick(tick=3, history_tokens=14, lod_counts={0: 2, 1: 1})],
        [Tick(tick=3, history_tokens=14), Tick(tick=4, history_tokens=3)],
        [Tick(tick=3, history_tokens=14), Tick(tick=4, history_tokens=1 << 31)],
    ],
    ids=["an edit twice", "an edit missing", "history shrinks", "history leaps"],
)
def test_events_that_do_not_fit_are_refused(lines: list[Event]) -> None:
    with pytest.raises(MegaContextError, match=r"do not fit together at tick [34]: .*validate_log"):
        list(replay([START, *lines]))


def test_a_run_that_does_not_say_how_its_memory_was_built_is_refused() -> None:
    with pytest.raises(MegaContextError, match=r"memory\.block"):
        list(replay([RunStart(program="test"), Tick(tick=0, history_tokens=4)]))
