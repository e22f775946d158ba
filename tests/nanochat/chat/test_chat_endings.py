"""However a chat ends, no finished turn is lost, and a reply cut short is kept as far as it was shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests_chat import PROMPT, Home, command, environment, leave

from megacontext.models.load_text import load_text
from megacontext.sessions.stored import read_session
from megacontext.sessions.transcript import Message, transcript
from megacontext.telemetry.schema import validate_line
from nanochat.harmless import harmless

if sys.platform == "win32":
    pytest.skip("signals and terminals of POSIX", allow_module_level=True)

Endless = Callable[..., "subprocess.Popen[bytes]"]
Terminal = Callable[..., Any]
LONG = ("--session", "s", "--set", "chat.max_tokens=1000000")


def said(home: Home, name: str = "s") -> list[Message]:
    """What the session holds, as it lies on disk."""
    session = read_session(home.path / "artifacts" / "sessions" / name)
    assert session.damage == ""
    assert session.turns[-1].stop == len(session.tokens)
    tokens = session.tokens.tolist()
    text = load_text(home.model, session.vocab)
    return transcript(text, lambda start, stop: tokens[start:stop], len(tokens), session.turns)


def ends(home: Home) -> list[int]:
    """The exit codes in the event logs; each log is whole."""
    logs = [[validate_line(line) for line in path.read_bytes().splitlines()] for path in home.logs.glob("*.log")]
    return [log[-1]["exit_code"] for log in logs]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_reply_in_order_and_keeps_what_was_shown(
    endless: Endless, home: Home, number: signal.Signals
) -> None:
    process = endless("--session", "s")
    first = process.stdout.read(200)
    process.send_signal(number)
    rest, errors = process.stdout.read(), process.stderr.read()
    assert process.wait(60) == 128 + number
    assert b"Traceback" not in errors
    user, reply = said(home)
    assert user == Message("user", "hi")
    assert harmless(reply.content) + "\n" == (first + rest).decode()
    assert ends(home) == [128 + number]


def test_json_lines_end_with_the_reply_as_it_was_kept(endless: Endless, home: Home) -> None:
    process = endless("--session", "s", "--json")
    process.send_signal(signal.SIGTERM)
    lines = [json.loads(line) for line in (b'{"v": 1, "typ' + process.stdout.read()).splitlines()]
    assert process.wait(60) == 143
    _, reply = said(home)
    assert lines[-1]["type"] == "reply"
    assert lines[-1]["text"] == reply.content


def test_a_reader_that_leaves_early_finds_what_it_read_in_the_session(endless: Endless, home: Home) -> None:
    process = endless("--session", "s")
    first = process.stdout.read(100)
    process.stdout.close()
    assert process.wait(60) == 1
    _, reply = said(home)
    assert harmless(reply.content).encode().startswith(first)


def test_a_signal_that_is_ignored_stays_ignored(home: Home) -> None:
    line = ["nohup", *command(home, "-p", "hi", "--max-tokens", "400", "--session", "s")]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), cwd=home.path, stdin=subprocess.DEVNULL
    )
    process.stdout.read(20)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert ends(home) == [0]


def test_a_document_that_is_being_read_is_kept_as_far_as_it_was_read(home: Home) -> None:
    book = "The owl sleeps in the barn. " * 1500
    (home.path / "big.txt").write_text(book, encoding="utf-8")
    line = command(home, "--read", "big.txt", "--session", "s", "--cache", "megacontext", "--budget", "512")
    process = subprocess.Popen(line, stderr=subprocess.PIPE, env=environment(), cwd=home.path)
    log = home.path / "artifacts/sessions/s/tokens.log"
    wait_for(lambda: log.exists() and log.stat().st_size > 16_384)  # a frame is full
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"tokens of big.txt (stopped)" in errors
    (document,) = said(home)
    assert document.role == "document"
    assert 4096 <= len(document.content) < len(book)
    assert book.startswith(document.content)


def test_a_signal_while_a_session_is_read_again_changes_nothing(home: Home) -> None:
    (home.path / "big.json").write_text(json.dumps([{"role": "user", "content": "An owl. " * 5000}]), encoding="utf-8")
    subprocess.run(
        command(home, "--import", "big.json", "--session", "s"), env=environment(), cwd=home.path, check=True
    )
    before = said(home)
    line = command(home, "--session", "s", "-p", "x", "--cache", "megacontext", "--budget", "512")
    process = subprocess.Popen(line, stderr=subprocess.PIPE, env=environment(), cwd=home.path)
    for seen in process.stderr:
        if b"session s" in seen:
            break
    process.send_signal(signal.SIGTERM)
    process.stderr.read()
    assert process.wait(60) == 143
    assert said(home) == before


@pytest.mark.parametrize("escapes", ["xterm", "dumb"])
def test_a_closed_terminal_at_the_prompt_loses_nothing(terminal: Terminal, home: Home, escapes: str) -> None:
    child = terminal("--session", "s", TERM=escapes)
    child.sendline("hello")
    child.expect("tok/s")
    child.expect(PROMPT)
    child.close(force=False)
    wait_for(lambda: len(ends(home)) == 1 and ends(home) in ([129], [0]))
    assert [message.role for message in said(home)] == ["user", "assistant"]


def test_a_terminal_closed_in_the_middle_of_a_reply_keeps_what_was_shown(terminal: Terminal, home: Home) -> None:
    child = terminal(*LONG)
    child.sendline("hello")
    child.expect("MegaContext> (.{50})")
    shown = child.match[1].replace("\r\n", "\n").rstrip("\r")
    child.close(force=False)
    wait_for(lambda: bool(ends(home)) and ends(home)[0] in (1, 129))
    user, reply = said(home)
    assert user == Message("user", "hello")
    assert harmless(reply.content).startswith(shown)


@pytest.mark.parametrize("escapes", ["xterm", "dumb"])
def test_sigterm_at_the_prompt_leaves_in_order(terminal: Terminal, home: Home, escapes: str) -> None:
    pexpect = pytest.importorskip("pexpect")
    child = terminal("--session", "s", TERM=escapes)
    child.sendline("hello")
    child.expect("tok/s")
    child.expect(PROMPT)
    child.kill(signal.SIGTERM)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 143
    assert ends(home) == [143]


def test_a_second_ctrl_c_in_a_reply_leaves_at_once_and_keeps_it(terminal: Terminal, home: Home) -> None:
    pexpect = pytest.importorskip("pexpect")
    child = terminal(*LONG)
    child.sendline("hello")
    child.expect("MegaContext> .")
    for _ in range(2):
        child.sendintr()
    child.expect([PROMPT, pexpect.EOF])  # the second one may come when the reply is over already
    if child.isalive():
        child.sendintr()
        child.sendintr()
        child.expect(pexpect.EOF)
    child.close()
    # One that comes while the interpreter ends kills it, which is the same 130 to a shell.
    assert child.exitstatus == 130 or child.signalstatus == signal.SIGINT
    assert said(home)[0] == Message("user", "hello")


def test_ctrl_d_after_turns_and_a_fork_keeps_all(terminal: Terminal, home: Home) -> None:
    child = terminal("--session", "s")
    child.sendline("hello")
    child.expect("tok/s")
    child.expect(PROMPT)
    child.sendline("/fork t")
    child.expect("from here on this is t; s stays as it is")
    child.expect(PROMPT)
    child.sendline("more")
    child.expect("tok/s")
    child.expect(PROMPT)
    child.sendline("/sessions")
    child.expect(r"\* t ")
    child.expect(PROMPT)
    assert leave(child) == 0
    assert [message.content for message in said(home) if message.role == "user"] == ["hello"]
    assert [message.content for message in said(home, "t") if message.role == "user"] == ["hello", "more"]


def test_killed_while_it_copies_leaves_no_half_fork(home: Home, terminal: Terminal) -> None:
    child = terminal("--session", "s", "--cache", "megacontext", "--budget", "512")
    child.sendline("hello")
    child.expect("tok/s")
    child.expect(PROMPT)
    root = home.path / "artifacts/sessions"
    for number in range(3000):  # something that takes a while to copy
        (root / "s" / f"{number}.ctx").write_bytes(b"x")
    child.sendline("/fork t")
    wait_for(lambda: bool(list(root.glob(".new-*/t/1.ctx"))))
    child.kill(signal.SIGKILL)
    child.close()
    assert [path.name for path in root.glob("[!.]*")] == ["s"]
    assert len(list(root.glob(".new-*"))) == 1
    child = terminal("--continue")
    child.sendline("/fork t")
    child.expect("from here on this is t")
    child.expect(PROMPT)
    assert leave(child) == 0
    assert sorted(os.listdir(root)) == ["s", "t"]
