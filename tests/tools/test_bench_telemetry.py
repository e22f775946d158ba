"""The bench itself, small; its limits are for machines that are not busy with tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import bench_telemetry
from tools.bench_telemetry import CASES, bench, main, passed_limits


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_telemetry, "ROUNDS", 2)
    monkeypatch.setattr(bench_telemetry, "CYCLES", 3)


def test_every_case_and_every_type_of_line_is_measured_beside_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["events"].keys() == CASES.keys()
    assert found["lines"].keys() == {"tick", "expand", "collapse", "turn"}
    assert (found["limit_us"], found["limit_bytes"]) == (50, 1024)
    assert all(row["us_p95"] >= row["us_median"] > 0 for row in found["events"].values())


def test_no_line_is_longer_than_its_limit(tmp_path: Path) -> None:
    assert all(row["bytes_max"] <= 1024 for row in bench(tmp_path)["lines"].values())


def test_a_limit_that_is_passed_fails_a_check_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_telemetry, "LIMIT_BYTES", 10)
    assert main([]) == 0
    assert main(["--check"]) == 1
    assert "turn: bytes_max" in capsys.readouterr().err


def test_what_is_within_its_limits_passes() -> None:
    assert passed_limits({"events": {"x": {"us_p95": 50.0}}, "lines": {"x": {"bytes_max": 1024}}}) == []
