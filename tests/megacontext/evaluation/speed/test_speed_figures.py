from __future__ import annotations

import pytest

from megacontext.evaluation.speed.figures import ratio, ratio_of_sums, spread


def test_a_ratio_does_not_see_what_slows_both_down_alike() -> None:
    quiet, busy = [[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]], [[2.0, 2.0], [20.0, 20.0], [2.0, 2.0]]
    half = [[value / 2 for value in times] for times in busy]
    assert ratio(busy, half) == (2.0, 2.0, 2.0)
    assert ratio(quiet, quiet).p50 == 1.0


def test_one_slow_token_moves_the_sums_and_not_the_median() -> None:
    even, once = [[1.0, 1.0, 1.0]] * 3, [[1.0, 1.0, 4.0]] * 3
    assert ratio(once, even).p50 == 1.0
    assert ratio_of_sums(once, even) == 2.0


def test_who_left_earlier_is_compared_over_the_rounds_that_both_took_part_in() -> None:
    assert ratio([[3.0], [3.0]], [[1.0], [1.0], [100.0]]).p50 == 3.0
    assert ratio_of_sums([[3.0]], [[1.0], [100.0]]) == 3.0


def test_quartiles_enclose_the_median() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0]) == (1.0, 2.5, 3.0)
    assert spread([7.0]).rounded() == [7.0, 7.0, 7.0]


def test_nothing_measured_has_no_median() -> None:
    with pytest.raises((ValueError, IndexError)):
        spread([])
