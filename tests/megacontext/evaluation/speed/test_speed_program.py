"""The program as it is called: rows, ratios, who is left out and why."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_home import write_home

from megacontext.evaluation.speed.__main__ import main
from megacontext.evaluation.speed.contenders import Ours

HERE = Path(__file__).resolve()
ROOT = HERE.parents[4]
SMALL = ["--config", "configs/demo.yaml", "--rounds", "2", "--tokens", "3", "--prompt", "4"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_home(tmp_path, monkeypatch, trained=256)


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[list[dict], str]:
    assert main([*SMALL, "--json", *flags]) == 0
    said = capsys.readouterr()
    return [json.loads(text) for text in said.out.splitlines()], said.err


def read_slowly(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The memory of that name takes two seconds for whatever it reads."""
    read = Ours.read

    def slowly(self: Ours, tokens: list[int]) -> None:
        read(self, tokens)
        time.sleep(2.0 if self.name == name else 0)

    monkeypatch.setattr(Ours, "read", slowly)


def test_each_length_has_the_limit_a_row_for_each_memory_and_the_ratios(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, said = run(capsys, "--cache", "full", "--cache", "megacontext", "--history", "200,64")
    assert [row["history_tokens"] for row in rows] == [64] * 8 + [200] * 8
    beside = ["plain@slots", "megacontext@answer", "plain@answer"]
    assert [row.get("cache", "ratio") for row in rows[8:]] == [
        "weights",
        "full",
        "megacontext",
        *beside,
        *2 * ["ratio"],
    ]
    full, mine, same, answer, same_answer, overhead, in_answer = rows[9:]
    assert answer["slots"] == same_answer["slots"]
    assert all(row["decode_ms_p50"] > 0 and row["slots"] > 0 for row in (full, mine, same, answer, same_answer))
    assert all(row["prefill_tokens_per_s"] > 0 and row["ttft_ms"] > 0 for row in (full, mine))
    assert (full["slots"], same["ttft_ms"], full["rounds"]) == (200, None, 2)
    assert mine["slots"] <= 96
    for ratio in (overhead, in_answer):
        assert ratio["reach"] == "<= 1.05"
        assert ratio["quartiles"][0] <= ratio["value"] <= ratio["quartiles"][1]
    assert "the same slots" in said


def test_baselines_take_part_by_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = run(capsys, "--cache", "streaming_llm", "--cache", "recency", "--history", "150")
    assert [row["cache"] for row in rows] == ["weights", "streaming_llm", "recency"]


def test_past_the_trained_length_the_row_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = run(capsys, "--cache", "full", "--cache", "megacontext", "--history", "300")
    notes = {row["cache"]: row["note"] for row in rows if "note" in row}
    assert notes.pop("full") == "beyond the trained length"
    assert set(notes.values()) == {None}


def test_a_history_that_was_filled_in_is_said_in_the_row(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = run(capsys, "--cache", "full", "--cache", "megacontext", "--history", "5000", "--read-all", "512")
    full = rows[1]
    assert full["slots"] == 5000
    assert "filled in from 1,024 real rows" in full["note"]
    assert full["prefill_tokens_per_s"] > 0
    assert rows[2]["note"] is None


def test_who_would_take_too_long_is_left_out_with_a_row_that_says_so(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_slowly(monkeypatch, "recency")
    rows, _ = run(capsys, "--cache", "full", "--cache", "recency", "--history", "64,2000", "--patience", "20")
    left = rows[-1]
    assert (left["cache"], left["decode_ms_p50"]) == ("recency", None)
    assert left["note"].startswith("left out: reading takes about ")
    assert rows[-2]["decode_ms_p50"] > 0


def test_who_stands_beside_a_memory_is_left_out_with_it(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_slowly(monkeypatch, "megacontext")
    flags = ["--cache", "full", "--cache", "megacontext", "--history", "64,2000", "--patience", "20"]
    rows, _ = run(capsys, *flags)
    left = {row["cache"]: row["note"] for row in rows[-4:] if row["decode_ms_p50"] is None}
    assert left.pop("megacontext").startswith("left out: reading takes about ")
    assert left == {
        "plain@slots": "left out with megacontext",
        "megacontext@answer": "left out with megacontext",
        "plain@answer": "left out with megacontext@answer",
    }


def test_a_model_that_transformers_has_no_like_of_is_compared_without_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, said = run(capsys, "--cache", "full", "--cache", "transformers", "--history", "64")
    assert [row["cache"] for row in rows] == ["weights", "full"]
    assert "transformers  left out" in said


def test_a_llama_is_compared_with_transformers(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    sys.path.insert(0, str(HERE.parents[2] / "models"))
    from llama_files import reference, write_folder

    from megacontext.config import ModelConfig
    from megacontext.evaluation import model
    from megacontext.models import load_model

    folder = write_folder(tmp_path / "llama", reference())
    monkeypatch.setattr(model, "load_model", lambda config: load_model(ModelConfig(path=str(folder), dtype="float32")))
    rows, _ = run(capsys, "--cache", "full", "--cache", "megacontext", "--cache", "transformers", "--history", "100")
    theirs = next(row for row in rows if row.get("cache") == "transformers")
    assert theirs["slots"] == 100
    assert theirs["ttft_ms"] > 0
    assert len([row for row in rows if "ratio" in row]) == 4


def test_the_processors_time_is_counted_on_one_thread(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        rows, _ = run(capsys, "--cache", "full", "--history", "64", "--clock", "cpu")
    finally:
        torch.set_num_threads(before)
    assert {(row["clock"], row["threads"]) for row in rows} == {("cpu", 1)}
    assert rows[1]["decode_ms_p50"] > 0


def test_without_json_there_is_a_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--cache", "full", "--history", "64"]) == 0
    assert "ms/token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--history", "4"], "from 16 on"), (["--cache", "ful"], "no cache 'ful'"), (["--cahce", "x"], "--cache?")],
)
def test_wrong_usage_exits_with_two(
    home: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main([*SMALL, *flags]) == 2
    assert words in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom megacontext.evaluation.speed.__main__ import main\n"
        "code = main(['--help'])\nsys.exit(code or any(name in sys.modules for name in ('torch', 'pydantic', 'rich')))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
