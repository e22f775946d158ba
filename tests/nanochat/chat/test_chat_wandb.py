"""The chat with W&B: a real offline run of a real conversation, read back and held against its event log."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests_chat import ROOT, Done, Home, command, environment
from wandb_reading import Recorded, recorded, rows_of

Chat = Callable[..., Done]
OFFLINE = {"MEGACONTEXT_ENABLE_WANDB": "1", "WANDB_MODE": "offline"}
DEMO_MODEL = ROOT / "artifacts/models/SmolLM2-135M-Instruct.Q4_1.gguf"
IN_THIS_PROCESS = """
import sys
from nanochat.chat.__main__ import main
code = main(sys.argv[1:])
print("wandb" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


def only_log(logs: Path) -> Path:
    (path,) = logs.glob("*.log")
    return path


def assert_same_numbers(logs: Path) -> Recorded:
    run = recorded(logs)
    assert run.rows == rows_of(only_log(logs))
    return run


@pytest.fixture
def remembering(home: Home) -> Home:
    """Its memory is small enough that a short conversation does not fit."""
    text = home.config.read_text(encoding="utf-8")
    memory = "memory:\n  cache: megacontext\n  budget: 192\n  recent_tokens: 32\n  position_slack: 32\n"
    memory += "  prompt_recent_tokens: 64\n  far_blocks: 2\n"
    telemetry = "telemetry:\n  delta_nll: exact\n  delta_nll_every: 8\n  delta_nll_tokens: 8\n"
    home.config.write_text(text.replace("memory:\n  cache: full\n", memory) + telemetry, encoding="utf-8")
    return home


def converse(home: Home, *flags: str, **extra: str) -> Done:
    """The chat in a process of its own, in `home`."""
    line = command(home, *flags)
    done = subprocess.run(
        line, capture_output=True, cwd=home.path, env=environment(**extra), stdin=subprocess.DEVNULL, timeout=120
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_an_offline_run_of_a_chat_has_every_number_of_its_ticks_and_turns(remembering: Home) -> None:
    done = converse(remembering, "-p", "a" * 300, "-p", "b" * 100, "--max-tokens", "40", **OFFLINE)
    assert done.returncode == 0, done.stderr
    run = assert_same_numbers(remembering.logs)
    assert run.name == f"chat/{only_log(remembering.logs).stem.rpartition('-')[2]}"
    assert sum(row.get("allocator/num_collapse", 0) for row in run.rows) > 0
    assert [row["quality/delta_nll"] for row in run.rows if row.get("quality/delta_nll_baseline") == "exact"]
    assert [row["turn"] for row in run.rows if "turn" in row] == [1, 2]
    assert run.exit_code == 0


def test_wandb_writes_nothing_to_stdout_and_one_line_to_stderr(remembering: Home) -> None:
    flags = ("-p", "hello", "--ephemeral")
    with_wandb, without = converse(remembering, *flags, **OFFLINE), converse(remembering, *flags)
    assert with_wandb.stdout == without.stdout
    assert [line for line in with_wandb.stderr.splitlines() if "wandb" in line.lower()][1:] == []
    assert len(with_wandb.stderr.splitlines()) == len(without.stderr.splitlines()) + 1


def test_files_of_wandb_lie_in_the_log_folder_and_nowhere_else(remembering: Home) -> None:
    before = {path.name for path in remembering.path.iterdir()}
    converse(remembering, "-p", "hello", "--ephemeral", **OFFLINE)
    assert {path.name for path in remembering.path.iterdir()} == before | {"artifacts"}
    if os.name == "posix":
        assert stat.S_IMODE((remembering.logs / "wandb").stat().st_mode) == 0o700


@pytest.mark.parametrize("value", ["0", None])
def test_wandb_is_never_imported_unless_it_is_asked_for(remembering: Home, value: str | None) -> None:
    extra = {} if value is None else {"MEGACONTEXT_ENABLE_WANDB": value}
    flags = command(remembering, "-p", "hello", "--ephemeral")[3:]
    line = [sys.executable, "-c", IN_THIS_PROCESS, *flags]
    done = subprocess.run(line, capture_output=True, encoding="utf-8", cwd=remembering.path, env=environment(**extra))
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False"


def test_a_failed_run_ends_in_wandb_with_its_exit_code(remembering: Home) -> None:
    done = converse(remembering, "-p", "hello", "--model", "missing.gguf", **OFFLINE)
    assert recorded(remembering.logs).exit_code == done.returncode == 3


def test_what_is_wrong_with_wandb_stands_in_the_event_log(remembering: Home) -> None:
    home = {"HOME": str(remembering.path), "NETRC": str(remembering.path / "none"), "WANDB_API_KEY": ""}
    done = converse(remembering, "-p", "hello", MEGACONTEXT_ENABLE_WANDB="yes", WANDB_MODE="online", **home)
    assert done.returncode == 0
    assert "no API key" in done.stderr
    assert '"type":"warning"' in only_log(remembering.logs).read_text(encoding="utf-8")
    assert_same_numbers(remembering.logs)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process")
def test_ctrl_c_ends_a_run_with_wandb_at_once_and_completely(remembering: Home) -> None:
    line = command(remembering, "-p", "hi", "--max-tokens", "1000000")
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**OFFLINE), cwd=remembering.path
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(13) == b"MegaContext> "
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - interrupted < 5
    assert assert_same_numbers(remembering.logs).exit_code == 130


@pytest.mark.needs_model
def test_the_demo_chat_with_wandb_offline(tmp_path: Path) -> None:
    if not DEMO_MODEL.exists():
        pytest.skip("python tools/bootstrap_env.py brings the demo model")
    flags = ["-p", "hello", "--ephemeral", "--log-dir", str(tmp_path), "--max-tokens", "40"]
    done = subprocess.run(
        [sys.executable, "-m", "nanochat.chat", *flags],
        capture_output=True,
        encoding="utf-8",
        env=environment(**OFFLINE),
        cwd=ROOT,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    run = assert_same_numbers(tmp_path)
    assert run.summary["total/turns"] == 1
    assert run.config["model_loaded"]["name"].startswith("SmolLM2")
