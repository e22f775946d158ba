"""The chat as people use it: a real terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest
from tests_chat import PROMPT, Home, command, environment, leave

from megacontext.telemetry.schema import validate_line

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)
pexpect = pytest.importorskip("pexpect")
readline = pytest.importorskip("readline")

Terminal = Callable[..., "pexpect.spawn"]
LONG = ("--set", "chat.max_tokens=100000")


def events(home: Home) -> list[dict]:
    (path,) = home.logs.glob("*.log")
    return [validate_line(line) for line in path.read_bytes().splitlines()]


def test_a_line_is_answered_and_the_prompt_returns(terminal: Terminal) -> None:
    child = terminal()
    child.sendline("hello")
    child.expect("MegaContext> ")
    child.expect(r"ctx \d+.*tok/s")
    child.expect(PROMPT)
    assert leave(child) == 0


def test_ctrl_c_stops_a_reply_keeps_it_and_returns_to_the_prompt(terminal: Terminal, home: Home) -> None:
    child = terminal(*LONG)
    child.sendline("hello")
    child.expect("MegaContext> .")
    child.sendintr()
    child.expect("the reply so far is kept")
    child.expect(PROMPT)
    child.sendline("/stats")
    child.expect("generated_tokens")
    child.expect(PROMPT)
    assert leave(child) == 0
    (turn,) = [event for event in events(home) if event["type"] == "turn"]
    assert turn["stop"] == "interrupted"
    assert turn["generated_tokens"] > 0
    assert turn["history_tokens"] == turn["prompt_tokens"] + turn["generated_tokens"]


def test_a_conversation_goes_on_after_an_interrupted_reply(terminal: Terminal, home: Home) -> None:
    child = terminal(*LONG)
    for _ in range(2):
        child.sendline("hello")
        child.expect("MegaContext> .")
        child.sendintr()
        child.expect("the reply so far is kept")
        child.expect(PROMPT)
    assert leave(child) == 0
    assert [event["turn"] for event in events(home) if event["type"] == "turn"] == [1, 2]


def test_ctrl_c_twice_at_the_prompt_leaves_with_130(terminal: Terminal, home: Home) -> None:
    child = terminal()
    child.sendintr()
    child.expect("Ctrl-C again")
    child.expect(PROMPT)
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert events(home)[-1]["exit_code"] == 130


def test_ctrl_c_counts_anew_after_something_was_said(terminal: Terminal) -> None:
    child = terminal()
    for _ in range(2):
        child.sendintr()
        child.expect("Ctrl-C again")
        child.expect(PROMPT)
        child.sendline("/help")
        child.expect("/context")
        child.expect(PROMPT)
    assert leave(child) == 0


def test_fences_hold_several_lines_together(terminal: Terminal, home: Home) -> None:
    child = terminal()
    for line in ('"""first', "second", 'third"""'):
        child.sendline(line)
    child.expect("MegaContext> ")
    child.expect(PROMPT)
    leave(child)
    assert [event["type"] for event in events(home)].count("turn") == 1


def test_pasted_lines_are_one_text(terminal: Terminal, home: Home) -> None:
    if "libedit" in (readline.__doc__ or ""):
        pytest.skip("libedit knows no bracketed paste")
    child = terminal()
    child.send("\x1b[200~first\nsecond\nthird\x1b[201~\r")
    child.expect("MegaContext> ")
    child.expect(PROMPT)
    leave(child)
    assert [event["type"] for event in events(home)].count("turn") == 1


def test_commands_answer_without_the_model(terminal: Terminal) -> None:
    child = terminal()
    for line, answer in (
        ("/context", "history"),
        ("/tree", "tokens"),
        ("/help", "/read FILE"),
        ("/contxt", "/context"),
    ):
        child.sendline(line)
        child.expect_exact(answer)
        child.expect(PROMPT)
    child.sendline("/exit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_document_is_read_at_the_prompt(terminal: Terminal, home: Home) -> None:
    (home.path / "my notes.txt").write_text("A red door. " * 50, encoding="utf-8")
    child = terminal()
    child.sendline("/read my notes.txt")
    child.expect(r"read my notes.txt: \d+ tokens")
    child.expect(PROMPT)
    child.sendline("/read nowhere.txt")
    child.expect("error: nowhere.txt")
    child.expect(PROMPT)
    assert leave(child) == 0


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_no_escape_code_reaches_a_terminal_that_wants_none(home: Home, environ: dict[str, str]) -> None:
    line = command(home)
    env = environment(**{"TERM": "xterm", **environ})
    child = pexpect.spawn(line[0], line[1:], env=env, cwd=str(home.path), encoding="utf-8", timeout=60)
    seen = []
    child.expect(PROMPT)
    seen.append(child.before)
    child.sendline("hello")
    child.expect(PROMPT)
    seen.append(child.before)
    assert leave(child) == 0
    assert not re.search("\x1b", "".join(seen))


def test_why_tells_what_became_of_a_part_of_history(terminal: Terminal, home: Home) -> None:
    home.config.write_text(home.config.read_text().replace("full", "megacontext\n  budget: 512"), encoding="utf-8")
    (home.path / "notes.txt").write_text("The owl sleeps in the barn. " * 60, encoding="utf-8")
    child = terminal()
    child.sendline("/read notes.txt")
    child.expect(PROMPT)
    child.sendline("/why 0:64")
    child.expect(r"LOD0\[0:32\]  exact: the beginning of history always is")
    child.expect(r"folded away since tick \d+: ")
    child.expect(PROMPT)
    child.sendline('/why "the BARN"')
    child.expect(r"tokens \[\d.*barn")
    child.expect(PROMPT)
    child.sendline("/why barn")
    child.expect("'barn' names no part of history: write /why START:END")
    child.expect(PROMPT)
    assert leave(child) == 0


def test_why_in_a_session_that_goes_on_knows_what_an_earlier_run_decided(terminal: Terminal, home: Home) -> None:
    home.config.write_text(home.config.read_text().replace("full", "megacontext\n  budget: 512"), encoding="utf-8")
    numbers = " ".join(map(str, range(100, 500)))
    notes = f"{numbers[:400]} The owl sleeps in the barn. {numbers[400:]}"
    (home.path / "notes.txt").write_text(notes, encoding="utf-8")
    first = terminal("--session", "owl")
    first.sendline("/read notes.txt")
    first.expect(PROMPT)
    assert leave(first) == 0
    child = terminal("--session", "owl")
    child.sendline("/why 32:1500")
    child.expect(r"folded away since tick \d+: ")
    child.expect(PROMPT)
    assert "earlier run" not in child.before
    child.sendline("Where does the owl sleep?")
    child.expect("tok/s")
    child.expect(PROMPT)
    child.sendline('/why "owl sleeps"')
    child.expect(r"expanded \w+ .*, score 0\.\d+")
    child.expect(PROMPT)
    assert leave(child) == 0
