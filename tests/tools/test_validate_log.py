from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacontext.telemetry.events import Expand, RunEnd, RunStart
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
        (3, {"seq": 7}, ":3: seq: 7, line 3 must have 2"),
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
