from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest
from event_sinks import full_tick

from megacontext.errors import ConfigError
from megacontext.telemetry.console import ConsoleSink
from megacontext.telemetry.events import (
    EVENT_TYPES,
    Collapse,
    Event,
    Expand,
    RunEnd,
    RunStart,
    Tick,
    Turn,
    Warning_,
)
from megacontext.telemetry.metrics import METRICS, Metric, as_markdown
from megacontext.telemetry.schema import InvalidEvent, json_schema, validate_line
from megacontext.telemetry.scrub import scrub
from megacontext.telemetry.sinks import FanOut, JsonlSink, NullSink
from megacontext.telemetry.sums import summarise
from megacontext.telemetry.ticks import TickSummary


def written(sink: JsonlSink) -> list[dict]:
    sink.close()
    return [validate_line(line) for line in sink.path.read_bytes().splitlines()]


def test_events_get_a_gapless_envelope(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, "run")
    for event in (RunStart(program="test"), full_tick(), RunEnd(exit_code=0, seconds=1.0)):
        sink.emit(event)
    records = written(sink)
    assert [record["seq"] for record in records] == [0, 1, 2]
    assert [record["type"] for record in records] == ["run_start", "tick", "run_end"]
    assert {record["run"] for record in records} == {"run"}
    assert sink.counts == {"run_start": 1, "tick": 1, "run_end": 1}


def test_a_value_that_was_not_computed_is_absent(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, "run")
    sink.emit(Tick(tick=0, residency=float("nan"), latency_ms={"score": float("inf"), "plan": 1.0}))
    (record,) = written(sink)
    assert "residency" not in record
    assert "delta_nll" not in record
    assert record["latency_ms"] == {"plan": 1.0}


def test_the_file_is_named_by_run_and_time_is_private_and_never_shared(tmp_path: Path) -> None:
    sinks = [JsonlSink(tmp_path / "logs", "run") for _ in range(3)]
    assert len({sink.path for sink in sinks}) == 3
    for sink in sinks:
        sink.close()
        assert sink.path.match("run*-????????T??????Z.log")
        if os.name == "posix":
            assert stat.S_IMODE(sink.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("run", ["", "a/b", "..", "x" * 65, "a b"])
def test_an_unsafe_run_name_is_refused(tmp_path: Path, run: str) -> None:
    with pytest.raises(ConfigError, match="run name"):
        JsonlSink(tmp_path, run)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--log-dir"):
        JsonlSink(tmp_path / "file", "run")


def test_a_failing_disk_silences_the_sink_and_nothing_else(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, "run")
    os.close(sink._fd)
    sink.emit(full_tick())
    sink._fd = None
    assert sink.failure is not None
    sink.emit(full_tick())
    sink.close()


def test_an_event_after_closing_goes_nowhere(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, "run")
    sink.close()
    sink.close()
    sink.emit(full_tick())
    assert sink.path.read_bytes() == b""


def test_any_text_stays_one_line_of_utf8(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, "run")
    texts = ["a\nb", "\u2028", "é漢🙂", "\ud800", '"\\', "\x1b[31m"]
    for text in texts:
        sink.emit(Warning_(message=text))
    sink.close()
    lines = sink.path.read_bytes().decode("utf-8").split("\n")[:-1]
    assert [json.loads(line)["message"] for line in lines] == texts


def test_a_tick_costs_microseconds(tmp_path: Path) -> None:
    sink, best = JsonlSink(tmp_path, "run"), 1.0
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(50):
            sink.emit(full_tick())
        best = min(best, (time.perf_counter() - started) / 50)
    sink.close()
    assert best <= 50e-6


@pytest.mark.parametrize("rare", [{}, {"delta_nll": None, "delta_nll_baseline": None, "disk_bytes": None}])
def test_a_sum_with_every_figure_stays_below_a_kilobyte(tmp_path: Path, rare: dict[str, None]) -> None:
    sink = JsonlSink(tmp_path, "a_run_with_a_rather_long_name")
    summary, history = TickSummary(sink), 1_000_000
    for tick in range(200):  # in each, four blocks that came and went
        for start in range(history - 32 * tick, history - 32 * tick - 4 * 32, -32):
            summary.emit(Collapse(tick=tick, start=start, end=start + 32, from_level=0, to_level=1))
            summary.emit(Expand(tick=tick, start=start, end=start + 32, from_level=1, to_level=0))
        summary.emit(full_tick(100_000 + tick, history_tokens=history, **rare))
    summary.close()
    lines = sink.path.read_bytes().splitlines(keepends=True)
    assert max(map(len, lines)) <= 1024
    assert 32 > max(json.loads(line)["ticks"] for line in lines) > 1


def test_fan_out_tells_all_and_null_tells_none(capsys: pytest.CaptureFixture[str]) -> None:
    sink = FanOut([NullSink(), ConsoleSink(), ConsoleSink(types=["turn"])])
    sink.emit(Warning_(message="careful"))
    sink.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "[warning] message=careful\n"


# --- schema ---


def line(**changes: object) -> str:
    record = {"v": 1, "seq": 0, "time": "2025-01-31T12:00:00.123Z", "type": "expand", "run": "r"}
    record |= {"tick": 1, "start": 0, "end": 32, "from_level": 1, "to_level": 0}
    record |= changes
    return json.dumps({key: value for key, value in record.items() if value is not ...})


def test_a_good_line_is_accepted() -> None:
    assert validate_line(line())["end"] == 32


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (line(v=2), "v: 2"),
        (line(seq=-1), "negative"),
        (line(seq=True), "seq"),
        (line(seq=...), "seq: missing"),
        (line(time="yesterday"), "time"),
        (line(type="other"), "none of run_start"),
        (line(run="../x"), "run"),
        (line(tick="1"), "tick"),
        (line(tick=1.5), "tick"),
        (line(start=...), "start"),
        (line(extra=1), "extra"),
        ("[]", "not a JSON object"),
        ("{", "not a JSON object"),
        ('{"v": 1, "v": 1}', "twice"),
        ('{"v": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "not a JSON object"),
    ],
)
def test_a_bad_line_is_refused_with_its_reason(bad: str, reason: str) -> None:
    with pytest.raises(InvalidEvent, match=reason):
        validate_line(bad)


