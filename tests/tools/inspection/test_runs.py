"""Sessions that several runs went on with: their views, rebuilt from logs, are those that lie beside the tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from megacontext.context import WorkingContext
from megacontext.span import Span
from megacontext.tree import snapshot
from nanochat.chat.__main__ import main as chat
from tools.bootstrap.seeded_gpt2 import write as write_model
from tools.inspect_memory import main
from tools.inspection.logged import read_view
from tools.inspection.runs import find_log, story_of

CONFIG = """\
model: {{path: {home}/models/tiny}}
memory: {{budget: 256, block: 8, recent_tokens: 64, prompt_recent_tokens: 64, read_chunk: 16}}
chat: {{max_tokens: 24, temperature: 1.0}}
telemetry: {{log_dir: {home}/logs}}
session: {{root: {home}/sessions}}
"""
LOGS, ROOT = "logs", Path(__file__).resolve().parents[3]


class Home(NamedTuple):
    path: Path

    def session(self, name: str = "diary") -> Path:
        return self.path / "sessions" / name

    def logs(self) -> list[Path]:
        """Oldest first."""
        return sorted((self.path / LOGS).glob("*.log"), key=lambda path: path.stat().st_mtime_ns)

    def run(self, *flags: str) -> None:
        assert chat(["--config", str(self.path / "tiny.yaml"), "--session", "diary", *flags]) == 0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A session with one document and one question."""
    write_model(tmp_path / "models" / "tiny")
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(home=tmp_path.as_posix()), encoding="utf-8")
    (tmp_path / "owl.txt").write_text("The owl sleeps in the barn. " * 40, encoding="utf-8")
    made = Home(tmp_path)
    made.run("--read", str(tmp_path / "owl.txt"), "-p", "Who sleeps?")
    return made


def kept(session: Path) -> tuple[Span, ...]:
    """The entries in view as the memory itself kept them."""
    from safetensors.torch import load

    _, payload = snapshot.check((session / "view.snap").read_bytes())
    (entries,) = [value for name, value in load(payload).items() if name.endswith("entries")]
    return tuple(Span(*entry) for entry in entries.tolist())


def rebuilt(home: Home, name: str = "diary") -> tuple[Span, ...]:
    log = find_log(home.path / LOGS, home.session(name))
    assert log is not None
    return _fed(read_view(log, home.session(name), 10**6, None).context)


def _fed(context: WorkingContext) -> tuple[Span, ...]:
    """Less the block that a reply's last token fills: that one is fed by the next turn."""
    return context.shrink(1).entries if context.tail else context.entries[:-1]


def test_the_view_of_a_session_that_a_second_run_went_on_with(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert rebuilt(home) == kept(home.session())
    home.run("-p", "Where is the barn?")
    assert len(home.logs()) == 2
    assert rebuilt(home) == kept(home.session())
    assert main(["diary", "--root", str(home.path / "sessions"), "--log-dir", str(home.path / LOGS)]) == 0
    out, err = capsys.readouterr()
    assert err.count("went on with") == 1  # of the chat
    assert "not shown" not in err
    assert f"from {home.logs()[1].name}" in out
    assert "is forgotten" not in out
    assert "earlier run" not in out


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_run_in_which_nothing_was_said_leaves_the_view_as_it_was(home: Home) -> None:
    at_terminal(home)
    assert len(home.logs()) == 2
    assert rebuilt(home) == kept(home.session())
    home.run("-p", "Where is the barn?")
    assert rebuilt(home) == kept(home.session())
    assert len(story_of(home.logs()[2], home.session()).runs) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_fork_and_the_session_it_was_made_of_have_views_of_their_own(home: Home) -> None:
    at_terminal(home, "Where?", "/fork twin", "Where is the barn?", "/load diary", "Who?", "/load twin", "Why?")
    assert rebuilt(home, "twin") == kept(home.session("twin"))
    assert rebuilt(home) == kept(home.session())
    assert kept(home.session()) != kept(home.session("twin"))


def at_terminal(home: Home, *lines: str) -> None:
    """A run of the chat in which these lines are typed."""
    pexpect = pytest.importorskip("pexpect")
    flags = ["-m", "nanochat.chat", "--config", str(home.path / "tiny.yaml"), "--session", "diary"]
    child = pexpect.spawn(sys.executable, flags, cwd=str(ROOT), encoding="utf-8", timeout=60)
    for line in (*lines, "/exit"):
        child.expect_exact("You> ")
        child.sendline(line)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_an_older_log_shows_the_view_that_its_run_left(home: Home) -> None:
    (first,) = home.logs()
    left = kept(home.session())
    home.run("-p", "Where is the barn?")
    assert _fed(read_view(first, home.session(), 10**6, None).context) == left
    assert kept(home.session()) != left


def test_without_the_earlier_log_the_view_is_not_shown(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.run("-p", "Where is the barn?")
    home.logs()[0].unlink()
    assert main(["diary", "--root", str(home.path / "sessions"), "--log-dir", str(home.path / LOGS)]) == 0
    err = capsys.readouterr().err
    assert "its view is not shown: it begins with tick " in err
    assert "an earlier one kept, whose log is needed" in err
