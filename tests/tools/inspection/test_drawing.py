from __future__ import annotations

from itertools import pairwise

import pytest

from megacontext.session import Turn
from tools.inspection.drawing import Strip


@pytest.mark.parametrize(
    ("ranges", "shades"),
    [
        ([(0, 40)], "████"),
        ([], "    "),
        ([(0, 1)], "░   "),
        ([(5, 12), (29, 30)], "▒░░ "),
        ([(0, 7), (13, 20)], "▓▓  "),
        ([(39, 40)], "   ░"),
    ],
)
def test_a_column_is_as_dark_as_much_of_it_is_covered(ranges: list[tuple[int, int]], shades: str) -> None:
    assert Strip(40, 4).shades(ranges) == shades


def test_fewer_tokens_than_columns_still_fill_the_strip() -> None:
    assert Strip(3, 9).shades([(0, 1), (2, 3)]) == "███   ███"


@pytest.mark.parametrize("columns", [1, 7, 90, 301])
@pytest.mark.parametrize("tokens", [1, 32, 7567, 10**6 + 1])
def test_ranges_that_tile_history_leave_no_column_light(tokens: int, columns: int) -> None:
    cuts = sorted({0, tokens // 3, tokens // 2, tokens})
    assert set(Strip(tokens, columns).shades(list(pairwise(cuts)))) == {"█"}


def test_turns_are_letters() -> None:
    turns = (Turn(0, 20, "document"), Turn(20, 30, "user"), Turn(32, 40, "assistant"))
    assert Strip(40, 8).letters(turns) == "dddduuaa"
    assert Strip(40, 8).letters(turns[:1]) == "dddd    "
