"""Edits within a sum of ticks, against a view that is a dictionary of levels."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megacontext.telemetry.events import Collapse, Event, Expand, Tick, Turn
from megacontext.telemetry.ticks import TRANSIENT_ROOM, Edits, TickSummary

BLOCK = 32


class ListSink:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None: ...


def net(edits: list[Expand | Collapse]) -> list[Expand | Collapse]:
    collected = Edits()
    for edit in edits:
        collected.add(edit)
    return collected.net()


def flip(block: int, level: int, *, tick: int = 0, reason: str = "text") -> Expand | Collapse:
    """Block number `block` goes to `level`, 0 or 1, from the other."""
    kind = Collapse if level else Expand
    start = block * BLOCK
    return kind(tick=tick, start=start, end=start + BLOCK, from_level=1 - level, to_level=level, reason=reason)


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 63))
def test_the_net_edits_lead_to_the_same_view(touched: list[int], before: int) -> None:
    was = {block: before >> block & 1 for block in range(6)}
    view, edits = dict(was), []
    for block in touched:
        view[block] = 1 - view[block]
        edits.append(flip(block, view[block]))
    followed = dict(was)
    for edit in net(edits):
        assert followed[edit.start // BLOCK] == edit.from_level
        followed[edit.start // BLOCK] = edit.to_level
    assert followed == view
    assert len(net(edits)) == sum(view[block] != was[block] for block in view)


def test_net_edits_stand_in_an_order_that_can_be_applied() -> None:
    group = {"tick": 0, "start": 0, "end": 1024}
    other = {"tick": 0, "start": 1024, "end": 2048}
    edits = [
        Expand(**group, from_level=2, to_level=1),
        flip(1, 0),
        flip(40, 1),
        Collapse(**other, from_level=1, to_level=2),
    ]
    levels = [(edit.type, edit.from_level, edit.to_level) for edit in net(edits)]
    assert levels == [("collapse", 0, 1), ("collapse", 1, 2), ("expand", 2, 1), ("expand", 1, 0)]


def test_blocks_that_came_and_went_are_named_in_the_tick() -> None:
    sink = ListSink()
    summary = TickSummary(sink)
    for i, edits in enumerate([[flip(3, 0), flip(7, 0)], [flip(3, 1)], []]):
        for event in [*edits, Tick(tick=i, reason="text", num_expand=len(edits))]:
            summary.emit(event)
    summary.close()
    edit, tick = sink.events
    assert (edit.type, edit.start) == ("expand", 7 * BLOCK)  # type: ignore[attr-defined]
    assert isinstance(tick, Tick)
    assert (tick.ticks, tick.num_expand, tick.transient) == (3, 3, [3 * BLOCK])


def test_a_prompts_end_is_never_summed_with_running_text() -> None:
    sink = ListSink()
    summary = TickSummary(sink)
    turn = Turn(turn=1, prompt_tokens=1, generated_tokens=1, history_tokens=2, stop="stop")
    for event in (
        flip(3, 0),
        Tick(tick=0, reason="text"),
        flip(3, 1, reason="prompt, forced by the budget"),
        Tick(tick=1, reason="prompt"),
        flip(3, 0),
        Tick(tick=2, reason="budget"),
        turn,
    ):
        summary.emit(event)
    assert [event.type for event in sink.events] == ["expand", "tick", "collapse", "tick", "expand", "tick", "turn"]


def test_a_sum_in_which_many_blocks_come_and_go_goes_out_before_it_is_full() -> None:
    sink, many = ListSink(), TRANSIENT_ROOM // len("1234,") + 1
    summary = TickSummary(sink)
    for tick in range(2):
        for block in range(many):
            summary.emit(flip(block, 1 - tick, tick=tick))
        summary.emit(Tick(tick=tick, reason="text", history_tokens=1234))
    (event,) = sink.events
    assert isinstance(event, Tick)
    assert event.ticks == 2
    assert event.transient == [block * BLOCK for block in range(many)]
