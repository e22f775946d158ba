"""A chat on a tiny random model: a real GGUF file and a real config, in this process or in one of its own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests_chat import PROMPT, Done, Home, command, environment, write_tiny_gguf

from nanochat.chat.__main__ import main


@pytest.fixture(scope="session", autouse=True)
def hangups_arrive() -> Iterator[None]:
    """Under nohup a suite ignores SIGHUP, and so would every process that it starts; a handler is not inherited."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda number, frame: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with random weights and one token per byte."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


@pytest.fixture
def home(tmp_path: Path, tiny_model: Path) -> Home:
    folder = tmp_path / "configs"
    folder.mkdir()
    config = folder / "tiny.yaml"
    config.write_text(
        f"model:\n  path: {tiny_model.as_posix()}\n  dtype: float32\n"
        "memory:\n  cache: full\nchat:\n  max_tokens: 12\n  temperature: 1.0\n",
        encoding="utf-8",
    )
    return Home(tmp_path, config, tmp_path / "artifacts" / "run_logs", tiny_model)


@pytest.fixture
def chat(home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs the chat with these flags in `home`, in this process; `stdin` is piped."""
    monkeypatch.chdir(home.path)
    for name in [name for name in os.environ if name.startswith("MEGACONTEXT_")]:
        monkeypatch.delenv(name)

    def run(*flags: str, stdin: str = "", **environ: str) -> Done:
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            patch.setattr("sys.stdin", io.StringIO(stdin))
            code = main(["--config", str(home.config), *flags])
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture
def chat_process(home: Home) -> Callable[..., Done]:
    """The same in a process of its own."""

    def run(*flags: str, stdin: str = "", **environ: str) -> Done:
        done = subprocess.run(
            command(home, *flags),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            env=environment(**environ),
            cwd=home.path,
            timeout=120,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def terminal(home: Home) -> Iterator[Callable[..., Any]]:
    """Starts the chat at a terminal of its own and waits for its first prompt."""
    pexpect = pytest.importorskip("pexpect")
    opened = []

    def start(*flags: str, **environ: str) -> Any:
        line = command(home, *flags)
        env = environment(**{"TERM": "xterm"} | environ)
        child = pexpect.spawn(line[0], line[1:], env=env, cwd=str(home.path), encoding="utf-8", timeout=60)
        opened.append(child)
        child.expect(PROMPT)
        return child

    yield start
    for child in opened:
        child.close(force=True)


@pytest.fixture
def endless(home: Home) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a reply that would take very long, and waits until it has begun."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> subprocess.Popen[bytes]:
        line = command(home, "-p", "hi", "--max-tokens", "1000000", *flags)
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), cwd=home.path
        )
        started.append(process)
        assert process.stdout is not None
        begin = b'{"v": 1, "typ' if "--json" in flags else b"MegaContext> "
        assert process.stdout.read(13) == begin
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
