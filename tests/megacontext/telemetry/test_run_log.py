"""One run's log, from run_start to run_end, whatever happens between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from event_sinks import BrokenSink, ListSink, full_tick, turn

from megacontext.config import DemoConfig, TelemetryConfig
from megacontext.config_loader import LoadedConfig
from megacontext.errors import ConfigError, StoreError
from megacontext.telemetry.events import Tick, Warning_
from megacontext.telemetry.run import LONGEST_TRACEBACK, RunLog, told
from megacontext.telemetry.schema import validate_line
from megacontext.telemetry.sinks import Sink

Opened = Callable[..., RunLog]


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def open_log(tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch) -> Opened:
    monkeypatch.delenv("MEGACONTEXT_ENABLE_WANDB", raising=False)
    telemetry = TelemetryConfig(log_dir=str(tmp_path / "logs"))
    loaded = LoadedConfig(DemoConfig(telemetry=telemetry), "tiny", tmp_path, tmp_path / "tiny.yaml")
    return lambda **more: RunLog.open("chat", loaded, telemetry, note=notes.append, **more)


def records(log: RunLog) -> list[dict]:
    return [validate_line(line) for line in log.path.read_bytes().splitlines()]


def never_told(error: Exception, log: Path | None) -> int:
    raise AssertionError(error)


def test_a_run_is_logged_from_start_to_end(open_log: Opened) -> None:
    log = open_log()

    def body(sink: Sink) -> int:
        sink.emit(Tick(tick=0))
        sink.emit(turn())
        sink.emit(Tick(tick=1))
        return 3

    assert log.run(body, never_told) == 3
    lines = records(log)
    assert [line["type"] for line in lines] == ["run_start", "tick", "turn", "tick", "run_end"]
    assert lines[0]["program"] == "chat"
    assert lines[0]["config"]["telemetry"]["log_dir"] == str(log.path.parent)
    assert lines[0]["versions"].keys() == {"python", "torch", "megacontext"}
    assert lines[-1]["exit_code"] == 3
    assert lines[-1]["totals"] == {"run_start": 1, "tick": 2, "turn": 1}


def test_an_exception_is_logged_then_told(open_log: Opened) -> None:
    log, heard = open_log(), []

    def tell(error: Exception, path: Path | None) -> int:
        heard.append((str(error), path))
        return 4

    assert log.run(lambda sink: 1 // 0, tell) == 4
    assert heard == [("integer division or modulo by zero", log.path)]
    _, error, end = records(log)
    assert (error["type"], error["kind"], end["exit_code"]) == ("error", "ZeroDivisionError", 4)
    assert "1 // 0" in error["traceback"]


def test_a_traceback_is_scrubbed_before_it_is_cut(open_log: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "canary" * 30
    monkeypatch.setenv("HF_TOKEN", secret)
    log = open_log()

    def body(sink: Sink) -> int:
        raise ValueError(secret + "x" * (LONGEST_TRACEBACK - len(secret) // 2))

    log.run(body, lambda error, path: 1)
    assert "canary" not in log.path.read_text().replace(Path(__file__).name, "")


def test_the_same_settings_have_the_same_fingerprint(open_log: Opened) -> None:
    first, second = (records(open_log())[0]["fingerprints"]["config"] for _ in range(2))
    assert first == second
    assert len(first) == 16


def test_an_interrupt_is_130_and_no_error(open_log: Opened) -> None:
    log = open_log()

    def body(sink: Sink) -> int:
        raise KeyboardInterrupt

    assert log.run(body, never_told) == 130
    assert [line["type"] for line in records(log)] == ["run_start", "run_end"]


def test_a_log_that_cannot_be_made_is_a_clear_error(open_log: Opened, tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(ConfigError, match="--log-dir"):
        open_log()


def test_extra_sinks_get_each_tick_and_a_broken_one_is_said(open_log: Opened, notes: list[str]) -> None:
    extra, broken = ListSink(), BrokenSink()
    log = open_log(extra=[broken, extra])

    def body(sink: Sink) -> int:
        for tick in range(3):
            sink.emit(Tick(tick=tick))
        return 0

    assert log.run(body, never_told) == 0
    assert [event.tick for event in extra.events if isinstance(event, Tick)] == [0, 1, 2]
    assert extra.closed
    assert [line["type"] for line in records(log)] == ["run_start", "tick", "warning", "tick", "run_end"]
    assert any("BrokenSink failed" in note for note in notes)


def test_texts_leave_without_secrets_for_every_sink(open_log: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-0123456789")
    extra = ListSink()
    log = open_log(extra=[extra])

    def body(sink: Sink) -> int:
        sink.emit(Warning_(message="sent canary-0123456789"))
        sink.emit(turn(name="canary-0123456789.txt", notes="with canary-0123456789"))
        raise StoreError("at canary-0123456789")

    log.run(body, lambda error, path: told(error, path)[0])
    assert "canary" not in log.path.read_text().replace("sent ***", "")
    assert "canary" not in repr(extra.events)


@pytest.mark.parametrize("word", ["", "0", "False", "no", " OFF "])
def test_wandb_off_is_off_without_a_word(
    open_log: Opened, notes: list[str], monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("MEGACONTEXT_ENABLE_WANDB", word)
    open_log().run(lambda sink: 0, never_told)
    assert notes == []


def test_a_switch_that_is_neither_yes_nor_no_is_said(
    open_log: Opened, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGACONTEXT_ENABLE_WANDB", "maybe")
    log = open_log()
    log.run(lambda sink: 0, never_told)
    assert notes == ["warning: MEGACONTEXT_ENABLE_WANDB=maybe is neither 1 nor 0: nothing is sent to W&B"]
    assert [line["type"] for line in records(log)] == ["run_start", "warning", "run_end"]


@pytest.mark.parametrize("word", ["1", "true", "YES", "On"])
def test_a_wandb_run_is_named_after_program_and_time(
    open_log: Opened, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    import megacontext.telemetry.wandb_sink as module

    made: dict = {}

    class Fake(ListSink):
        def __init__(self, **about: object) -> None:
            super().__init__()
            made.update(about, sink=self)

    monkeypatch.setattr(module, "WandbSink", Fake)
    monkeypatch.setenv("MEGACONTEXT_ENABLE_WANDB", word)
    log = open_log()
    log.run(lambda sink: sink.emit(full_tick()) or 0, never_told)
    assert made["name"] == "chat/" + log.path.stem.removeprefix("tiny-")
    assert (made["project"], made["entity"]) == ("megacontext-poc", None)
    assert made["config"] == records(log)[0]["config"]
    assert [event.type for event in made["sink"].events] == ["run_start", "tick", "run_end"]
    assert made["sink"].closed


def test_the_telemetry_loads_neither_torch_nor_wandb(tmp_path: Path) -> None:
    program = """
import json, sys
from pathlib import Path
from megacontext.config import DemoConfig, TelemetryConfig
from megacontext.config_loader import LoadedConfig
from megacontext.telemetry.run import RunLog
telemetry = TelemetryConfig(log_dir="logs")
log = RunLog.open("chat", LoadedConfig(DemoConfig(), "run", Path()), telemetry, note=print)
log.run(lambda sink: 0, None)
print(json.dumps([name for name in ("torch", "wandb", "rich") if name in sys.modules]))
"""
    root = Path(__file__).resolve().parents[3]
    environ = {name: value for name, value in os.environ.items() if name != "MEGACONTEXT_ENABLE_WANDB"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == [], done.stderr


def test_a_bug_names_the_log_and_a_users_error_its_code() -> None:
    assert told(StoreError("locked"), Path("x.log")) == (4, "locked")
    assert told(ValueError("odd"), Path("x.log")) == (1, "ValueError: odd\nThe log has the traceback: x.log")
    assert told(ValueError("odd"), None) == (1, "ValueError: odd")
