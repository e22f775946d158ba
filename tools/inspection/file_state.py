"""What state a file of a session is in, as a value. Everything that checks files answers with these."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

State = Literal["ok", "torn tail", "damaged", "missing", "unusable", "left over", "strange", "unknown"]


class FileState(NamedTuple):
    """name: below the session's folder. bytes: its length. note: what it holds, or what its state costs.

    state:  ok
            torn tail    a crash cut a write off, or a process writes just now; the next opening mends it
            damaged      other bytes than were written, from byte `at` on
            missing      not there
            unusable     whole, and of no use: of another version, or for other tokens
            left over    of a crash; the next opening removes it
            strange      a link, a pipe, a device
            unknown      nothing that a session has
    refused: whether the chat opens the session in spite of it, or exits with 4.
    """

    name: str
    state: State
    bytes: int
    note: str
    at: int | None = None
    refused: bool = False

    @property
    def told(self) -> str:
        """State and place in words."""
        return self.state if self.at is None else f"{self.state} at byte {self.at:,}"


def counted(number: int, noun: str) -> str:
    """'1 frame', '2,000 frames'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_strange(path: Path) -> bool:
    """A link, a pipe, a device: no file of a session, so the chat refuses the session."""
    return path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir())


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0
