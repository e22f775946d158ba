"""What must hold of a session after whatever happened to the chat that wrote it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from tools.fault_programme.chats import Chat, Said, replies

NAME = "diary"  # of the session


def what_is_wrong(chat: Chat, acknowledged: Sequence[Said], *flags: str, logs: bool = True) -> str:
    """Go on with the session in a new chat, and look at what is there: "" if no acknowledged turn is lost.

    acknowledged: turns that were told as finished, in order; one more is there afterwards. flags: for the chat.
    logs: whether event logs must be whole, too.
    """
    which = ("--continue",) if acknowledged else ("--session", NAME)
    code, said = chat.run(*which, "--json", "-p", "And now?", "--max-tokens", "2", *flags)
    if code:
        return f"the session cannot be opened: exit code {code}, {chat.notes.strip()[-400:]}"
    more = replies(said)
    if len(more) != 1 or (acknowledged and more[0].history <= acknowledged[-1].history):
        return f"the session went on at {more}, after {acknowledged[-1:]}"
    told = [*acknowledged, *more]
    return lost_turns(chat, told) or broken_logs(chat.logs if logs else ()) or open_to_others(chat)


def lost_turns(chat: Chat, acknowledged: Sequence[Said]) -> str:
    """Whether each of these turns is there, in this order: "", or the first that is not."""
    from megacontext.models.load_text import load_text
    from megacontext.session import INFO_NAME, Session

    info = json.loads((chat.sessions / NAME / INFO_NAME).read_text(encoding="utf-8"))
    text = load_text(chat.model, info["vocab"])
    with Session.open(chat.sessions, NAME, vocab=text.vocab_size, fingerprint=text.fingerprint) as session:
        turns = [session.tokens(turn.start, turn.stop) for turn in session.turns if turn.role == "assistant"]
    there = iter(map(text.decode, turns))
    lost = (said for said in acknowledged if said.text not in there)  # goes on behind the last one found
    return next((f"the turn {said} is lost; there are {len(turns)}" for said in lost), "")


def open_to_others(chat: Chat) -> str:
    """Whether sessions and logs are the user's alone, however they came to be: "", or the first file that is not."""
    if os.name == "nt":
        return ""
    for root in (chat.sessions, chat.home / "logs"):
        for path in (root, *root.rglob("*")):
            if path.lstat().st_mode & 0o077:
                return f"{path.relative_to(chat.home)} has mode {path.lstat().st_mode & 0o777:o}"
    return ""


def broken_logs(logs: Sequence[Path]) -> str:
    """Whether each event log parses, but for a last line that was cut off: "", or the first that does not."""
    from megacontext.telemetry.schema import InvalidEvent, validate_line

    for log in logs:
        lines = log.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            if number == len(lines) and not line.endswith(b"\n"):
                break
            try:
                validate_line(line)
            except InvalidEvent as error:
                return f"{log.name}:{number}: {error}"
    return ""
