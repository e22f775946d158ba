"""Sinks in trouble: broken neighbours, threads, interrupts, values that are no JSON; and what the terminal shows."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest
from event_sinks import BrokenSink, ListSink, full_tick, turn

from megacontext.telemetry.console import ConsoleSink, line_of
from megacontext.telemetry.events import ModelLoaded, Tick, Warning_
from megacontext.telemetry.schema import validate_line
from megacontext.telemetry.sinks import FanOut, JsonlSink, Telling
from megacontext.telemetry.ticks import TickSummary


def records(sink: JsonlSink) -> list[dict]:
    sink.close()
    return [validate_line(line) for line in sink.path.read_bytes().splitlines()]


def test_a_warning_on_its_way_to_the_log_is_told_and_nothing_else_is() -> None:
    log = ListSink()
    lines: list[str] = []
    telling = Telling(log, lines.append)
    events = [Tick(tick=0), Warning_(message="no view", hint="turn it off"), turn(), Warning_(message="torn")]
    for event in events:
        telling.emit(event)
    telling.close()
    assert lines == ["warning: no view: turn it off", "warning: torn"]
    assert (log.events, log.closed) == (events, True)


def test_a_broken_sink_silences_itself_alone_and_the_others_are_told() -> None:
    first, broken, last = ListSink(), BrokenSink(), ListSink()
    fan = FanOut([first, broken, last])
    for tick in range(3):
        fan.emit(Tick(tick=tick))
    fan.close()
    for sink in (first, last):
        assert [event.tick for event in sink.events if isinstance(event, Tick)] == [0, 1, 2]
        assert [event.message for event in sink.events if isinstance(event, Warning_)] == [
            "BrokenSink failed (RuntimeError: broken)"
        ]
        assert sink.closed
    assert len(broken.events) == 1
    assert broken.closed
    assert fan.failures.keys() == {"BrokenSink"}


def test_closing_reaches_every_sink_even_if_one_raises() -> None:
    broken, last = BrokenSink(), ListSink()
    fan = FanOut([broken, last])
    fan.close()
    assert last.closed
    assert str(fan.failures["BrokenSink"]) == "broken"


def test_threads_share_a_chain_without_losing_or_mixing_lines(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, "run")
    chain = TickSummary(FanOut([sink]))

    def work() -> None:
        for index in range(200):
            chain.emit(Tick(tick=index, num_expand=1))
            if index % 10 == 0:
                chain.emit(Warning_(message="x" * 300))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain.close()
    lines = records(sink)
    assert [line["seq"] for line in lines] == list(range(len(lines)))
    assert sum(line["ticks"] for line in lines if line["type"] == "tick") == 800
    assert sum(line["type"] == "warning" for line in lines) == 80


@pytest.mark.parametrize("taken", [0, 7, None], ids=["before", "within", "after"])
def test_an_interrupt_while_writing_tears_no_line_and_no_numbering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int | None
) -> None:
    sink, write = JsonlSink(tmp_path, "run"), os.write

    def interrupted(fd: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", write)
        write(fd, data[:taken])
        raise KeyboardInterrupt

    sink.emit(Tick(tick=0))
    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sink.emit(Tick(tick=1))
    sink.emit(Tick(tick=2))
    lines = records(sink)
    assert [(line["seq"], line["tick"]) for line in lines] == [(0, 0), (1, 1), (2, 2)]


def test_closing_finishes_a_line_that_an_interrupt_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, write = JsonlSink(tmp_path, "run"), os.write

    def interrupted(fd: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", write)
        write(fd, data[:9])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sink.emit(Tick(tick=1))
    assert [line["tick"] for line in records(sink)] == [1]


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, write = JsonlSink(tmp_path, "run"), os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
    sink.emit(full_tick())
    monkeypatch.undo()
    assert records(sink)[0]["tick"] == 9


def test_an_event_that_is_no_json_leaves_a_warning_in_its_place(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, "run")
    sink.emit(ModelLoaded(name="m", fingerprint="f", load_ms=1.0, summary={(1, 2): 3}))  # type: ignore[dict-item]
    sink.emit(Tick(tick=0))
    warning, tick = records(sink)
    assert "model_loaded cannot be written" in warning["message"]
    assert tick["seq"] == 1


# --- the terminal ---


def test_a_tick_is_told_as_one_reads_it() -> None:
    assert line_of(full_tick(9, ticks=32)) == (
        "[tick] 9 (32 ticks) text, 1020/1024 slots, use 1.00, swap 0.03, residency 0.97, edits +2 -3, "
        "LOD0:30 LOD1:4096 LOD2:96, 15.8 ms = score 0.2 + plan 0.1 + page 0.3 + assemble 0.2 + forward 15.0, "
        "ΔNLL +0.021 against exact"
    )
    assert line_of(Tick(tick=3)) == "[tick] 3"


def test_nothing_on_the_console_steers_the_terminal_or_breaks_its_line() -> None:
    line = line_of(turn(name="a\x1b[31m\r\nb"))
    assert "\x1b" not in line
    assert "\n" not in line


def test_long_values_are_cut_on_the_console() -> None:
    assert len(line_of(Warning_(message="x" * 500))) < 100


def test_a_terminal_that_is_gone_is_left_alone() -> None:
    stream = io.StringIO()
    sink = ConsoleSink(stream)
    stream.close()
    sink.emit(Tick(tick=0))
    sink.emit(Tick(tick=1))
    sink.close()
