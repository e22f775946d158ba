"""What several ticks come to, against plain lists of the ticks themselves."""

from __future__ import annotations

from statistics import fmean

import pytest
from event_sinks import ListSink, full_tick, turn
from hypothesis import given
from hypothesis import strategies as st

from megacontext.telemetry.events import Expand, MemoryOpened, Tick, Turn
from megacontext.telemetry.sums import summarise
from megacontext.telemetry.ticks import TickSummary

PARTS = ("score", "plan", "page", "assemble", "forward")
ROUNDING = 1e-3  # ms: each part and the total have four decimals


def latency(parts: list[float]) -> dict[str, float]:
    rounded = {name: round(took, 4) for name, took in zip(PARTS, parts, strict=True)}
    return {**rounded, "total": round(sum(rounded.values()), 4)}


shares = st.none() | st.floats(0, 1)
times = st.none() | st.lists(st.floats(0, 1e4), min_size=5, max_size=5).map(latency)


@st.composite
def ticks(draw: st.DrawFn) -> list[Tick]:
    """Ticks as a memory makes them, some with figures that are missing."""
    return [
        Tick(
            tick=index,
            reason=draw(st.sampled_from(["text", "prompt"])),
            residency=draw(shares),
            swap_rate=draw(shares),
            num_expand=draw(st.none() | st.integers(0, 9)),
            working_budget=1024,
            active_slots=draw(st.integers(0, 1024)),
            latency_ms=draw(times),
        )
        for index in range(draw(st.integers(1, 70)))
    ]


def gap(event: Tick | Turn) -> float:
    found = dict(event.latency_ms or {"total": 0.0})
    total = found.pop("total")
    return abs(sum(found.values()) - total)


@given(ticks(), st.integers(1, 32))
def test_parts_add_up_to_their_total_in_every_tick_and_turn(made: list[Tick], every: int) -> None:
    sink = ListSink()
    summary = TickSummary(sink, every)
    for event in [*made, turn()]:
        summary.emit(event)
    told = [event for event in sink.events if isinstance(event, (Tick, Turn))]
    assert max(map(gap, told)) <= ROUNDING


@given(ticks(), st.integers(1, 32))
def test_a_turn_leaves_with_what_its_ticks_come_to(made: list[Tick], every: int) -> None:
    sink = ListSink()
    summary = TickSummary(sink, every)
    for event in [*made, turn()]:
        summary.emit(event)
    found = sink.events[-1]
    assert isinstance(found, Turn)
    for name in ("residency", "swap_rate"):
        known = [getattr(tick, name) for tick in made if getattr(tick, name) is not None]
        assert getattr(found, name) == (pytest.approx(fmean(known), abs=1e-6) if known else None)
    counts = [tick.num_expand for tick in made if tick.num_expand is not None]
    assert found.num_expand == (sum(counts) if counts else None)
    assert (found.working_budget, found.active_slots) == (1024, made[-1].active_slots)
    totals = [tick.latency_ms["total"] for tick in made if tick.latency_ms]
    assert (found.latency_ms or {}).get("total") == (pytest.approx(fmean(totals), abs=1e-4) if totals else None)


def last_turn(*events: object) -> Turn:
    sink = ListSink()
    summary = TickSummary(sink)
    for event in events:
        summary.emit(event)  # type: ignore[arg-type]
    found = sink.events[-1]
    assert isinstance(found, Turn)
    return found


def test_a_tick_that_is_a_sum_counts_as_often_as_it_has_ticks() -> None:
    found = last_turn(
        Tick(tick=29, ticks=30, residency=1.0, num_expand=4, latency_ms={"forward": 2.0, "total": 2.0}),
        *(Tick(tick=tick, residency=0.2, num_expand=1, latency_ms={"forward": 6.0, "total": 6.0}) for tick in (30, 31)),
        turn(),
    )
    assert (found.residency, found.num_expand) == (0.95, 6)
    assert found.latency_ms == {"forward": 2.25, "total": 2.25}


def test_what_few_ticks_measured_is_the_mean_of_the_measurements() -> None:
    measured = [Tick(tick=9, ticks=10, delta_nll=0.2, delta_nll_baseline="full"), Tick(tick=10, delta_nll=0.4)]
    found = last_turn(*measured, Tick(tick=11), turn())
    assert (found.delta_nll, found.delta_nll_baseline) == (pytest.approx(0.3), "full")
    assert summarise([*measured, Tick(tick=11)]).delta_nll_baseline == "full"


def test_a_turn_without_ticks_has_no_figures_of_ticks() -> None:
    assert last_turn(Tick(tick=0, residency=0.5), turn(1), turn(2)) == turn(2)


def test_what_a_turn_says_itself_stays() -> None:
    found = last_turn(full_tick(), turn(residency=0.125, resident_bytes=7))
    assert (found.residency, found.resident_bytes, found.history_tokens) == (0.125, 7, 6)
    assert found.utilization == 0.9961


def test_ticks_of_a_session_that_is_read_again_belong_to_no_turn() -> None:
    opened = MemoryOpened(cache="megacontext", recovered_tokens=100)
    again = [Tick(tick=tick, history_tokens=50 * tick, residency=0.0) for tick in (1, 2)]
    found = last_turn(
        Tick(tick=0, residency=0.0), opened, *again, Tick(tick=3, history_tokens=101, residency=0.9), turn()
    )
    assert found.residency == 0.9


def test_figures_that_are_not_finite_were_not_computed() -> None:
    assert last_turn(Tick(tick=0, residency=float("nan")), Tick(tick=1, residency=0.5), turn()).residency == 0.5


def test_edits_do_not_count_into_a_turn() -> None:
    assert last_turn(Expand(tick=0, start=0, end=32, from_level=1, to_level=0), turn()) == turn()
