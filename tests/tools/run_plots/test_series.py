"""The numbers that are drawn are those of the log."""

from __future__ import annotations

import pytest

from megacontext.telemetry.events import Event, MemoryOpened, RunStart, Tick, Turn
from megacontext.telemetry.metrics import METRICS
from tools.run_plots.series import (
    Course,
    Stairs,
    band_words,
    course_of,
    level_steps,
    levels,
    metric_points,
    metric_steps,
    part_bars,
    part_steps,
    parts,
    spaced,
    stairs,
    summarise,
)


def turn(number: int, history: int) -> Turn:
    return Turn(turn=number, prompt_tokens=1, generated_tokens=1, history_tokens=history, stop="stop")


def text(tick: int, history: int, ticks: int = 1, **figures: object) -> Tick:
    return Tick(tick=tick, ticks=ticks, history_tokens=history, reason="text", **figures)  # type: ignore[arg-type]


RUN: list[Event] = [
    RunStart(program="test", config={"memory": {"block": 4}}),
    text(31, 100, 32, swap_rate=0.1, lod_counts={0: 10}, latency_ms={"score": 1.0, "total": 1.0}),
    text(33, 150, 2, swap_rate=0.6, lod_counts={0: 10, 1: 27}, latency_ms={"score": 2.0, "page": 3.0, "total": 5.0}),
    Tick(
        tick=34, reason="prompt", history_tokens=160, swap_rate=0.3, lod_counts={0: 6, 2: 1}, latency_ms={"page": 9.0}
    ),
    turn(1, 200),
    text(40, 260, 6),
]


def course() -> Course:
    return course_of(RUN)


def test_a_step_reaches_from_the_line_before_or_the_turn_before() -> None:
    assert metric_steps(course(), "swap_rate") == [(0, 100, 0.1), (100, 150, 0.6), (200, 260, None)]
    assert metric_points(course(), "swap_rate") == [(160, 0.3)]
    assert [at for at, _ in course().turns] == [200]
    assert course().end == 260


def test_against_ticks_a_step_is_as_wide_as_its_line_has_ticks() -> None:
    run = course_of(RUN, "ticks")
    assert [(start, stop) for start, stop, _ in run.steps] == [(0, 32), (32, 34), (35, 41)]
    assert [mark.at for mark in run.prompts] == [35]
    assert [at for at, _ in run.turns] == [35]


def test_a_run_that_goes_on_with_a_kept_view_begins_where_the_one_before_ended() -> None:
    opened = MemoryOpened(cache="megacontext", session="s", recovered_tokens=500)
    run = [RUN[0], opened, text(62, 530, 2), turn(1, 560)]
    assert [step[:2] for step in course_of(run).steps] == [(500, 530)]
    assert (course_of(run).begin, course_of(run, "ticks").begin) == (500, 61)
    read_again = [RUN[0], opened, text(31, 530, 32)]
    assert [step[:2] for step in course_of(read_again).steps] == [(0, 530)]


def test_a_view_without_a_whole_block_is_exact() -> None:
    run = course_of([RUN[0], text(0, 3, lod_counts={})])
    assert (levels(run), level_steps(run)) == ([0], [(0, 3, [3])])


def test_levels_are_told_in_tokens_and_the_tail_is_exact() -> None:
    assert levels(course()) == [0, 1, 2]
    assert level_steps(course()) == [(0, 100, [100, 0, 0]), (100, 150, [42, 108, 0]), (200, 260, None)]


def test_without_a_block_size_levels_have_no_tokens() -> None:
    assert {values for *_, values in level_steps(course_of(RUN[1:]))} == {None}


def test_parts_that_an_older_log_lacks_are_no_parts() -> None:
    assert parts(course()) == ["score", "page"]
    assert part_steps(course(), ["score", "page"])[:2] == [(0, 100, [1.0, 0.0]), (100, 150, [2.0, 3.0])]
    assert [(mark.at, values) for mark, values in part_bars(course(), ["score", "page"])] == [(160, [0.0, 9.0])]


def test_stairs_break_where_there_is_a_gap_or_no_value() -> None:
    steps = [(0, 5, 1.0), (5, 5, 9.0), (5, 8, 2.0), (8, 9, None), (9, 12, 3.0), (20, 30, 4.0)]
    assert stairs(steps) == [Stairs([0, 5, 8], [1.0, 2.0]), Stairs([9, 12], [3.0]), Stairs([20, 30], [4.0])]


def test_a_summary_weighs_lines_by_their_ticks_and_leaves_prompts_out() -> None:
    found = summarise(course(), "swap_rate")
    assert found is not None
    assert found[:4] == (34, pytest.approx(0.35), 0.1, 0.6)
    assert found[4:] == (pytest.approx(32 / 34), pytest.approx(2 / 34))
    assert summarise(course(), "residency") is None


def test_utilization_counts_once_history_exceeds_the_budget() -> None:
    run = [text(0, 10, utilization=0.1, working_budget=20), text(1, 30, utilization=0.9, working_budget=20)]
    found = summarise(course_of(run), "utilization")
    assert found is not None
    assert found[:4] == (1, 0.9, 0.9, 0.9)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("swap_rate", "healthy 0 to 0.25, investigate > 0.5"),
        ("residency", "healthy 0.9 to 1, investigate < 0.8"),
        ("utilization", "healthy 0.8 to 1, investigate < 0.6"),
        ("mean_residency_ticks", "healthy >= 3, investigate < 3"),
        ("delta_nll", "healthy <= 0.1, investigate > 0.15"),
        ("faults", ""),
    ],
)
def test_bands_in_words(name: str, words: str) -> None:
    assert band_words(METRICS[name]) == words


def test_of_crowded_labels_the_newest_is_shown() -> None:
    assert spaced([0, 1, 5, 6, 20], 3) == [False, True, False, True, True]
    assert spaced([], 3) == []
