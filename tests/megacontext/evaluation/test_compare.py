from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy_home import write_home

from megacontext.evaluation.compare import main

CONFIG = "configs/compare/quick.yaml"
KEYS = ["cache", "task", "model", "seeds", "history_tokens", "slots", "accuracy", "nll", "delta_nll"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_home(tmp_path, monkeypatch)


def rows_of(capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict]:
    assert main(["--config", CONFIG, "--json", *flags]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_row_for_each_cache_and_task(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys)
    assert [(row["task"], row["cache"]) for row in rows] == [
        ("late_recall", "full"),
        ("late_recall", "recency"),
        ("late_recall", "oracle"),
        ("plain_text", "full"),
        ("plain_text", "recency"),
    ]
    assert all(set(KEYS) <= set(row) for row in rows)
    assert all(row["slots"] <= 96 for row in rows if row["cache"] != "full")
    assert all(list(row["texts"]) == ["sample.txt"] and len(row["texts"]["sample.txt"]) == 64 for row in rows)


def test_the_difference_is_counted_from_full_on_the_same_seeds(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, recency, *_ = rows_of(capsys, "--task", "late_recall")
    assert full["delta_nll"] == 0
    assert recency["delta_nll"] == pytest.approx(recency["nll"] - full["nll"], abs=1e-4)
    seeds = [[one["seed"] for one in row["per_seed"]] for row in (full, recency)]
    assert seeds == [[0, 1], [0, 1]]
    assert recency["accuracy"] == pytest.approx(sum(one["accuracy"] for one in recency["per_seed"]) / 2)


def test_what_a_task_cannot_say_is_null(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [row] = rows_of(capsys, "--task", "plain_text", "--cache", "recency")
    assert row["accuracy"] is None
    assert row["delta_nll"] is None
    assert row["tokens"] == 1024


def test_the_missing_oracle_of_plain_text_is_explained(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", CONFIG, "--task", "plain_text", "--cache", "oracle", "--json"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "plain_text: no row for oracle" in said.err


def test_flags_choose_tasks_caches_seeds_and_settings(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--task", "late_recall", "--cache", "lexical", "--seeds", "1", "--set", "memory.budget=80"]
    [row] = rows_of(capsys, *flags)
    assert (row["cache"], row["seeds"]) == ("lexical", 1)
    assert 40 < row["slots"] <= 80


def test_own_texts_replace_the_corpus(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "mine.txt").write_text("once upon a time " * 200, encoding="utf-8")
    [row] = rows_of(capsys, "--text", "mine.txt", "--task", "late_recall", "--cache", "full", "--seeds", "1")
    assert list(row["texts"]) == ["mine.txt"]


def test_finished_rows_are_kept_when_a_run_goes_on(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = rows_of(capsys, "--task", "late_recall", "--cache", "recency", "--out", "rows.jsonl")
    with (home / "rows.jsonl").open("a") as file:
        file.write('{"torn')
    again = rows_of(capsys, "--task", "late_recall", "--out", "rows.jsonl", "--resume")
    assert [row["cache"] for row in again] == ["full", "recency", "oracle"]
    assert again[1]["seconds"] == first[0]["seconds"]
    assert again[1]["delta_nll"] is not None
    assert first[0]["delta_nll"] is None
    kept = [json.loads(line) for line in (home / "rows.jsonl").read_text().splitlines()]
    assert [row["cache"] for row in kept] == ["recency", "full", "recency", "oracle"]


def test_a_changed_setting_makes_another_row(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--task", "late_recall", "--seeds", "1", "--out", "rows.jsonl"]
    before = rows_of(capsys, *flags, "--cache", "megacontext", "--cache", "full")
    after = rows_of(
        capsys, *flags, "--cache", "megacontext", "--cache", "full", "--resume", "--set", "memory.far_blocks=2"
    )
    assert before[0]["run"] == after[0]["run"]  # the plain cache has no such setting
    assert before[1]["run"] != after[1]["run"]


def test_rows_that_are_there_are_not_overwritten(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "rows.jsonl").write_text("{}\n")
    assert main(["--config", CONFIG, "--out", "rows.jsonl"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_without_json_there_is_a_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", CONFIG, "--task", "late_recall", "--seeds", "1"]) == 0
    said = capsys.readouterr()
    assert "late_recall" in said.out
    assert "accuracy" in said.out
    assert "seed 0" in said.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "late_recal"], "Did you mean late_recall?"),
        (["--cache", "recensy"], "Did you mean recency?"),
        (["--taks", "late_recall"], "Did you mean --task?"),
        (["--seeds", "0"], "at least 1"),
        (["--set", "memory.bugdet=3"], "memory.budget"),
        (["--set", "chat.temperature=1"], "model or memory"),
        (["--text", "nowhere.txt"], "nowhere.txt"),
        (["--resume"], "--out"),
    ],
)
def test_wrong_usage_exits_with_two(
    home: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(["--config", CONFIG, *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_wrong_task_in_the_file_is_told_with_its_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / CONFIG
    path.write_text(path.read_text().replace("name: plain_text", "name: plane_text"))
    assert main(["--config", CONFIG]) == 2
    said = capsys.readouterr().err
    assert "quick.yaml:6" in said
    assert "Did you mean plain_text?" in said


def test_a_missing_corpus_exits_with_three_and_names_the_command(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "corpus" / "sample.txt").unlink()
    assert main(["--config", CONFIG]) == 3
    assert "python tools/bootstrap_env.py" in capsys.readouterr().err


def test_a_budget_that_cannot_hold_the_ends_exits_with_five(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", CONFIG, "--cache", "megacontext", "--set", "memory.budget=40"]) == 5
    assert "memory.budget" in capsys.readouterr().err


def test_help_does_not_load_torch() -> None:
    program = (
        "import sys\nfrom megacontext.evaluation.compare import main\n"
        "code = main(['--help'])\nsys.exit(code or 'torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "late_recall_long" in done.stdout
