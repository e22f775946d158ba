from __future__ import annotations

import tracemalloc

import pytest

from megacontext.context import Collapse as Fold
from megacontext.context import Expand as Opening
from megacontext.context import WorkingContext
from megacontext.edit_ledger import MOST_SPANS, EditLedger, Protected, explain
from megacontext.span import Grid, Span
from megacontext.telemetry.events import Collapse, Expand, MemoryOpened, Tick

GRID = Grid(8, 4)
ENDS = Protected(first_end=8, recent_start=72)


def fold(start: int, *, tick: int = 3, level: int = 1, score: float | None = None, reason: str = "budget") -> Collapse:
    end = start + GRID.width(level)
    return Collapse(tick=tick, start=start, end=end, from_level=level - 1, to_level=level, score=score, reason=reason)


def opening(start: int, *, tick: int = 5, score: float | None = None, reason: str = "prompt") -> Expand:
    return Expand(tick=tick, start=start, end=start + 8, from_level=1, to_level=0, score=score, reason=reason)


def context() -> WorkingContext:
    """Twelve blocks: the group [32, 64) folded at ticks 3 and 4, [8, 16) folded and opened again at tick 5."""
    view = WorkingContext(96, GRID, (0, 0, 0)).grow(100)
    for _ in range(12):
        view = view.seal(0)
    view = view.apply([Fold(Span(s, s + 8, 1)) for s in (8, 16, 32, 40, 48, 56)], 3)
    return view.apply([Fold(Span(32, 64, 2))], 4).apply([Opening(Span(8, 16, 1))], 5)


def filled() -> EditLedger:
    ledger = EditLedger()
    for edit in (fold(8), fold(16, score=0.21), fold(32, tick=4, level=2), opening(8, score=0.5)):
        ledger.emit(edit)
    return ledger


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (0, "exact: the beginning of history always is"),
        (8, "exact since tick 5: expanded when a prompt ended, score 0.50"),
        (16, "folded away since tick 3: when the budget was full, score 0.21"),
        (24, "exact since it was sealed, at tick 0: it never had to give way"),
        (32, "folded away since tick 4: as a whole group of 4, when the budget was full"),
        (72, "exact: among the newest 28 tokens"),
    ],
)
def test_the_reason_of_each_entry(place: int, words: str) -> None:
    view = context()
    assert explain(view.covering(place), view, ENDS, filled()) == words


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (fold(16, reason="text, forced by the budget"), "while text flowed (forced by the budget before its cooldown"),
        (fold(16, reason="rest"), "since tick 3: rest, nothing asked for it"),
        (fold(16), "when the budget was full, nothing asked for it"),
        (fold(16, tick=2), "nothing asked for it; its group was opened again at tick 3"),
    ],
)
def test_a_folds_occasion(edit: Collapse, words: str) -> None:
    ledger, view = EditLedger(), context()
    ledger.emit(edit)
    assert words in explain(view.covering(16), view, ENDS, ledger)


def test_a_block_of_a_prompts_newest_tokens_needs_no_score() -> None:
    ledger, view = EditLedger(), context()
    ledger.emit(opening(8))
    assert explain(view.covering(8), view, ENDS, ledger).endswith("when a prompt ended, as one of its newest tokens")


def test_the_last_edit_of_a_span_counts() -> None:
    ledger = EditLedger()
    for edit in (fold(8), opening(8), fold(8, tick=9)):
        ledger.emit(edit)
    ledger.emit(Tick(tick=9))
    assert ledger.last(Span(8, 16, 0)) == ledger.last(Span(8, 16, 1)) == fold(8, tick=9)
    assert len(ledger) == 1


def test_what_was_edited_longest_ago_is_forgotten_and_said_to_be() -> None:
    ledger, view = EditLedger(most=2), context()
    for edit in (fold(16), fold(8), fold(16), opening(8), fold(32, tick=4, level=2)):
        ledger.emit(edit)
    assert len(ledger) == 2
    assert ledger.forgotten == 3
    assert "why is forgotten (the last edits of 2 spans" in explain(view.covering(16), view, ENDS, ledger)
    assert "exact since tick 0: why is forgotten" in explain(view.covering(24), view, ENDS, ledger)
    assert "expanded" in explain(view.covering(8), view, ENDS, ledger)


