from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.plot_results import main, recall, usual_budget

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
OURS = {"cache": "megacontext", "task": "late_recall", "history_tokens": 6000}
BUDGETS = [
    {**OURS, "budget": 512, "accuracy": 0.2, "run": "d"},
    {**OURS, "budget": 1024, "accuracy": 0.9, "run": "e"},
    {**OURS, "budget": 1024, "accuracy": 0.1, "run": "f", "split": "dev"},
]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_rows_of_one_length_are_one_point() -> None:
    assert recall(RECALL, ["late_recall"], None) == {"full": [(6000, pytest.approx(0.5))]}


def test_recall_is_of_one_budget_and_of_the_test_split() -> None:
    assert usual_budget(BUDGETS, ["late_recall"]) == 1024
    assert recall([*BUDGETS, *RECALL], ["late_recall"], 512)["megacontext"] == [(6000, 0.2)]
    assert recall(BUDGETS, ["late_recall"], 1024)["megacontext"] == [(6000, 0.9)]


def test_a_picture_comes_out(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "results" / "picture.png"
    files = [write(tmp_path / "speed.jsonl", SPEED), write(tmp_path / "recall.jsonl", RECALL)]
    assert main([*files, "--out", str(out)]) == 0
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_nothing_to_draw_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([write(tmp_path / "rows.jsonl", RECALL[2:]), "--out", str(tmp_path / "x.png")]) == 2
    assert "no rows" in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([write(tmp_path / "rows.jsonl", SPEED), "--out", str(tmp_path / "x.png")]) == 3
    assert "pip install 'megacontext[plots]'" in capsys.readouterr().err


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere.jsonl"]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
