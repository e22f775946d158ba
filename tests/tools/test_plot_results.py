from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.plot_results import lines_of, main

SPEED = [
    {"cache": "megacontext", "history_tokens": 4096, "decode_ms_p50": 30.0, "trained_positions": 8192},
    {"cache": "megacontext", "history_tokens": 131072, "decode_ms_p50": 31.0, "trained_positions": 8192},
    {"cache": "full", "history_tokens": 4096, "decode_ms_p50": 45.0, "trained_positions": 8192},
    {"cache": "full", "history_tokens": 131072, "decode_ms_p50": None, "trained_positions": 8192},
]
RECALL = [
    {"cache": "full", "task": "late_recall", "history_tokens": 5998, "accuracy": 0.4, "run": "a"},
    {"cache": "full", "task": "late_recall", "history_tokens": 6003, "accuracy": 0.6, "run": "b"},
    {"cache": "full", "task": "chat_recall", "history_tokens": 6003, "accuracy": 0.1, "run": "c"},
]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_points_stand_in_order_and_what_was_not_measured_is_left_out() -> None:
    found = lines_of(SPEED[::-1], "decode_ms_p50")
    assert found == {"megacontext": [(4100, 30.0), (130000, 31.0)], "full": [(4100, 45.0)]}


def test_rows_of_one_length_are_one_point() -> None:
    assert lines_of(RECALL, "accuracy", ["late_recall"]) == {"full": [(6000, pytest.approx(0.5))]}


def test_a_picture_comes_out(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "results" / "picture.png"
    files = [write(tmp_path / "speed.jsonl", SPEED), write(tmp_path / "recall.jsonl", RECALL)]
    assert main([*files, "--out", str(out)]) == 0
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_nothing_to_draw_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([write(tmp_path / "rows.jsonl", RECALL[2:]), "--out", str(tmp_path / "x.png")]) == 2
    assert "nothing" not in (tmp_path / "rows.jsonl").read_text()
    assert "no rows" in capsys.readouterr().err


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere.jsonl"]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