def test_a_block_that_came_and_went_within_a_sum_has_not_stayed() -> None:
    ledger, view = filled(), context()
    ledger.emit(Tick(tick=31, ticks=32, transient=[8, 24]))
    assert explain(view.covering(24), view, ENDS, ledger).endswith("it gave way for moments, up to tick 31")
    assert explain(view.covering(8), view, ENDS, ledger).endswith("when a prompt ended, score 0.50")


def test_another_memory_is_another_story() -> None:
    ledger = EditLedger(most=1)
    for event in (fold(8), fold(16), MemoryOpened(cache="megacontext")):
        ledger.emit(event)
    assert (len(ledger), ledger.forgotten, ledger.last(Span(16, 24, 1))) == (0, -1, None)


@pytest.mark.parametrize("heard", [False, True], ids=["nothing was edited since", "it was heard of by a tick"])
def test_what_an_earlier_run_did_is_not_made_up(heard: bool) -> None:
    """The view of `context`, kept after tick 5 and taken up by a run that begins with tick 6."""
    ledger, view = EditLedger(), context()
    ledger.emit(MemoryOpened(cache="megacontext"))
    if heard:
        ledger.emit(Tick(tick=37, ticks=32))
    ledger.begin(6)
    elsewhere = "why stands in the log of an earlier run (this one began with tick 6)"
    assert explain(view.covering(8), view, ENDS, ledger) == f"exact since tick 5: {elsewhere}"
    assert explain(view.covering(24), view, ENDS, ledger) == f"exact since tick 0: {elsewhere}"
    assert explain(view.covering(16), view, ENDS, ledger) == f"folded away, and so in view since tick 3: {elsewhere}"
    assert explain(view.covering(0), view, ENDS, ledger) == "exact: the beginning of history always is"
    sealed = view.grow(4).seal(40)
    later = Protected(first_end=8, recent_start=sealed.history)
    assert explain(sealed.covering(96), sealed, later, ledger).startswith("exact since it was sealed, at tick 40")


def test_a_full_ledger_is_as_small_as_it_says() -> None:
    tracemalloc.start()
    ledger = EditLedger()
    for block in range(2 * MOST_SPANS):
        ledger.emit(fold(8 * (block + 10**6), tick=block + 10**6, score=block / 7))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(ledger) == MOST_SPANS
    assert used < 4e6


def test_edits_come_back_as_they_were_with_when_they_began() -> None:
    ledger, again = filled(), EditLedger()
    ledger.emit(opening(80, score=None, reason="text"))
    ledger.begin(0)
    again.restore(ledger.state())
    assert again.state()["began"] == 0
    for start in (8, 16, 80):
        assert again.last(Span(start, start + 8, 0)) == ledger.last(Span(start, start + 8, 0))
    assert again.last(Span(32, 64, 2)) == ledger.last(Span(32, 64, 2))
    assert len(again) == len(ledger)
    for change in (lambda: ledger.emit(fold(88)), lambda: ledger.keep_only([])):
        change()
        assert len(ledger.state()["numbers"]) == len(ledger)
    empty = EditLedger()
    empty.restore(EditLedger().state())
    assert (len(empty), empty.began) == (0, None)


def test_edits_of_what_is_no_entry_any_more_are_forgotten() -> None:
    ledger = filled()
    ledger.keep_only([Span(16, 24, 1), Span(88, 96, 0)])
    assert len(ledger) == 1
    assert ledger.last(Span(8, 16, 0)) is None


@pytest.mark.parametrize("place", [0, 8, 16, 24, 32, 72])
def test_after_a_restart_the_entries_in_view_have_the_reasons_they_had(place: int) -> None:
    view, kept, ledger = context(), filled(), EditLedger()
    kept.begin(0)
    kept.keep_only(view.entries)
    ledger.begin(6, kept)
    entry = view.covering(place)
    assert explain(entry, view, ENDS, ledger) == explain(entry, view, ENDS, filled())


def test_what_the_new_run_did_counts_more_than_what_was_kept() -> None:
    kept, ledger = filled(), EditLedger()
    ledger.emit(fold(8, tick=7, score=0.1))
    ledger.begin(6, kept)
    edit = ledger.last(Span(8, 16, 1))
    assert edit is not None
    assert edit.tick == 7


def test_edits_kept_from_a_later_tick_on_do_not_explain_what_was_before() -> None:
    view, kept, ledger = context(), EditLedger(), EditLedger()
    kept.begin(4)
    ledger.begin(6, kept)
    assert explain(view.covering(24), view, ENDS, ledger).endswith(
        "why stands in the log of an earlier run (this one began with tick 6)"
    )
