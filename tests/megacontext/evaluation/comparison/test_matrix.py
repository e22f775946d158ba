from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megacontext.config_loader import load_config
from megacontext.evaluation.comparison.matrix import LEAST_SEEDS, CompareConfig, Plan, TaskRun, Work, in_order, ordered
from megacontext.evaluation.comparison.progress import Progress, duration
from megacontext.evaluation.comparison.tuning import Choice, Tuned
from megacontext.evaluation.names import CONTROLS

CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "compare"
RUNS = (
    TaskRun(name="copy_at_distance", seeds=1),
    TaskRun(name="late_recall", seeds=2, tokens=1000),
    TaskRun(name="plain_text", seeds=2, tokens=2000),
)
PLAN = Plan(("m",), (512, 1024), ("full", "oracle", "recency"), RUNS)


def told(work: Work) -> tuple:
    return work.seed, work.cell.task.name, work.cell.budget, work.cell.cache


def test_cells_are_in_the_order_of_a_table_and_full_attention_has_no_budget() -> None:
    found = [(cell.task.name, cell.budget, cell.cache) for cell in PLAN.cells()]
    assert found[:5] == [
        ("copy_at_distance", None, "full"),
        ("copy_at_distance", 512, "oracle"),
        ("copy_at_distance", 512, "recency"),
        ("copy_at_distance", 1024, "oracle"),
        ("copy_at_distance", 1024, "recency"),
    ]
    assert [cache for name, _, cache in found if name == "plain_text"] == ["full", "recency", "recency"]
    assert len(found) == 5 + 5 + 3


def test_an_interrupted_comparison_is_a_smaller_one() -> None:
    works = [told(work) for work in in_order(PLAN.cells())]
    assert [seed for seed, *_ in works] == sorted(seed for seed, *_ in works)
    first = list(dict.fromkeys(name for seed, name, *_ in works if seed == 0))
    assert first == ["late_recall", "plain_text", "copy_at_distance"]  # 1,000, 2,000 and 5,576 tokens
    assert works[0] == (0, "late_recall", None, "full")
    assert len(works) == len(set(works)) == 5 + 2 * 5 + 2 * 3


@pytest.mark.parametrize(
    "path", sorted(set(CONFIGS.glob("*.yaml")) - {CONFIGS / "tuned.yaml", CONFIGS / "tuning.yaml"})
)
def test_every_table_that_is_reported_has_three_seeds_or_more_and_the_controls(path: Path) -> None:
    config = load_config(path, CompareConfig, environ={}).config
    assert min(run.seeds for run in config.tasks) >= LEAST_SEEDS
    assert set(CONTROLS) <= set(ordered(config.caches, controls=True))


def test_a_task_may_have_caches_and_budgets_of_its_own() -> None:
    run = TaskRun(name="late_recall_100x", caches=("recency", "oracle"), budgets=(1024,))
    cells = replace(PLAN, tasks=(*RUNS, run)).cells()
    own = [(cell.budget, cell.cache) for cell in cells if cell.task.name == run.name]
    assert own == [(1024, "oracle"), (1024, "recency")]


def test_what_two_entries_of_a_task_ask_for_runs_once() -> None:
    more = TaskRun(name="plain_text", tokens=2000, seeds=4, caches=("recency", "absolute"))
    same, other = replace(PLAN, tasks=(*RUNS, *RUNS, more)).cells(), PLAN.cells()
    seeds = {(cell.task, cell.cache, cell.budget): len(cell.seeds) for cell in same}
    assert len(seeds) == len(same) == len(other) + 2
    assert [cell.label for cell in same[: len(other)]] == [cell.label for cell in other]
    assert {count for (task, name, _), count in seeds.items() if task.name == "plain_text"} == {2, 4}
    assert {name for (task, name, _), count in seeds.items() if count == 4} == {"recency", "absolute"}


def test_models_have_their_turns_one_after_the_other() -> None:
    works = in_order(replace(PLAN, models=("b", "a")).cells())
    assert [work.cell.model for work in works] == ["b"] * 21 + ["a"] * 21


def test_what_others_are_measured_against_comes_first() -> None:
    assert ordered(["recency", "megacontext", "full"], controls=True) == (
        *("full", "oracle", "random", "megacontext", "recency"),
    )
    assert ordered(["recency", "full", "recency"], controls=False) == ("full", "recency")
    assert "streaming_llm" in ordered(["baselines"], controls=False)


def test_a_cell_runs_with_the_settings_chosen_for_its_method() -> None:
    tuned = Tuned(methods={"recency": (Choice(budget=512, settings={"protect_first": 2}, score=1, of=4),)})
    for cell in replace(PLAN, tuned=tuned).cells():
        assert cell.tuned == ({"protect_first": 2} if cell.cache == "recency" else {})


def test_the_time_left_comes_from_episodes_of_the_same_kind() -> None:
    works = in_order(PLAN.cells())
    progress = Progress(works)
    assert progress.left() is None
    assert progress.told() == "[0/21]"
    for work in works[:5]:  # late_recall, 1,000 tokens
        progress.measured(work, 10.0 if work.cell.cache == "full" else 2.0)
        progress.ended(work)
    late = 10 + 4 * 2
    others = 10 * 5.576 + 4 * 2 * 5.576 + 2 * (10 * 2 + 2 * 2 * 2)
    assert progress.left() == pytest.approx(late + others)
    assert Progress(works, jobs=2).told() == "[0/21]"


def test_two_jobs_take_half_as_long() -> None:
    works = in_order(PLAN.cells())
    one, two = Progress(works), Progress(works, jobs=2)
    for progress in (one, two):
        progress.measured(works[0], 4.0)
    assert one.left() == 2 * (two.left() or 0)


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (99, "99 s"), (130, "2 min"), (7260, "2 h 1 min")])
def test_durations_are_told_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
