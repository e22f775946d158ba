"""A comparison that is cut off goes on where it was: in this process, and with real processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_home import DEMO, write_home

from megacontext.evaluation.compare import main
from megacontext.evaluation.comparison.code import code_hash
from megacontext.evaluation.comparison.matrix import Work
from megacontext.evaluation.comparison.runner import Runner

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tests" / "nanochat" / "chat"))

from tests_chat import write_tiny_gguf  # noqa: E402

CONFIG = "configs/compare/quick.yaml"
FLAGS = ["--config", CONFIG, "--task", "late_recall", "--out", "rows.jsonl"]
TIMES = ("seconds", "cpu_seconds", "jobs", "code")


def timeless(row: dict) -> dict:
    """A row without what differs from run to run."""
    episodes = [{key: value for key, value in one.items() if key not in TIMES} for one in row["per_seed"]]
    return {**{key: value for key, value in row.items() if key not in (*TIMES, "threads")}, "per_seed": episodes}


def kept(path: Path) -> dict[str, dict]:
    """The last line of each row, whatever was torn."""
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(text)
        except ValueError:
            continue
        found[row["run"]] = timeless(row)
    return found


def episodes_in(path: Path) -> int:
    return sum(row["seeds"] for row in kept(path).values()) if path.exists() else 0


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """Ctrl-C when `count` episodes have run. Returns what has been run, as it grows."""
    ran: list[Work] = []
    whole = Runner.episode

    def episode(self: Runner, work: Work) -> dict:
        if len(ran) == count:
            raise KeyboardInterrupt
        ran.append(work)
        return whole(self, work)

    monkeypatch.setattr(Runner, "episode", episode)
    return ran


def test_an_interrupted_comparison_shows_what_it_has_and_goes_on_at_the_next_episode(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(5, patch)
        assert main([*FLAGS, "--json"]) == 130
    said = capsys.readouterr()
    assert [json.loads(line)["seeds"] for line in said.out.splitlines()] == [2, 1, 1, 1]
    with monkeypatch.context() as patch:
        ran = interrupt_after(99, patch)
        assert main([*FLAGS, "--resume"]) == 0
    assert [(work.seed, work.cell.cache) for work in ran] == [(1, "oracle"), (1, "random"), (1, "recency")]
    assert "5 of 8 episodes kept" in capsys.readouterr().err
    assert main([*FLAGS[:-1], "whole.jsonl"]) == 0
    assert kept(home / "rows.jsonl") == kept(home / "whole.jsonl")


def test_a_torn_line_costs_one_episode(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FLAGS, "--cache", "recency", "--no-controls"]) == 0
    text = (home / "rows.jsonl").read_text(encoding="utf-8")
    (home / "rows.jsonl").write_text(text[:-20], encoding="utf-8")
    assert main([*FLAGS, "--cache", "recency", "--no-controls", "--resume"]) == 0
    assert "1 of 2 episodes kept" in capsys.readouterr().err
    assert kept(home / "rows.jsonl") == {run: timeless(row) for run, row in kept(home / "rows.jsonl").items()}
    assert episodes_in(home / "rows.jsonl") == 2


def test_a_changed_setting_makes_another_row(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*FLAGS, "--seeds", "1", "--no-controls", "--cache", "megacontext", "--cache", "full", "--json"]
    assert main(flags) == 0
    before = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main([*flags, "--resume", "--set", "memory.far_blocks=2"]) == 0
    after = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert before[0]["run"] == after[0]["run"]  # the plain cache has no such setting
    assert before[1]["run"] != after[1]["run"]
    assert len(kept(home / "rows.jsonl")) == 3


def test_rows_that_are_there_are_not_overwritten(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "rows.jsonl").write_text("{}\n")
    assert main(FLAGS) == 2
    assert "--resume" in capsys.readouterr().err


def test_more_seeds_go_on_from_fewer(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*FLAGS, "--cache", "recency", "--no-controls"]
    assert main([*flags, "--seeds", "1"]) == 0
    assert main([*flags, "--seeds", "3", "--resume"]) == 0
    assert "1 of 3 episodes kept" in capsys.readouterr().err
    [row] = kept(home / "rows.jsonl").values()
    assert row["seeds"] == 3


def test_episodes_of_other_code_are_kept_and_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*FLAGS, "--cache", "recency", "--no-controls"]
    assert main([*flags, "--seeds", "1"]) == 0
    [row] = [json.loads(line) for line in (home / "rows.jsonl").read_text().splitlines()]
    row["per_seed"][0]["code"] = "another"
    (home / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert main([*flags, "--resume"]) == 0
    assert "1 of 2 episodes kept, 1 of them measured with other code" in capsys.readouterr().err


def test_any_edit_of_the_code_is_noticed(tmp_path: Path) -> None:
    for package in ("megacontext/tree", "nanochat"):
        (tmp_path / package).mkdir(parents=True)
    file = tmp_path / "megacontext" / "tree" / "one.py"
    hashes = []
    for data in (b"a = 1\n", b"a = 1\r\n", b"a = 2\n"):
        file.write_bytes(data)
        hashes.append(code_hash(tmp_path))
    file.rename(tmp_path / "nanochat" / "one.py")
    assert hashes[0] == hashes[1]
    assert len({*hashes, code_hash(tmp_path)}) == 3


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "megacontext.evaluation.compare", *FLAGS, *flags]


def write_real_home(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tiny model in a real file, since processes of their own know nothing of what is patched here."""
    write_home(path, monkeypatch)
    write_tiny_gguf(path / "tiny.gguf")
    (path / "configs" / "demo.yaml").write_text(DEMO.replace("nowhere.gguf", "tiny.gguf"), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_two_processes_that_are_killed_lose_an_episode_each_and_leave_nobody_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_real_home(tmp_path, monkeypatch)
    rows = tmp_path / "rows.jsonl"
    with subprocess.Popen(command("--jobs", "2"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as run:
        while episodes_in(rows) < 3:
            assert run.poll() is None, run.stderr.read().decode()
            time.sleep(0.02)
        workers = children(run.pid)
        run.send_signal(signal.SIGKILL)
        run.stderr.close()
    there = episodes_in(rows)
    deadline = time.monotonic() + 30
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "a worker outlived the comparison"
        time.sleep(0.05)
    done = subprocess.run(command("--jobs", "2", "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert there == 8 or f"{there} of 8 episodes kept" in done.stderr
    assert not Path("rows.jsonl.work").exists()
    whole = subprocess.run([*command()[:-1], "whole.jsonl"], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    assert kept(rows) == kept(tmp_path / "whole.jsonl")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_process_that_is_killed_is_told_and_ctrl_c_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_real_home(tmp_path, monkeypatch)
    rows = tmp_path / "rows.jsonl"
    for code, said in ((1, "fewer --jobs"), (130, "interrupted")):
        rows.unlink(missing_ok=True)
        with subprocess.Popen(
            command("--jobs", "2", "--seeds", "9"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as run:
            while episodes_in(rows) < 2:
                assert run.poll() is None, run.stderr.read()
                time.sleep(0.02)
            workers = [pid for pid in children(run.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            if code == 1:
                os.kill(workers[-1], signal.SIGKILL)
            else:
                run.send_signal(signal.SIGINT)
            assert said in run.stderr.read()
            assert run.wait(60) == code
        assert not any(map(alive, workers))
