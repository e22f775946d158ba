from __future__ import annotations

import io
import sys

import pytest

from tools.dataset import progress
from tools.dataset.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, patience: float = 0.0, **environ: str) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE", patience)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with Bar("[train] read", 1000, "bytes") as bar:
        for _ in range(4):
            bar(250)
    return stream.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal())
    assert "[train] read" in text
    assert "\x1b[" in text


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_a_plain_terminal_gets_one_line(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    assert shown(monkeypatch, Terminal(), **environ) == "[train] read: 1,000 bytes ...\n"


def test_a_pipe_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO()) == ""


def test_what_is_over_in_a_second_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, Terminal(), patience=60.0) == ""
