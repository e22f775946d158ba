"""What begins with a slash. One entry here is one command: its words in /help and what it does."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import NamedTuple

from megacontext.errors import MegaContextError
from nanochat.chat import session_commands
from nanochat.chat.meter import context_lines, stats_lines, tree_lines
from nanochat.chat.talk import Talk, open_document
from nanochat.chat.why import USAGE, why_lines
from nanochat.streams import note


class Leave(Exception):
    """/exit."""


class Command(NamedTuple):
    """usage and help stand in /help; run gets the talk and what follows the name."""

    usage: str
    help: str
    run: Callable[[Talk, str], None]


def run_command(talk: Talk, line: str) -> None:
    """Do what `line` (with its slash) says; an unknown one is answered with the nearest. Raises Leave for /exit."""
    name, _, rest = line.strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        near = get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
        guess = f"did you mean {near[0]}?" if near else "/help lists the commands."
        note(f"unknown command {name}: {guess} (A space before the slash says it to the model.)")
        return
    try:
        command.run(talk, rest.strip())
    except MegaContextError as error:
        note(f"error: {error}")


def _help(talk: Talk, _: str) -> None:
    for command in COMMANDS.values():
        note(f"  {command.usage:<13} {command.help}")
    note('  """           begins and ends text of several lines')
    note("  Ctrl-C        stops a reply and keeps it; at the prompt, twice leaves. Ctrl-D leaves.")


def _context(talk: Talk, _: str) -> None:
    note("\n".join(context_lines(talk.conversation.cache)))


def _tree(talk: Talk, _: str) -> None:
    note("\n".join(tree_lines(talk.conversation.cache)))


def _stats(talk: Talk, _: str) -> None:
    last = talk.conversation.last
    note("\n".join(stats_lines(talk.conversation.cache, last.event if last else None)))


def _why(talk: Talk, rest: str) -> None:
    if not rest:
        note(f"which part of history? {USAGE}")
        return
    note("\n".join(why_lines(talk.conversation, talk.edits, rest)))


def _read(talk: Talk, rest: str) -> None:
    if not rest:
        note("which file? /read FILE")
        return
    talk.read(open_document(rest.strip("\"'")))


def _exit(talk: Talk, _: str) -> None:
    raise Leave


COMMANDS = {
    "/help": Command("/help", "this list", _help),
    "/context": Command("/context", "what is in view: entries by level, tail, slots and budget", _context),
    "/tree": Command("/tree", "the levels of history", _tree),
    "/why": Command("/why SPAN", 'why a part of history is exact or folded: /why 1024:1056, /why "some words"', _why),
    "/stats": Command("/stats", "all figures of the memory and of the last turn", _stats),
    "/read": Command("/read FILE", "take a whole document into memory", _read),
    "/sessions": Command("/sessions", "all sessions; the one that is open is marked", session_commands.show_sessions),
    "/load": Command("/load NAME", "leave this session for another one", session_commands.load),
    "/fork": Command("/fork [NAME]", "go on in a copy of this session; this one stays as it is", session_commands.fork),
    "/save": Command(
        "/save [NAME]", "keep an ephemeral conversation, or a copy of this session", session_commands.save
    ),
    "/exit": Command("/exit", "leave", _exit),
}
