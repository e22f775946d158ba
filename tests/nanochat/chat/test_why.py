"""/why: what names a part of history, and what is said of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from megacontext.context import Collapse as Fold
from megacontext.context import WorkingContext
from megacontext.edit_ledger import EditLedger
from megacontext.errors import ConfigError
from megacontext.focus.allocator import FocusAllocator
from megacontext.span import Grid, Span
from megacontext.telemetry.events import Collapse
from nanochat.chat.why import MOST_ENTRIES, find, parse_part, why_lines

GRID = Grid(8, 4)
TEXT = "The owl sleeps. " * 6 + "An \x1b[31mOwl\x1b[0m wakes"  # one token a byte


class Log:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def tokens(self, start: int, stop: int) -> list[int]:
        assert 0 <= start <= stop <= len(self.data)
        return list(self.data[start:stop])


class Bytes:
    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


def conversation(text: str = TEXT, *, plain: bool = False) -> Any:
    """Every block but the first one folded, the second to eighth as groups; the last three recent."""
    log = Log(text.encode())
    view = WorkingContext(999, GRID, (0, 0, 0)).grow(len(log) - 1)
    while view.tail >= GRID.block:
        view = view.seal(2)
    folds = [Fold(GRID.node(1, GRID.block * n)) for n in range(1, 10)]
    view = view.apply([*folds, Fold(Span(32, 64, 2))], 7)
    allocator = FocusAllocator(protect_first=1, recent_tokens=24)
    config = SimpleNamespace(expand_above=0.35)
    cache = SimpleNamespace(context=view, allocator=allocator, config=config, grid=GRID)
    return SimpleNamespace(log=log, text=Bytes(), cache=SimpleNamespace() if plain else cache)


def ledger() -> EditLedger:
    """Of the folds of `conversation`."""
    found = EditLedger()
    for start in range(8, 80, 8):
        found.emit(
            Collapse(tick=7, start=start, end=start + 8, from_level=0, to_level=1, score=start / 100, reason="budget")
        )
    found.emit(Collapse(tick=7, start=32, end=64, from_level=1, to_level=2, reason="budget"))
    return found


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("1024:1056", (1024, 1056)),
        ("1024-1056", (1024, 1056)),
        ("1024..1056", (1024, 1056)),
        ("[1024,1056)", (1024, 1056)),
        ("[    1,024,     1,056)", (1024, 1056)),
        ("LOD1[1024:1056]", (1024, 1056)),
        ("[24,056)", (24, 56)),
        ("7", (7, 8)),
        ("12,345", (12345, 12346)),
    ],
)
def test_a_part_can_be_written_as_it_is_shown_anywhere(asked: str, part: tuple[int, int]) -> None:
    assert parse_part(asked) == part


@pytest.mark.parametrize("asked", ["owl", "10:", "-5", "1:2:3", "0x10", "1.5", '"open', "[]"])
def test_what_is_no_part_is_answered_with_what_to_write(asked: str) -> None:
    with pytest.raises(ConfigError, match=r"names no part of history: write /why START:END or"):
        parse_part(asked)


def test_a_part_that_ends_before_it_begins_holds_nothing() -> None:
    with pytest.raises(ConfigError, match=r"'10:5' holds no token.*5:11"):
        parse_part("10:5")


def test_a_part_beyond_history_is_refused_and_one_across_its_end_cut() -> None:
    with pytest.raises(ConfigError, match=r"token 500 is not in history: it has tokens 0 to 116"):
        find(conversation(), "500")
    with pytest.raises(ConfigError, match="nothing has been said yet"):
        find(SimpleNamespace(log=Log(b"")), "0")  # type: ignore[arg-type]
    assert find(conversation(), "100:500") == (100, 117)


def test_words_name_the_newest_block_that_holds_them() -> None:
    assert find(conversation(), '"owl SLEEPS"') == (80, 88)
    assert find(conversation(), "'an '") == (96, 104)
    with pytest.raises(ConfigError, match=r"'raven' stands nowhere in the 117 tokens"):
        find(conversation(), '"raven"')


def test_words_are_found_where_two_pieces_of_the_search_meet() -> None:
    text = "x" * 2047 + "needle" + "y" * 2045
    for shift in range(8):
        found = find(conversation(text + "y" * shift), '"needle"')
        assert found.start <= 2047 < found.stop


def test_each_entry_of_a_part_has_its_reason_and_its_text() -> None:
    lines = why_lines(conversation(), ledger(), "0:48")
    assert lines == [
        'tokens [0, 48) of 117: "The owl sleeps. The owl sleeps. The owl"',
        "  LOD0[0:8]  exact: the beginning of history always is",
        '      "The owl"',
        "  LOD1[8:16]  folded away since tick 7: when the budget was full, score 0.08",
        '      "sleeps."',
        "  LOD1[16:24]  folded away since tick 7: when the budget was full, score 0.16",
        '      "The owl"',
        "  LOD1[24:32]  folded away since tick 7: when the budget was full, score 0.24",
        '      "sleeps."',
        "  LOD2[32:64]  folded away since tick 7: as a whole group of 4, when the budget was full",
        '      "The owl sleeps."',
        "  (a score above 0.35 deserves detail)",
    ]


def test_a_block_in_a_folded_group_tells_how_it_went() -> None:
    assert why_lines(conversation(), ledger(), "50")[2:] == [
        "      its block [48, 56): folded at tick 7, when the budget was full, score 0.48",
        "  (a score above 0.35 deserves detail)",
    ]
    empty = EditLedger(most=0)
    empty.emit(Collapse(tick=7, start=48, end=56, from_level=0, to_level=1))
    assert why_lines(conversation(), empty, "50")[2].startswith("      its block [48, 56): why is forgotten")


def test_the_newest_tokens_and_the_tail_are_exact() -> None:
    lines = why_lines(conversation(), ledger(), "96:117")
    assert lines[0].endswith(': "An ␛[31mOwl␛[0m wakes"')
    assert lines[1] == "  LOD0[96:104]  exact: among the newest 28 tokens"
    assert lines[-1] == "  tail  exact: the newest 5 tokens, until they fill a block of 8"


def test_a_long_part_is_cut_and_says_so() -> None:
    lines = why_lines(conversation("a" * 999), ledger(), "0:990")
    assert f"  and {124 - 3 - MOST_ENTRIES} more entries: ask for a shorter part" in lines


def test_a_plain_cache_folds_nothing() -> None:
    head, line = why_lines(conversation(plain=True), EditLedger(), '"wakes"')
    assert head.startswith("tokens [")
    assert line == "  SimpleNamespace keeps all of history exact in view: nothing is ever folded away"
