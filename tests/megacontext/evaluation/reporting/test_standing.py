"""Who is best, who may be as good, and how far below another's a loss is, against figures one can see through."""

from __future__ import annotations

import random

import pytest
from made_up_rows import episode, recall_rows, row, text_rows

from megacontext.evaluation.reporting.figures import ACCURACY, DELTA, KL, NLL, group_value, measure_of, share_below
from megacontext.evaluation.reporting.standing import distance, standing
from megacontext.evaluation.reporting.study import Entry, TaskRows, parts_of

SURE = {seed: [1.0] * 20 for seed in range(3)}
NEVER = {seed: [0.0] * 20 for seed in range(3)}
NEARLY = {seed: [1.0] * 19 + [0.0] for seed in range(3)}


def task_of(rows: list[dict]) -> TaskRows:
    (part,) = parts_of(rows)
    (task,) = part.tasks
    return task


def entry(task: TaskRows, label: str) -> Entry:
    return next(one for one in task.entries if one.label == label)


def test_the_best_and_those_whose_difference_may_be_none() -> None:
    task = task_of(recall_rows(megacontext=SURE, quest=NEARLY, h2o=NEVER))
    found = standing(task, 512, ACCURACY)
    assert found.best is entry(task, "megacontext")
    assert found.good == {"megacontext", "quest"}
    low, high = found.apart["h2o"]
    assert -1.0 <= low <= high < -0.5


def test_ceilings_and_changed_methods_do_not_compete() -> None:
    figures = {"full": SURE, "oracle": SURE, "oracle_mass": SURE, "megacontext[far_blocks=8]": SURE, "h2o": NEARLY}
    task = task_of(recall_rows(**figures))
    assert standing(task, 512, ACCURACY).good == {"h2o"}


def test_fewer_seeds_do_not_compete_since_they_are_other_texts() -> None:
    task = task_of(recall_rows(megacontext=NEARLY, h2o={0: [1.0] * 20}))
    assert standing(task, 512, ACCURACY).good == {"megacontext"}


def test_less_loss_is_better() -> None:
    base = {seed: [2.0, 2.5, 3.0] for seed in range(3)}
    more = {seed: [2.1, 2.6, 3.1] for seed in range(3)}
    task = task_of(text_rows(base, megacontext={s: [x - 0.05 for x in v] for s, v in more.items()}, h2o=more))
    assert measure_of(task) is DELTA
    found = standing(task, 512, DELTA)
    assert found.good == {"megacontext"}
    assert found.apart["h2o"] == pytest.approx((0.05, 0.05))


def test_the_interval_is_the_paired_one() -> None:
    """Items differ by far more than the two methods do; a difference of intervals would see nothing."""
    draw = random.Random(0)
    base = {seed: [draw.uniform(0, 9) for _ in range(12)] for seed in range(3)}
    worse = {s: [x + 0.01 for x in v] for s, v in base.items()}
    task = task_of(text_rows(base, megacontext=base, h2o=worse))
    assert distance(entry(task, "h2o"), entry(task, "megacontext"), DELTA) == pytest.approx((0.01, 0.01))


def test_nobody_is_best_where_nothing_was_measured() -> None:
    task = task_of(recall_rows(full=SURE))
    assert standing(task, 512, ACCURACY).best is None


def test_what_is_not_a_number_is_no_figure() -> None:
    base = {seed: [2.0, 2.5] for seed in range(3)}
    task = task_of(text_rows(base, megacontext=base, h2o={seed: [float("nan"), 1.0] for seed in range(3)}))
    assert standing(task, 512, DELTA).good == {"megacontext"}


def test_a_named_part_has_its_own_best() -> None:
    def asked(first: float, last: float) -> list[dict]:
        return [episode(s, right=[first, last], groups={"question 1": [first], "question 2": [last]}) for s in range(9)]

    task = task_of([row("megacontext", 512, asked(1.0, 0.0)), row("quest", 512, asked(0.0, 1.0))])
    assert standing(task, 512, ACCURACY, "question 1").good == {"megacontext"}
    assert standing(task, 512, ACCURACY, "question 2").good == {"quest"}
    assert group_value(task, entry(task, "quest"), ACCURACY, "question 2").mean == 1.0


def test_a_share_below_is_of_the_distance_to_full() -> None:
    base = {seed: [2.0, 3.0, 4.0] for seed in range(3)}
    far, near = ({s: [x + more for x in v] for s, v in base.items()} for more in (0.1, 0.01))
    task = task_of(text_rows(base, megacontext=near, streaming_llm=far, h2o=base))
    assert task.full is not None
    ours, theirs = entry(task, "megacontext"), entry(task, "streaming_llm")
    found = share_below(ours, theirs, task.full)
    assert found.mean == pytest.approx(0.9)
    assert found.interval == pytest.approx((0.9, 0.9))
    assert share_below(ours, entry(task, "h2o"), task.full) == (None, None)  # nothing to be below of


def test_a_document_that_does_better_with_less_says_so() -> None:
    base = {seed: [2.0, 3.0, 4.0] for seed in range(2)}
    less = {0: [1.9, 2.9, 3.9], 1: [2.1, 3.1, 4.1]}
    task = task_of(text_rows(base, "document number {}", megacontext=less))
    values = [group_value(task, entry(task, "megacontext"), DELTA, f"document number {s}") for s in range(2)]
    assert [value.mean for value in values] == pytest.approx([-0.1, 0.1])
    assert values[0].interval is not None
    assert values[0].interval[1] < 0


def test_a_task_is_judged_by_what_it_measures() -> None:
    assert measure_of(task_of(recall_rows(megacontext=SURE))) is ACCURACY
    assert measure_of(task_of([row("h2o", 512, [episode(0, nats=[1.0], kl=0.1)])])) is KL
    assert measure_of(task_of([row("h2o", 512, [episode(0, nats=[1.0])])])) is NLL


def test_of_equal_shares_the_surer_answers_are_the_best() -> None:
    def asked(nats: float) -> list[dict]:
        return [episode(seed, right=[1.0, 1.0], nats=[nats, nats]) for seed in range(3)]

    task = task_of([row(name, 512, asked(nats)) for name, nats in (("random", 0.5), ("quest", 0.1), ("h2o", 0.9))])
    found = standing(task, 512, ACCURACY)
    assert found.best is entry(task, "quest")
    assert found.good == {"quest", "random", "h2o"}
