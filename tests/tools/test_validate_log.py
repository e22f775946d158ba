from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacontext.telemetry.events import Collapse, Event, Expand, MemoryOpened, RunEnd, RunStart, Tick, Turn
from megacontext.telemetry.sinks import JsonlSink
from tools.validate_log import main


@pytest.fixture
def log(tmp_path: Path) -> Path:
    sink = JsonlSink(tmp_path, "run")
    sink.emit(RunStart(program="test"))
    for tick in range(3):
        sink.emit(Expand(tick=tick, start=0, end=32, from_level=1, to_level=0))
    sink.emit(RunEnd(exit_code=0, seconds=1.0))
    sink.close()
    return sink.path


def edit(log: Path, number: int, **changes: object) -> None:
    """Change fields of one line (from 1)."""
    lines = log.read_text().splitlines()
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | changes)
    log.write_text("\n".join(lines) + "\n")


def test_a_good_log_is_counted_by_type(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(log)]) == 0
    assert "valid; 5 events: 1 run_start, 3 expand, 1 run_end" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "changes", "reason"),
    [
        (3, {"seq": 7}, ":3: seq: 7, this line must have 2"),
        (2, {"start": "0"}, ":2: start"),
        (1, {"type": "run_end", "exit_code": 0, "seconds": 1}, ":1:"),
        (4, {"run": "other"}, ":4: run: 'other' in the log of 'run'"),
    ],
)
def test_a_bad_line_is_named(
    log: Path, capsys: pytest.CaptureFixture[str], number: int, changes: dict, reason: str
) -> None:
    edit(log, number, **changes)
    assert main([str(log)]) == 1
    assert reason in capsys.readouterr().err


def test_a_line_that_is_missing_is_told_once(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[:2], *lines[3:]]))
    assert main([str(log)]) == 1
    (problem,) = capsys.readouterr().err.splitlines()
    assert problem.endswith(":3: seq: 3, this line must have 2")


def test_an_interrupted_log_is_a_note_and_with_strict_an_error(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    assert main([str(log)]) == 0
    assert "interrupted" in capsys.readouterr().out
    assert main(["--strict", str(log)]) == 1


def test_a_torn_last_line_is_an_error(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_bytes(log.read_bytes()[:-20])
    assert main([str(log)]) == 1
    assert ":5: not a JSON object" in capsys.readouterr().err


def test_nothing_comes_after_the_end(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines, lines[1].replace('"seq":1', '"seq":5')]))
    assert main([str(log)]) == 1
    assert "expand after run_end" in capsys.readouterr().err


def test_an_empty_log_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.log").touch()
    assert main([str(tmp_path / "empty.log")]) == 1


def test_a_log_that_is_not_there_is_exit_2(log: Path) -> None:
    assert main([str(log), "nowhere.log"]) == 2


def test_the_schema_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].startswith("https://json-schema.org")


# --- what the schema cannot say ---

TICK = {
    "tick": 7,
    "working_budget": 1000,
    "active_slots": 500,
    "utilization": 0.5,
    "residency": 0.9,
    "latency_ms": {"score": 0.5, "forward": 1.5, "total": 2.0},
}


def write(folder: Path, *events: Event) -> Path:
    sink = JsonlSink(folder, "run")
    for event in (RunStart(program="test"), *events, RunEnd(exit_code=0, seconds=1.0)):
        sink.emit(event)
    sink.close()
    return sink.path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"latency_ms": {"score": 0.5, "forward": 1.5, "total": 2.1}}, "the parts add up to 2.0000, total is 2.1"),
        ({"latency_ms": {"score": -0.5, "forward": 2.5, "total": 2.0}}, "score is negative"),
        ({"utilization": 0.6}, "utilization: 0.6, active_slots / working_budget is 0.5000"),
        ({"residency": 1.01}, "residency: 1.01 is no share"),
        ({"residency": -0.1}, "residency: -0.1 is no share"),
        ({"swap_rate": -0.1}, "swap_rate: -0.1 is negative"),
        ({"active_slots": 1001, "utilization": 1.0}, "active_slots: 1001 of 1000"),
    ],
)
def test_figures_that_contradict_each_other_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, reason: str
) -> None:
    assert main([str(write(tmp_path, Tick(**TICK)))]) == 0
    assert main([str(write(tmp_path, Tick(**TICK | changes)))]) == 1
    assert reason in capsys.readouterr().err


def test_a_turns_parts_add_up_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = {"latency_ms": {"score": 1.0, "total": 2.0}}
    turn = Turn(turn=1, prompt_tokens=1, generated_tokens=1, history_tokens=2, stop="stop", **times)
    assert main([str(write(tmp_path, turn))]) == 1
    assert ":2: latency_ms: the parts add up to 1.0000" in capsys.readouterr().err


def test_a_sums_utilization_is_a_mean_and_its_slots_the_last(tmp_path: Path) -> None:
    assert main([str(write(tmp_path, Tick(**TICK | {"ticks": 8, "utilization": 0.4})))]) == 0


@pytest.mark.parametrize(
    ("ticks", "reason"),
    [
        ([(3, 1), (3, 1)], ":3: tick: 3 of 1 ticks, after tick 3"),
        ([(3, 1), (2, 1)], ":3: tick: 2 of 1 ticks, after tick 3"),
        ([(3, 1), (6, 4)], ":3: tick: 6 of 4 ticks, after tick 3"),
        ([(3, 1), (6, 3), (9, 1)], ""),
    ],
)
def test_ticks_are_counted_upwards_and_none_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ticks: list[tuple[int, int]], reason: str
) -> None:
    log = write(tmp_path, *(Tick(tick=tick, ticks=count) for tick, count in ticks))
    assert main([str(log)]) == int(bool(reason))
    assert reason in capsys.readouterr().err


def test_a_memory_that_is_opened_counts_from_the_beginning(tmp_path: Path) -> None:
    assert main([str(write(tmp_path, Tick(tick=5), MemoryOpened(cache="megacontext"), Tick(tick=0)))]) == 0


@pytest.mark.parametrize(
    "edit",
    [
        Expand(tick=0, start=0, end=32, from_level=0, to_level=1),
        Collapse(tick=0, start=0, end=32, from_level=1, to_level=0),
        Collapse(tick=0, start=0, end=32, from_level=1, to_level=1),
        Expand(tick=0, start=32, end=32, from_level=1, to_level=0),
    ],
)
def test_an_edit_that_is_none_is_named(tmp_path: Path, edit: Event) -> None:
    assert main([str(write(tmp_path, edit))]) == 1


def test_a_file_is_named_after_its_run(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamp = log.stem.partition("-")[2]
    second = log.rename(log.with_name(f"run.2-{stamp}.log"))
    assert main([str(second)]) == 0
    copy = second.rename(log.with_name("attached.log"))
    assert main([str(copy)]) == 0
    assert main([str(copy.rename(log.with_name(f"other-{stamp}.log")))]) == 1
    assert ":1: run: 'run' in a file named after 'other'" in capsys.readouterr().err
