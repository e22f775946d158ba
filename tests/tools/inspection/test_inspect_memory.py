"""A real chat with a tiny model, looked at from outside while it lies on disk, and while it is open elsewhere."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from megacontext.replay import replay
from megacontext.telemetry.events import Tick, Turn
from nanochat.chat.__main__ import main as chat
from tools.bootstrap.seeded_gpt2 import write as write_model
from tools.event_log import read_log
from tools.inspect_memory import main
from tools.inspection.logged import read_view

ROOT = Path(__file__).resolve().parents[3]
TEXT = "The owl sleeps in the barn.\n\x1b[31mNobody\x1b[0m wakes it. "
CONFIG = """\
model: {{path: {home}/models/tiny}}
memory: {{budget: 256, block: 8, recent_tokens: 64, prompt_recent_tokens: 64, read_chunk: 16}}
chat: {{max_tokens: 24, temperature: 1.0}}
telemetry: {{log_dir: {home}/logs}}
session: {{root: {home}/sessions, name: diary}}
"""


class Home(NamedTuple):
    """Folders of a chat, and its one log."""

    sessions: Path
    logs: Path
    log: Path

    @property
    def session(self) -> Path:
        return self.sessions / "diary"


@pytest.fixture(scope="module")
def chatted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a session of one document and two questions, of over a thousand tokens."""
    home = tmp_path_factory.mktemp("chatted")
    write_model(home / "models" / "tiny")
    (home / "tiny.yaml").write_text(CONFIG.format(home=home.as_posix()), encoding="utf-8")
    (home / "owl.txt").write_text(TEXT * 20, encoding="utf-8")
    questions = ["-p", "Who sleeps?", "-p", "Where is the barn?"]
    assert chat(["--config", str(home / "tiny.yaml"), "--read", str(home / "owl.txt"), *questions]) == 0
    return home


@pytest.fixture
def home(chatted: Path) -> Home:
    (log,) = (chatted / "logs").glob("*.log")
    return Home(chatted / "sessions", chatted / "logs", log)


@pytest.fixture
def copied(home: Home, tmp_path: Path) -> Home:
    """The same sessions, to be damaged; their log knows them as lying elsewhere."""
    shutil.copytree(home.sessions, tmp_path / "sessions")
    return Home(tmp_path / "sessions", home.logs, home.log)


def inspect(home: Home, *flags: str) -> int:
    return main(["diary", "--root", str(home.sessions), "--log-dir", str(home.logs), "--width", "100", *flags])


