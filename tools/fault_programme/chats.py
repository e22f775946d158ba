"""The real chat, run to be killed: with a toy model in forks of this process, or with a model file of its own.

A toy chat runs as `python -m nanochat.chat` does, from its command line to its exit code; a fork has the packages
already, so that takes a fraction of a second. Knows nothing of faults.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tools.fault_programme import forks, toy_model

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 8
CONFIG = """\
model:
  path: {model}
  dtype: float32
memory:
  budget: 160
  block: {block}
  recent_tokens: 40
  prompt_recent_tokens: 64
  read_chunk: 8
  far_blocks: 8
  prompt_blocks: 3
  reread_tokens: 16
  position_slack: 32
pages:
  ram_bytes: 20000
chat:
  max_tokens: {max_tokens}
  temperature: 1.0
telemetry:
  log_dir: {folder}/logs
session:
  root: {folder}/sessions
"""

Around = Callable[[], AbstractContextManager[object]]


class Said(NamedTuple):
    """A finished turn, as the chat told it. history: tokens from then on."""

    text: str
    history: int


@dataclass(frozen=True)
class Chat:
    """home: where its sessions/ and logs/ are. model: a file or a folder."""

    home: Path
    model: Path

    @property
    def sessions(self) -> Path:
        return self.home / "sessions"

    @property
    def logs(self) -> list[Path]:
        return sorted((self.home / "logs").glob("*.log"))

    @property
    def notes(self) -> str:
        """What the last run said on stderr."""
        return (self.home / "errors.txt").read_text(encoding="utf-8", errors="replace")

    def main(self, *flags: str) -> int:
        """Be the chat: the exit code."""
        os.chdir(ROOT)
        where = ("--model", str(self.model), "--log-dir", f"{self.home}/logs", "--set", f"session.root={self.sessions}")
        os.execv(sys.executable, [sys.executable, "-m", "nanochat.chat", *where, *flags])

    def start(self, *flags: str, around: Around = contextlib.nullcontext) -> forks.Child:
        """The chat in a process of its own, within the context that `around` makes."""

        def body(out: int) -> int:
            _redirect(out, self.home / "errors.txt")
            with around():
                return self.main(*flags)

        return forks.start(body)

    def run(self, *flags: str, around: Around = contextlib.nullcontext) -> tuple[int, bytes]:
        """The same to its end -> exit code, what it said."""
        child = self.start(*flags, around=around)
        said = child.rest()
        return child.wait(), said


class ToyChat(Chat):
    """Has a config of its own, too."""

    @classmethod
    def made(cls, home: Path, *, max_tokens: int = 12) -> ToyChat:
        """A new one with a model of its own, ready to be run in forks of this process."""
        toy_model.write_model(home / "model")
        chat = cls(home, home / "model")
        chat._configure(max_tokens)
        chat._import_all()
        return chat

    def elsewhere(self, home: Path, *, max_tokens: int = 12) -> ToyChat:
        """Another one with the same model."""
        home.mkdir(parents=True, exist_ok=True)
        chat = ToyChat(home, self.model)
        chat._configure(max_tokens)
        return chat

    def _configure(self, max_tokens: int) -> None:
        model, folder = self.model.as_posix(), self.home.as_posix()
        text = CONFIG.format(model=model, folder=folder, max_tokens=max_tokens, block=BLOCK)
        (self.home / "toy.yaml").write_text(text, encoding="utf-8")

    def _import_all(self) -> None:
        """Have in this process what a chat imports, so that its forks need not."""

        def body(out: int) -> None:
            with contextlib.redirect_stdout(open(os.devnull, "w", encoding="utf-8")):
                _redirect(os.open(os.devnull, os.O_WRONLY), self.home / "errors.txt")
                self.main("-p", "hello", "--ephemeral")
            os.write(out, " ".join(name for name in sys.modules if not name.endswith("__main__")).encode())

        import torch

        torch.set_num_threads(1)
        for name in forks.finished(body)[1].decode().split():
            with contextlib.suppress(Exception):  # what cannot be imported by its name, the forks import themselves
                importlib.import_module(name)

    def main(self, *flags: str) -> int:
        """Be the chat, in this process: the exit code. The flag `repair` alone: be what repairs its session."""
        program, argv = "nanochat.chat", ["--config", str(self.home / "toy.yaml"), *flags]
        if flags == ("repair",):
            (session,) = self.sessions.iterdir()
            program, argv = "tools.inspect_memory", [session.name, "--root", str(self.sessions), "--repair"]
        sys.argv = [program, *argv]
        try:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        except SystemExit as leave:
            return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        return 0


def replies(said: bytes) -> list[Said]:
    """The turns that --json told as finished, in whole lines."""
    lines = [line for line in said.splitlines(keepends=True) if line.endswith(b"\n")]
    records = [json.loads(line) for line in lines]
    return [Said(r["text"], r["history_tokens"]) for r in records if r["type"] == "reply"]


def _redirect(out: int, errors: Path) -> None:
    """stdin is empty, stdout a pipe, stderr a file."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.close(out)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for the child's life
