"""The prompt loop: read, reply, again."""

from __future__ import annotations

import sys

from nanochat.chat.commands import Leave, run_command
from nanochat.chat.talk import Talk
from nanochat.chat.terminal import SecondCtrlC, escapes_allowed
from nanochat.streams import note

PROMPT = "You> "
MORE = "...> "
FENCE = '"""'
INTERRUPTED = 130


def repl(talk: Talk) -> int:
    """Until /exit, Ctrl-D or a closed terminal (returns 0) or a second Ctrl-C in a row (returns 130)."""
    note("/help lists the commands, Ctrl-D leaves")
    strikes = 0
    while strikes < 2:
        try:
            text = read_input()
            strikes = int(_answer(talk, text))
        except SecondCtrlC:
            return INTERRUPTED
        except KeyboardInterrupt:
            strikes += 1
            note("" if strikes > 1 else "\n(Ctrl-C again or Ctrl-D leaves)")
        except EOFError:
            note("")
            return 0
        except Leave:
            return 0
    return INTERRUPTED


def _answer(talk: Talk, text: str) -> bool:
    """Whether Ctrl-C stopped the answer."""
    if text.startswith("/"):
        run_command(talk, text)
        return False
    if not text.strip():
        return False
    return talk.say(text).event.stop == "interrupted"


def read_input() -> str:
    """One line, or the lines between two fences. Raises EOFError at the end of input."""
    line = _read_line(PROMPT)
    if not line.lstrip().startswith(FENCE):
        return line
    lines = [line.lstrip().removeprefix(FENCE)]
    while not lines[-1].rstrip().endswith(FENCE):
        lines.append(_read_line(MORE))
    lines[-1] = lines[-1].rstrip().removesuffix(FENCE)
    return "\n".join(lines).strip("\n")


def _read_line(prompt: str) -> str:
    """With line editing where the terminal can; else plain, with the prompt on stderr, and no escape codes."""
    try:
        if sys.stdin.isatty() and escapes_allowed(sys.stdout) and _has_readline():
            return input(prompt)
        sys.stderr.write(prompt)
        sys.stderr.flush()
        line = sys.stdin.readline()
    except OSError as error:  # the terminal is gone
        raise EOFError from error
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _has_readline() -> bool:
    """Importing it gives input() its line editing and history; a paste of several lines then is one text."""
    try:
        import readline
    except ImportError:
        return False
    readline.parse_and_bind("set enable-bracketed-paste on")
    return True
