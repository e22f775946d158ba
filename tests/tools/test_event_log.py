from __future__ import annotations

import os
from pathlib import Path

import pytest

from megacontext.errors import ConfigError, MegaContextError
from megacontext.telemetry.events import Event, Expand, MemoryOpened, RunEnd, RunStart, Tick
from megacontext.telemetry.sinks import JsonlSink
from tools.event_log import conversations, event_of, newest, read_log

EVENTS = (
    RunStart(program="test", config={"memory": {"block": 4}}),
    Expand(tick=3, start=0, end=4, from_level=1, to_level=0, score=0.5, reason="text"),
    Tick(tick=3, history_tokens=9, lod_counts={0: 1, 1: 1}, latency_ms={"score": 0.25}, transient=[4]),
    RunEnd(exit_code=0, seconds=1.5),
)


def write(folder: Path, events: tuple[Event, ...] = EVENTS) -> Path:
    sink = JsonlSink(folder, "run")
    for event in events:
        sink.emit(event)
    sink.close()
    return sink.path


def test_the_events_come_back_as_they_were_emitted(tmp_path: Path) -> None:
    log = read_log(write(tmp_path))
    assert log.events == EVENTS
    assert (log.run, log.interrupted, log.torn, len(log.times)) == ("run", False, False, 4)
    assert log.of(Tick) == [EVENTS[2]]
    assert log.start == EVENTS[0]


def test_a_log_falls_into_its_conversations(tmp_path: Path) -> None:
    start, edit, tick, end = EVENTS
    one, other = (MemoryOpened(cache="megacontext", session=name) for name in ("one", "other"))
    whole = read_log(write(tmp_path, (start, one, edit, tick, other, tick, end)))
    found = conversations(whole)
    assert [log.events for log in found] == [(start, one, edit, tick, end), (start, other, tick, end)]
    assert [log.times[1] for log in found] == [whole.times[1], whole.times[4]]
    broken_off = conversations(read_log(write(tmp_path, (start, one, edit, other, tick))))
    assert [(log.events, log.interrupted) for log in broken_off] == [
        ((start, one, edit), True),
        ((start, other, tick), True),
    ]
    for events in (EVENTS, (start, one, tick, end)):
        (only,) = conversations(read_log(write(tmp_path, events)))
        assert only.events == events


def test_an_interrupted_run_is_known_by_its_last_line(tmp_path: Path) -> None:
    path = write(tmp_path, EVENTS[:3])
    assert read_log(path).interrupted
    path.write_bytes(path.read_bytes()[:-9])
    log = read_log(path)
    assert (log.events, log.torn, log.interrupted) == (EVENTS[:2], True, True)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", MegaContextError, "holds no event"),
        (b'{"v":1', MegaContextError, "holds no event"),
        (b"hello\n", MegaContextError, r":1: not a JSON object.*validate_log"),
        (None, ConfigError, "cannot be read"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, content: bytes | None, error: type[Exception], words: str) -> None:
    path = tmp_path / "some.log"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=words):
        read_log(path)


def test_a_log_without_its_beginning_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    with pytest.raises(MegaContextError, match="begins with run_start, this one with expand"):
        read_log(path)


def test_the_newest_log_comes_first(tmp_path: Path) -> None:
    for name, second in (("old", 1), ("new", 3), ("middle", 2)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (second, second))
    assert [path.name for path in newest(tmp_path.iterdir())] == ["new", "middle", "old"]


def test_counts_that_were_not_computed_are_none() -> None:
    assert event_of({"type": "tick", "tick": 3, "lod_counts": None}) == Tick(tick=3)
