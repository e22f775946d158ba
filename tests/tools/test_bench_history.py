from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "megacontext" / "evaluation"))

from toy_home import write_home  # noqa: E402

from tools.bench_history import main  # noqa: E402

KEYS = [
    *("history_tokens", "cache", "decode_ms_p50", "decode_ms_p95", "prefill_tokens_per_s", "resident_bytes"),
    *("max_position", "tick_ms_p50", "tick_share", "texts", "trained_positions"),
]
CONFIG = "configs/demo.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_home(tmp_path, monkeypatch, trained=256)


def rows_of(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[list[dict], str]:
    assert main(["--config", CONFIG, "--tokens", "8", "--json", *flags]) == 0
    said = capsys.readouterr()
    return [json.loads(line) for line in said.out.splitlines()], said.err


def test_a_row_for_each_length_and_the_ratio_at_the_end(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, said = rows_of(capsys, "--history", "1500,150,600")
    assert [row["history_tokens"] for row in rows] == [150, 600, 1500]
    assert all(set(KEYS) <= set(row) for row in rows)
    assert all(row["cache"] == "megacontext" and row["decode_ms_p50"] > 0 for row in rows)
    assert rows[0]["resident_bytes"] < rows[2]["resident_bytes"]
    assert "p50 at 1,500 / p50 at 150 = " in said.splitlines()[-1]


def test_ours_never_uses_a_position_past_the_trained_length(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = rows_of(capsys, "--history", "150,2000")
    assert 96 <= max(row["max_position"] for row in rows) < 256
    assert all(row["slots"] <= 96 for row in rows)


def test_a_plain_cache_past_the_trained_length_is_a_row_that_says_why(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _ = rows_of(capsys, "--history", "150,400", "--cache", "full")
    assert rows[0]["max_position"] == 150 + 8 - 1
    assert rows[0]["tick_ms_p50"] is None
    assert rows[1]["decode_ms_p50"] is None
    assert "408 positions, the model was trained on 256" in rows[1]["note"]


def test_a_plain_cache_can_be_timed_past_it_on_request(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = rows_of(capsys, "--history", "400", "--cache", "full", "--cache", "recency", "--past-trained")
    assert [row["cache"] for row in rows] == ["full", "recency"]
    assert rows[0]["max_position"] == 407


def test_decoding_happens_on_a_copy(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from megacontext.config import DemoConfig
    from megacontext.evaluation import model
    from megacontext.evaluation.corpus import load_corpus
    from megacontext.evaluation.speed.history import Bench

    loaded = model.load_model(None)
    bench = Bench.open("full", loaded, load_corpus(home / "corpus" / "sample.txt"), DemoConfig(), 8, home)
    bench.row(100)
    assert bench.cache.length == 100


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--history", "0"], "a length is a whole number"),
        (["--history", "4k"], "4k"),
        (["--cache", "oracle"], "no cache 'oracle'"),
        (["--cahce", "full"], "Did you mean --cache?"),
    ],
)
def test_wrong_usage_exits_with_two(
    home: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(["--config", CONFIG, *flags]) == 2
    assert words in capsys.readouterr().err


def test_without_json_there_is_a_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", CONFIG, "--history", "100", "--tokens", "4"]) == 0
    assert "ms/token" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom tools.bench_history import main\n"
        "code = main(['--help'])\nsys.exit(code or any(name in sys.modules for name in ('torch', 'pydantic', 'rich')))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
