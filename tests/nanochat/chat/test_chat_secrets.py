"""Secrets of the environment against everything a chat writes: each byte of each file, stdout and stderr."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests_chat import Done, Home

CANARIES = {
    "HF_TOKEN": "hf_CanaryCanary0123456789",
    "WANDB_API_KEY": "0123456789canary0123456789canary01234567",
    "DB_PASSWORD": "canary-p@ss'w0rd",
}
HINT = "canary"

Chat = Callable[..., Done]


def log_of(home: Home) -> list[dict]:
    (log,) = home.logs.glob("*.log")
    return [json.loads(line) for line in log.read_bytes().splitlines()]


def leaks(folder: Path, done: Done, given: set[Path]) -> list[str]:
    """Where a canary stands. given: files that the test itself wrote."""
    files = {path for path in folder.rglob("*") if path.is_file()} - given
    written = {str(path): path.read_bytes() for path in files}
    written |= {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    assert any(name.endswith(".log") for name in written)
    return [name for name, data in written.items() if HINT.encode() in data.lower()]


@pytest.fixture
def given(home: Home) -> set[Path]:
    return {path for path in home.path.rglob("*") if path.is_file()}


def test_a_run_with_secrets_in_its_settings_writes_none(chat_process: Chat, home: Home, given: set[Path]) -> None:
    settings = ["--set", f"telemetry.wandb_entity={CANARIES['HF_TOKEN']}"]
    settings += ["--set", f"telemetry.wandb_project=by {CANARIES['DB_PASSWORD']}"]
    done = chat_process("-p", "hello", "--debug", *settings, **CANARIES)
    assert done.returncode == 0
    assert log_of(home)[0]["config"]["telemetry"]["wandb_project"] == "by ***"
    assert not leaks(home.path, done, given)


@pytest.mark.parametrize(
    ("variable", "flags"), [("HF_TOKEN", []), ("WANDB_API_KEY", ["--debug"]), ("DB_PASSWORD", ["--json"])]
)
def test_an_error_that_names_a_secret_is_logged_and_told_without_it(
    chat_process: Chat, home: Home, given: set[Path], variable: str, flags: list[str]
) -> None:
    done = chat_process("-p", "hello", "--model", f"models/{CANARIES[variable]}.gguf", *flags, **CANARIES)
    assert done.returncode == 3
    error = next(event for event in log_of(home) if event["type"] == "error")
    assert "models/***.gguf" in error["message"]
    assert "models/***.gguf" in done.stderr
    assert not leaks(home.path, done, given)


def test_a_bug_whose_text_holds_a_secret_is_told_without_it(chat_process: Chat, home: Home) -> None:
    path = home.path / f"{CANARIES['HF_TOKEN']}.gguf"
    path.write_bytes(home.model.read_bytes()[:4096])
    given = {path, home.config}
    done = chat_process("-p", "hello", "--model", str(path), "--debug", **CANARIES)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert not leaks(home.path, done, given)


def test_a_wandb_run_on_disk_holds_none(chat_process: Chat, home: Home, given: set[Path]) -> None:
    pytest.importorskip("wandb")
    switches = {"MEGACONTEXT_ENABLE_WANDB": "1", "WANDB_MODE": "offline"}
    settings = ["--set", f"telemetry.wandb_entity={CANARIES['HF_TOKEN']}", "--model", f"{CANARIES['DB_PASSWORD']}.gguf"]
    done = chat_process("-p", "hello", *settings, **CANARIES, **switches)
    assert done.returncode == 3
    assert list(home.logs.glob("wandb/offline-run-*/*.wandb"))
    assert not leaks(home.path, done, given)


def test_settings_are_printed_without_secrets(chat_process: Chat, home: Home) -> None:
    done = chat_process("--print-config", "--set", f"telemetry.wandb_entity={CANARIES['HF_TOKEN']}", **CANARIES)
    assert '"***"' in done.stdout
    assert HINT not in done.stdout.lower()


def test_a_mistake_in_a_setting_is_told_without_its_secret(chat_process: Chat) -> None:
    done = chat_process("-p", "x", "--set", f"memory.budget={CANARIES['DB_PASSWORD']}", **CANARIES)
    assert done.returncode == 2
    assert HINT not in (done.stdout + done.stderr).lower()
