"""/sessions, /fork, /save, /load: what they answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nanochat.streams import note

if TYPE_CHECKING:
    from megacontext.sessions.listing import SessionInfo
    from nanochat.chat.talk import Talk

UNITS = ("B", "kB", "MB", "GB", "TB")


def show_sessions(talk: Talk, _: str) -> None:
    """/sessions"""
    from megacontext.sessions.listing import list_sessions

    if talk.desk.session.name is not None:
        talk.desk.session.sync()  # so that the list counts what was said
    note("\n".join(session_lines(list_sessions(talk.desk.root), talk.desk.session.name)))


def fork(talk: Talk, rest: str) -> None:
    """/fork [NAME]"""
    before = talk.desk.session.name
    if _taken(talk, lambda: talk.desk.fork(rest or None)):
        note(f"from here on this is {talk.desk.session.name}; {before} stays as it is: /load {before} goes back")


def load(talk: Talk, rest: str) -> None:
    """/load NAME"""
    if not rest:
        note("which session? /load NAME; /sessions lists them")
        return
    before, tokens = talk.desk.session.name, len(talk.desk.session)
    if _taken(talk, lambda: talk.desk.load(rest)) and before is None and tokens:
        note(f"(the ephemeral conversation of {tokens:,} tokens is gone)")


def save(talk: Talk, rest: str) -> None:
    """/save [NAME]"""
    kept = talk.desk.session.name
    if not _taken(talk, lambda: talk.desk.save(rest or None)):
        return
    session, size = talk.desk.session, f"{len(talk.desk.session):,} tokens"
    if not rest:
        note(f"saved: {size} in {session.folder}; every turn is saved anyway")
    elif kept is None:
        note(f"saved: {size} in {session.folder}; from here on every turn is")
    else:
        note(f"a copy of {size} is in {talk.desk.root / rest}; this goes on as {kept}")


def session_lines(sessions: Sequence[SessionInfo], current: str | None) -> list[str]:
    """A table, the one last written to first; `current` is marked."""
    if not sessions:
        return ["no session yet"]
    wide = max(len("name"), *(len(info.name) for info in sessions))
    lines = [f"  {'name':<{wide}} {'tokens':>11} {'turns':>6}  {'last written':<16} {'on disk':>8}  model"]
    for info in sessions:
        mark = "*" if info.name == current else " "
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.written))
        counts = f"{info.tokens:>11,} {info.turns:>6,}  {when} {_size(info.bytes):>8}"
        lines.append(f"{mark} {info.name:<{wide}} {counts}  {info.model}")
        if info.damage:
            lines.append(f"    {info.damage}")
    return lines


def _size(size: float) -> str:
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"


def _taken(talk: Talk, step: Callable[[], None]) -> bool:
    """Whether `step` was taken. Ctrl-C stops it; then everything is as before."""
    try:
        step()
    except KeyboardInterrupt:
        name = talk.desk.session.name
        note(f"\n(stopped; this is still {'the ephemeral conversation' if name is None else f'session {name}'})")
        return False
    return True
