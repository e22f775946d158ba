"""Sessions as users see them: going on, listing, forking, saving, loading, in one process over a tiny model."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests_chat import ROOT, Done, Home, environment

from megacontext.config import DemoConfig
from megacontext.errors import StoreError
from megacontext.sessions.listing import SessionInfo, list_sessions
from megacontext.sessions.stored import StoredSession, read_session
from megacontext.telemetry.sinks import NullSink
from nanochat.chat.commands import run_command
from nanochat.chat.flags import parse_flags
from nanochat.chat.output import TextOutput
from nanochat.chat.run import load_settings
from nanochat.chat.session_commands import session_lines
from nanochat.chat.setup import open_talk
from nanochat.chat.talk import Talk, open_document

Chat = Callable[..., Done]
MEGACONTEXT = ("--cache", "megacontext", "--budget", "512")


class Room:
    """A talk in progress; what the commands say is in `said`."""

    def __init__(self, talk: Talk, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.talk, self.root, self._capfd = talk, root, capfd

    def do(self, line: str) -> str:
        self._capfd.readouterr()
        run_command(self.talk, line)
        return self._capfd.readouterr().err

    def on_disk(self, name: str) -> StoredSession:
        return read_session(self.root / name)

    @property
    def name(self) -> str | None:
        return self.talk.desk.session.name

    @property
    def tokens(self) -> list[int]:
        return self.talk.conversation.log.tokens(0, len(self.talk.conversation.log))


@pytest.fixture
def enter(
    home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Room]]:
    """Opens a talk with these flags; it is closed at the end of the test."""
    monkeypatch.chdir(home.path)
    opened: list[Any] = []

    def start(*flags: str) -> Room:
        config: DemoConfig = load_settings(parse_flags(["--config", str(home.config), *flags])).config
        opened.append(open_talk(config, TextOutput(), NullSink()))
        return Room(opened[-1].__enter__(), Path(config.session.root), capfd)

    yield start
    for talk in reversed(opened):
        talk.__exit__(None, None, None)


@pytest.fixture(params=["full", "megacontext"])
def memory(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return MEGACONTEXT if request.param == "megacontext" else ()


Enter = Callable[..., Room]


# --- the command line ---


def test_continue_goes_on_with_the_session_last_written_to(chat: Chat, home: Home) -> None:
    for name in ("one", "two", "one"):
        chat("--session", name, "-p", "hello")
    done = chat("--continue", "-p", "again")
    assert "session one\n" in done.stderr
    assert '  name: "one"  # flag --continue\n' in chat("--continue", "--print-config").stdout


def test_continue_without_a_session_says_how_to_begin_one(chat: Chat) -> None:
    done = chat("--continue", "-p", "x")
    assert done.returncode == 2
    assert "a chat without --continue begins one" in done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ("--continue", "--session", "a"),
        ("--continue", "--ephemeral"),
        ("--session", "a", "--ephemeral"),
        ("--sessions", "--export", "a.json"),
        ("--import", "a.json", "-p", "x"),
        ("--sessions", "--read", "a.txt"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(chat: Chat, flags: tuple[str, ...]) -> None:
    assert chat(*flags).returncode == 2


def test_sessions_are_listed_without_a_model(chat: Chat, home: Home) -> None:
    assert chat("--sessions").stdout == "no session yet\n"
    chat("--session", "diary", "-p", "hello")
    chat("--session", "other", "-p", "hello")
    done = chat("--sessions", "--model", "nowhere.gguf")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["name", "tokens", "turns", "last", "written", "on", "disk", "model"]
    assert [line.split()[0] for line in lines] == ["other", "diary"]
    assert lines[0].split()[-1] == "tiny"
    assert done.stderr == ""


def test_the_list_comes_as_json_lines(chat: Chat) -> None:
    chat("--session", "diary", "-p", "hello")
    (line,) = chat("--sessions", "--json").stdout.splitlines()
    found = json.loads(line)
    assert (found["v"], found["type"], found["name"], found["turns"]) == (1, "session", "diary", 2)
    assert found["tokens"] > 20
    assert found["bytes"] > 4 * found["tokens"]


def test_listing_imports_no_torch(home: Home) -> None:
    probe = (
        "import sys; from nanochat.chat.__main__ import main;"
        f"code = main(['--config', {str(home.config)!r}, '--sessions']);"
        "print('torch' in sys.modules, code, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=home.path, env=environment(), check=True
    )
    assert done.stderr.strip() == "False 0"


def test_the_table_marks_what_is_open_and_names_what_is_damaged() -> None:
    infos = [
        SessionInfo("a", 1_234_567, 12, 0.0, 999, "m"),
        SessionInfo("b", 0, 0, 0.0, 12_345_678, "m", "damaged at byte 64"),
    ]
    _, first, second, what = session_lines(infos, "b")
    assert first.startswith("  a      1,234,567     12  19")
    assert " 999 B  m" in first
    assert second.startswith("* b")
    assert " 12 MB  m" in second
    assert what.strip() == "damaged at byte 64"


# --- at the prompt ---


def test_a_fork_goes_on_and_the_session_it_came_from_stays(enter: Enter, memory: tuple[str, ...], home: Home) -> None:
    (home.path / "notes.txt").write_text("The owl sleeps. " * 80, encoding="utf-8")
    room = enter("--session", "diary", *memory)
    room.talk.say("hello")
    room.talk.read(open_document("notes.txt"))
    before = room.tokens
    said = room.do("/fork branch")
    assert "from here on this is branch; diary stays as it is: /load diary goes back" in said
    assert "read again" not in said
    assert (room.name, room.tokens) == ("branch", before)
    room.talk.say("and now?")
    assert room.on_disk("diary").tokens.tolist() == before
    assert len(room.on_disk("diary").turns) == 3
    assert room.on_disk("branch").tokens.tolist() == room.tokens
    assert len(room.tokens) > len(before)


def test_a_fork_answers_as_the_session_would_have(enter: Enter, memory: tuple[str, ...]) -> None:
    flags = ("-t", "0", *memory)
    room = enter("--session", "diary", *flags)
    room.talk.say("Tell me a story about owls and barns.")
    room.do("/fork branch")
    forked = room.talk.say("go on").text
    room.do("/load diary")
    assert room.talk.say("go on").text == forked


def test_forks_get_a_free_name(enter: Enter) -> None:
    room = enter("--session", "diary")
    room.talk.say("hello")
    room.do("/fork")
    assert room.name == "diary-2"
    room.do("/fork")
    assert room.name == "diary-2-2"


def test_a_forks_forks_are_taken_in_the_middle_of_a_reply_that_was_stopped(enter: Enter) -> None:
    room = enter("--session", "diary", *MEGACONTEXT)
    pieces = room.talk.conversation.say("hello")
    next(pieces)
    pieces.close()
    before = room.tokens
    room.do("/fork branch")
    assert room.tokens == before
    room.talk.say("go on")
    assert room.tokens[: len(before)] == before


def test_load_goes_to_another_session_and_back(enter: Enter, memory: tuple[str, ...]) -> None:
    room = enter("--session", "one", *memory)
    room.talk.say("first")
    one = room.tokens
    room.talk.desk.opener.session("two").close()
    room.do("/load two")
    assert (room.name, room.tokens) == ("two", [])
    room.talk.say("second")
    said = room.do("/load one")
    assert f"went on with {len(one)} tokens" in said
    assert (room.name, room.tokens) == ("one", one)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("/load", "which session?"),
        ("/load diary", "this is session diary already"),
        ("/load dairy2", "there is no session dairy2: "),
        ("/load ../x", "is not usable"),
        ("/load .hidden", "is not usable"),
        ("/fork other", "there is a session other already: choose another name, or open that one (/load other"),
        ("/fork a/b", "is not usable"),
        ("/save other", "there is a session other already"),
        ("/save a b", "is not usable"),
    ],
)
def test_a_step_that_cannot_be_taken_is_refused_and_nothing_changes(enter: Enter, line: str, answer: str) -> None:
    room = enter("--session", "diary")
    room.talk.say("hello")
    room.talk.desk.opener.session("other").close()
    before = room.tokens
    assert answer in room.do(line)
    assert (room.name, room.tokens) == ("diary", before)
    room.talk.say("still here")
    assert sorted(os.listdir(room.root)) == ["diary", "other"]


def test_a_session_that_is_open_elsewhere_names_the_process(enter: Enter) -> None:
    room = enter("--session", "diary")
    with room.talk.desk.opener.session("busy"):
        assert f"is open in process {os.getpid()}" in room.do("/load busy")
    assert room.name == "diary"


def test_an_interrupted_load_stays_in_the_session(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    room = enter("--session", "one")
    room.talk.say("first")
    room.do("/fork two")
    opened = room.talk.conversation

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nanochat.chat.setup.resume", stop)
        assert "(stopped; this is still session two)" in room.do("/load one")
    assert room.talk.conversation is opened
    room.talk.say("go on")
    assert "session one" in room.do("/load one")  # it was closed properly


def test_save_keeps_an_ephemeral_conversation_from_then_on(enter: Enter, memory: tuple[str, ...]) -> None:
    room = enter("--ephemeral", *memory)
    room.talk.say("hello")
    assert "ephemeral: /save NAME keeps it" in room.do("/save")
    assert "ephemeral: /save NAME keeps it" in room.do("/fork")
    assert not room.root.exists()
    before = room.tokens
    said = room.do("/save kept")
    assert f"saved: {len(before)} tokens in {room.root / 'kept'}; from here on every turn is" in said
    assert "again" not in said
    assert room.on_disk("kept").tokens.tolist() == before
    room.talk.say("more")
    assert room.on_disk("kept").tokens.tolist() == room.tokens
    assert room.tokens[: len(before)] == before
    assert "read again" not in room.do("/fork branch")
    room.do("/load kept")
    assert room.tokens == room.on_disk("branch").tokens.tolist()


def test_save_says_where_and_with_a_name_makes_a_copy(enter: Enter, memory: tuple[str, ...]) -> None:
    room = enter("--session", "diary", *memory)
    room.talk.say("hello")
    before = room.tokens
    assert f"saved: {len(before)} tokens in {room.root / 'diary'}" in room.do("/save")
    assert "a copy of" in room.do("/save backup")
    assert room.name == "diary"
    room.talk.say("more")
    assert room.on_disk("backup").tokens.tolist() == before


def test_leaving_an_ephemeral_conversation_is_said(enter: Enter) -> None:
    room = enter("--ephemeral")
    room.talk.desk.opener.session("other").close()
    room.talk.say("hello")
    count = len(room.tokens)
    assert f"(the ephemeral conversation of {count} tokens is gone)" in room.do("/load other")


def test_a_full_disk_is_survived_by_a_copy_elsewhere(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    room = enter("--session", "diary")
    room.talk.say("hello")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        room.talk.say("lost?")
        assert "No space left" in room.do("/save")
        assert "No space left" in room.do("/fork full")
    assert isinstance(room.talk.desk.failure, StoreError)
    before = room.tokens
    room.do("/fork rescued")
    assert room.talk.desk.failure is None
    assert room.on_disk("rescued").tokens.tolist() == before
    assert sorted(os.listdir(room.root)) == ["diary", "rescued"]


def test_what_was_lost_in_a_session_that_was_left_is_remembered(enter: Enter) -> None:
    room = enter("--session", "diary")
    room.talk.say("hello")
    room.talk.conversation.store_failure = StoreError("no space")
    room.talk.desk.opener.session("other").close()
    room.do("/load other")
    assert str(room.talk.desk.failure) == "no space"


def test_sessions_marks_the_one_that_is_open(enter: Enter) -> None:
    room = enter("--session", "diary")
    room.talk.say("hello")
    room.do("/fork branch")
    lines = room.do("/sessions").splitlines()
    assert [line[:8] for line in lines[1:]] in (["* branch", "  diary "], ["  diary ", "* branch"])
    assert len(list_sessions(room.root)) == 2


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_everything_a_chat_keeps_is_its_owners_alone(enter: Enter) -> None:
    umask = os.umask(0)
    try:
        room = enter("--session", "diary", *MEGACONTEXT)
        room.talk.say("hello " * 60)
        room.do("/fork branch")
        room.do("/save backup")
    finally:
        os.umask(umask)
    for path in room.root.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


# --- files ---


def test_a_session_goes_out_and_comes_in_again(chat: Chat, home: Home) -> None:
    chat("--session", "diary", "-p", "hello", "-p", "more")
    done = chat("--export", "diary.safetensors")
    assert done.returncode == 0
    assert "session diary: " in done.stderr
    assert done.stdout == ""
    assert chat("--export", "diary.safetensors").returncode == 2
    done = chat("--import", "diary.safetensors", "--session", "again", "--json")
    told = json.loads(done.stdout)
    assert (told["type"], told["name"], told["said"]) == ("imported", "again", [])
    root = home.path / "artifacts" / "sessions"
    assert read_session(root / "again").tokens.tolist() == read_session(root / "diary").tokens.tolist()
    done = chat("--session", "again", "-p", "go on", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["history_tokens"] > told["tokens"]


def test_messages_come_in_as_a_conversation_and_go_out_again(chat: Chat, home: Home) -> None:
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi <|im_end|>"},
        {"role": "assistant", "content": "Hello!"},
    ]
    (home.path / "talk.json").write_text(json.dumps({"messages": said}), encoding="utf-8")
    assert chat("--import", "talk.json").returncode == 0
    assert chat("--export", "back.json", "--session", "talk").returncode == 0
    assert json.loads((home.path / "back.json").read_bytes())["messages"] == said
    done = chat("--session", "talk", "-p", "x", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["type"] == "reply"


def test_a_text_comes_in_as_a_document(chat: Chat, home: Home) -> None:
    (home.path / "my notes.md").write_text("Buy milk.", encoding="utf-8")
    done = chat("--import", "my notes.md")
    assert "session imported: " in done.stderr
    (turn,) = read_session(home.path / "artifacts" / "sessions" / "imported").turns
    assert turn.role == "document"


@pytest.mark.parametrize(
    ("flags", "code", "what"),
    [
        (("--import", "no.json"), 2, "cannot be read"),
        (("--import", "bad.json"), 2, "bad.json: message 1 has the role"),
        (("--import", "bad.safetensors"), 4, "bad.safetensors cannot be imported"),
        (("--import", "model.bin"), 2, "no text"),
        (("--export", "x.zip"), 2, "name it"),
        (("--export", "x.json"), 2, "there is no session in"),
        (("--export", "x.json", "--session", "nobody"), 2, "there is no session nobody"),
        (("--export", "x.json", "--session", ".."), 2, "session.name"),
    ],
)
def test_what_cannot_be_done_is_told(chat: Chat, home: Home, flags: tuple[str, ...], code: int, what: str) -> None:
    (home.path / "bad.json").write_text('[{"role": "robot"}]', encoding="utf-8")
    (home.path / "bad.safetensors").write_bytes(b"junk")
    (home.path / "model.bin").write_bytes(b"\0\1")
    done = chat(*flags)
    assert done.returncode == code
    assert what in done.stderr
    assert not (home.path / "artifacts").exists()
    assert not (home.path / "x.json").exists()


def test_an_open_session_can_be_exported(enter: Enter, chat: Chat, home: Home) -> None:
    room = enter("--session", "diary")
    room.talk.say("hello")
    assert chat("--export", "now.json", "--session", "diary").returncode == 0
    assert json.loads((home.path / "now.json").read_bytes())["messages"][0] == {"role": "user", "content": "hello"}


@pytest.mark.needs_model
def test_the_demo_models_conversation_goes_out_as_it_was_said(tmp_path: Path) -> None:
    if not (ROOT / "artifacts/models/SmolLM2-135M-Instruct.Q4_1.gguf").exists():
        pytest.skip("python tools/bootstrap_env.py brings the demo model")
    places = ["--set", f"session.root={tmp_path / 'sessions'}", "--log-dir", str(tmp_path)]

    def chat(*flags: str) -> str:
        line = [sys.executable, "-m", "nanochat.chat", *places, *flags]
        done = subprocess.run(
            line, capture_output=True, encoding="utf-8", env=environment(), cwd=ROOT, timeout=240, check=True
        )
        return done.stdout.removeprefix("MegaContext> ")

    said = [{"role": "user", "content": "My dog is Biscuit."}, {"role": "assistant", "content": "A lovely name!"}]
    (tmp_path / "talk.json").write_text(json.dumps({"messages": said}), encoding="utf-8")
    chat("--import", str(tmp_path / "talk.json"))
    reply = chat("--continue", "-p", "What is my dog called?", "-t", "0", "--max-tokens", "24")
    assert "Biscuit" in reply
    chat("--export", str(tmp_path / "back.json"))
    found = json.loads((tmp_path / "back.json").read_bytes())["messages"]
    assert found[:3] == [*said, {"role": "user", "content": "What is my dog called?"}]
    assert found[3]["content"] == reply.removesuffix("\n")