def state_of(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Every file: what is in it, and when it was changed."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns, path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_session_is_drawn_with_its_turns_its_levels_and_its_view(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(home) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (last,) = list(replay(read_log(home.log).events))[-1:]
    head = out.splitlines()[0]
    assert head.startswith("session diary   tiny   1,")
    assert head.endswith("   5 turns   damage: none")
    assert 'document     1,081 tok  "The owl sleeps in the barn. ␛[31mNobody␛[0m' in out
    assert '"Who sleeps?"' in out
    assert '"Where is the barn?"' in out
    assert "LOD0 1 page         8 slots  exact: the beginning of history always is" in out
    assert "folded away" in out
    assert f"after tick {last.tick.tick}, prompt" in out
    assert "\x1b" not in out
    assert max(len(line) for line in out.splitlines()[2:]) <= 100


def test_the_strips_are_as_wide_as_asked_and_show_all_of_history(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(home) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith("|")]
    assert {len(row) for row in rows} == {100}
    assert [row[:9] for row in rows[:3]] == ["  turns |", "   LOD0 |", "   LOD1 |"]
    columns = list(zip(*(row[9:-1] for row in rows[1:]), strict=True))
    assert all(any(cell != " " for cell in column) for column in columns)


def test_the_view_is_the_one_of_the_log_at_any_tick(home: Home) -> None:
    log = read_log(home.log)
    views = list(replay(log.events))
    assert len(views) == len(log.of(Tick)) > 5
    for view in views[:-1]:
        for tick in (view.first_tick, view.tick.tick):
            assert read_view(home.log, home.session, 9999, tick).context == view.context
    last = read_view(home.log, home.session, 9999, None).context
    assert last.history == log.of(Turn)[-1].history_tokens
    last.check()


def test_a_tick_is_shown_as_it_was(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(home, "--at", "0") == 0
    assert "(one line sums ticks 0 to " in capsys.readouterr().out
    assert inspect(home, "--at", "99999") == 2
    assert "--at 99999: " in capsys.readouterr().err


def test_nothing_is_changed_not_even_while_another_process_has_it_open(home: Home) -> None:
    before = state_of(home.session)
    assert inspect(home) == 0
    assert state_of(home.session) == before
    program = (
        "import json, sys; from pathlib import Path; from megacontext.tree.token_log import TokenLog\n"
        "folder = Path(sys.argv[1]); known = json.loads((folder / 'session.json').read_text())\n"
        "made = {name: known[name] for name in ('vocab', 'fingerprint')}\n"
        "with TokenLog.open(folder / 'tokens.log', **made):\n"
        "    print('open', flush=True); sys.stdin.read()\n"
    )
    held = subprocess.Popen(
        [sys.executable, "-c", program, str(home.session)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert held.stdout is not None
        assert held.stdout.readline() == b"open\n"
        before = state_of(home.session)
        assert inspect(home) == 0
        assert state_of(home.session) == before
    finally:
        held.communicate()
    assert held.returncode == 0


def test_without_a_log_tree_and_turns_stand_alone(copied: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(copied) == 0
    out, err = capsys.readouterr()
    assert "no event log of session diary" in err
    assert "no text is shown: no model at" in err
    assert "document     1,081 tok\n" in out
    assert "|ddd" in out
    assert "LOD" not in out


def test_the_model_can_be_named(copied: Home, chatted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(copied, "--model", str(chatted / "models" / "tiny")) == 0
    assert '"Who sleeps?"' in capsys.readouterr().out


def test_another_tokenizer_is_not_used(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "other"
    write_model(model)
    path = model / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<|endoftext|>", "<|end|>"), encoding="utf-8")
    assert inspect(home, "--model", str(model)) == 0
    out, err = capsys.readouterr()
    assert "has another tokenizer than the session" in err
    assert "owl" not in out


def test_a_log_of_another_session_is_refused(copied: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(copied, "--log", str(copied.log)) == 2
    assert "is not a log of the session" in capsys.readouterr().err


def test_a_damaged_log_costs_the_view_and_if_it_was_named_the_drawing(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = home.log.read_bytes().splitlines(keepends=True)
    damaged = tmp_path / home.log.name
    damaged.write_bytes(b"".join([*lines[:20], b"{broken\n", *lines[20:]]))
    assert inspect(Home(home.sessions, tmp_path, damaged)) == 0
    assert "its view is not shown: " in capsys.readouterr().err
    assert inspect(home, "--log", str(damaged)) == 1
    assert ":21: not a JSON object" in capsys.readouterr().err


def test_a_session_that_is_not_there_is_answered_with_those_that_are(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dairy", "--root", str(home.sessions)]) == 2
    assert "no session 'dairy' below" in (err := capsys.readouterr().err)
    assert "there are diary" in err
    assert main([str(home.session), "--log-dir", str(home.logs)]) == 0


def test_what_a_crash_left_is_told_and_left_as_it_is(copied: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with (copied.session / "tokens.log").open("ab") as file:
        file.write(b"half a frame")
    with (copied.session / "turns.jsonl").open("ab") as file:
        file.write(b"[1100, 12")
    before = state_of(copied.session)
    assert inspect(copied) == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert "damage: 12 bytes of an unfinished write at the end" in head
    assert "; 9 bytes of turns.jsonl are torn" in head
    assert state_of(copied.session) == before


def test_damage_is_told_with_what_is_before_it(copied: Home, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied.session / "tokens.log"
    data = bytearray(path.read_bytes())
    data[2000] ^= 255
    path.write_bytes(data)
    assert inspect(copied) == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert "damaged at byte " in head
    assert "with good data behind it" in head


def test_a_session_that_cannot_be_read_is_exit_4(copied: Home, capsys: pytest.CaptureFixture[str]) -> None:
    (copied.session / "tokens.log").write_bytes(b"x" * 200)
    assert inspect(copied) == 4
    assert "it is no token log" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from tools.inspect_memory import main; main(['--help'])\n"
        "sys.exit(bool({'torch', 'pydantic', 'rich', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