def test_the_json_schema_covers_every_type_with_its_envelope() -> None:
    schemas = {schema["title"]: schema for schema in json_schema()["oneOf"]}
    assert schemas.keys() == EVENT_TYPES.keys()
    for kind, cls in EVENT_TYPES.items():
        assert set(cls.__dataclass_fields__) < set(schemas[kind]["properties"])
        assert {"v", "seq", "time", "type", "run"} <= set(schemas[kind]["required"])
        assert schemas[kind]["additionalProperties"] is False


# --- metrics and ticks ---


@pytest.mark.parametrize("cls", [Tick, Turn])
def test_every_figure_of_an_event_stands_in_the_table(cls: type[Event]) -> None:
    others = {"type", "tick", "ticks", "reason", "latency_p95_ms", "turn", "stop", "name", "notes"}
    assert set(cls.__dataclass_fields__) - others <= METRICS.keys()


def test_bands_judge_values() -> None:
    judged = [METRICS["swap_rate"].judge(value) for value in (0.1, 0.4, 0.6)]
    assert judged == ["healthy", "tolerable", "investigate"]
    assert Metric("x", "", "").judge(3) == "unknown"
    assert METRICS["utilization"].judge(1.2) == "investigate"


def test_the_table_can_be_shown() -> None:
    assert as_markdown().count("\n") == len(METRICS) + 2


def test_a_sum_of_ticks_adds_counts_averages_shares_and_times() -> None:
    ticks = [
        Tick(tick=i, num_expand=1, residency=share, latency_ms={"total": float(i)}, history_tokens=100 + i)
        for i, share in enumerate([0.8, 1.0, 0.9, None])
    ]
    summed = summarise(ticks)
    assert (summed.tick, summed.ticks, summed.num_expand, summed.history_tokens) == (3, 4, 4, 103)
    assert summed.residency == pytest.approx(0.9)
    assert (summed.latency_ms, summed.latency_p95_ms) == ({"total": 1.5}, {"total": 3.0})
    assert summed.num_collapse is None


def test_ticks_go_out_in_sums_of_at_most_32(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, "run")
    summary = TickSummary(sink)
    for i in range(40):
        summary.add(Tick(tick=i, num_expand=1))
    summary.flush()
    summary.close()
    assert [(record["ticks"], record["num_expand"]) for record in written(sink)] == [(32, 32), (8, 8)]


def test_a_turn_brings_out_the_ticks_before_it_and_an_edit_does_not(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, "run")
    summary = TickSummary(sink)
    turn = Turn(turn=1, prompt_tokens=1, generated_tokens=1, history_tokens=2, stop="stop")
    edit = Expand(tick=0, start=0, end=32, from_level=1, to_level=0)
    for event in (Tick(tick=0), edit, Tick(tick=1), turn, Tick(tick=2, ticks=9), Tick(tick=3)):
        summary.emit(event)
    summary.close()
    records = written(sink)
    assert [record["type"] for record in records] == ["expand", "tick", "turn", "tick", "tick"]
    assert [record["ticks"] for record in records if record["type"] == "tick"] == [2, 9, 1]


# --- secrets ---


def test_secrets_are_hidden_by_name_and_by_value() -> None:
    config = {
        "hf_token": "abc",
        "chat": {"max_tokens": 12, "api_key": "k", "system": "say s3cret now"},
        "list": ["s3cret"],
    }
    assert scrub(config, {"HF_TOKEN": "s3cret"}) == {
        "hf_token": "***",
        "chat": {"max_tokens": 12, "api_key": "***", "system": "say *** now"},
        "list": ["***"],
    }
