from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from megacontext.evaluation.comparison.bootstrap import differences, interval, resampled_means


def every_outcome(sample: list[list[float]]) -> list[float]:
    """The statistic of every resample there is, each as likely as any other: the oracle."""

    def means_of(items: list[float]) -> list[float]:
        return [sum(drawn) / len(items) for drawn in product(items, repeat=len(items))]

    found = []
    for chosen in product(sample, repeat=len(sample)):
        found += [sum(means) / len(means) for means in product(*map(means_of, chosen))]
    return found


@pytest.mark.parametrize("sample", [[[0, 1], [1, 1]], [[0.0, 2.0, 3.0], [5.0, 7.0, 7.5]], [[1, 2], [3, 5], [4, 9]]])
def test_resamples_are_spread_as_all_that_there_are(sample):
    exact, drawn = np.asarray(every_outcome(sample)), resampled_means([np.asarray(s, float) for s in sample], 40_000)
    assert drawn.mean() == pytest.approx(exact.mean(), abs=0.03)
    assert drawn.std() == pytest.approx(exact.std(), rel=0.03)
    for value in np.unique(exact.round(9))[:12]:
        assert (drawn <= value + 1e-9).mean() == pytest.approx((exact <= value + 1e-9).mean(), abs=0.012)


def test_the_interval_is_that_of_all_resamples():
    sample = [[0.0, 2.0, 3.0], [5.0, 7.0, 7.5]]
    low, high = np.quantile(every_outcome(sample), [0.025, 0.975])
    assert interval(sample, resamples=40_000) == pytest.approx((low, high), abs=0.1)


def test_seeds_of_other_sizes_count_the_same():
    low, high = interval([[0.0] * 1000, [1.0]], bounds=(0, 1))
    assert (low, high) == (0, 1)
    assert resampled_means([np.zeros(1000), np.ones(1)], 4000).mean() == pytest.approx(0.5, abs=0.02)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        seeds = draw.normal(0, 0.3, 8)
        low, high = interval([list(draw.normal(mean, 1, 16)) for mean in seeds], resamples=400)
        hits += low <= 0 <= high
    assert 0.90 <= hits / 300 <= 0.99


def test_all_right_is_not_certainty():
    low, high = interval([[1.0] * 10] * 3, bounds=(0, 1))
    assert high == 1
    assert low == pytest.approx(0.025 ** (1 / 30), abs=1e-4)  # Clopper and Pearson
    assert interval([[0.0] * 10], bounds=(0, 1)) == pytest.approx((0, 1 - 0.025**0.1), abs=1e-4)


def test_no_difference_at_all_leaves_doubt_on_both_sides():
    low, high = interval([[0.0] * 10, [0.0] * 10], bounds=(-1, 1))
    assert low == -high < 0


def test_what_nothing_can_be_said_of_is_null():
    assert interval([]) is None
    assert interval([[]]) is None
    assert interval([[2.5]]) is None


def test_the_same_figures_give_the_same_interval():
    sample = [[0.1, 0.4, 0.2], [0.3, 0.9, 0.8]]
    assert interval(sample) == interval(sample)


def test_differences_are_taken_on_the_same_seed_and_item():
    assert differences({0: [1, 1], 1: [0, 1], 2: [1]}, {1: [1, 1], 0: [0, 1], 2: [1, 1]}) == [[1, 0], [-1, 0]]


def test_a_paired_interval_is_narrower_than_the_two_alone():
    draw = np.random.default_rng(1)
    hard = draw.normal(0, 3, (5, 12))
    ours = dict(enumerate((hard + draw.normal(-0.2, 0.05, hard.shape)).tolist()))
    theirs = dict(enumerate(hard.tolist()))
    low, high = interval(differences(ours, theirs))
    assert low < -0.2 < high < 0
    alone = interval(list(ours.values()))
    assert high - low < 0.1 * (alone[1] - alone[0])
