"""A new session that is there whole or not at all: made in a folder of its own, moved to its name in one step.

    <root>/.new-<random>/lock      held while the session is being made
                         <name>/   becomes <root>/<name>

What a crash leaves is no session, and is cleared away when the next one is made.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

from megacontext.errors import ConfigError, StoreError
from megacontext.session import Session, Turn, session_folder
from nanochat.files import FileLock, make_folder, sync_folder

PREFIX, LOCK_NAME = ".new-", "lock"
PIECE = 1 << 16  # tokens copied in one go

TokensOf = Callable[[int, int], Sequence[int]]  # (start, stop) -> ids


class MadeWith(NamedTuple):
    """What a session is made with: see Session.open."""

    vocab: int
    fingerprint: str
    model: str = ""
    weights: str = ""


@contextmanager
def making(root: Path | str, name: str) -> Iterator[Path]:
    """A folder below which `name` is to be made; at the end it stands below `root`.

    Raises ConfigError for a name that is taken or not usable, StoreError if the disk refuses.
    """
    root = Path(root)
    check_free(root, name)
    workshop = root / f"{PREFIX}{secrets.token_hex(8)}"
    try:
        make_folder(root)
        _clear_away(root)
        workshop.mkdir(mode=0o700)
        lock = FileLock(workshop / LOCK_NAME)
        try:
            lock.acquire()
            yield workshop
            _move(workshop / name, root / name)
        finally:
            lock.release()
            shutil.rmtree(workshop, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"cannot make the session {root / name}: {error}") from error


def write_session(
    root: Path | str,
    name: str,
    made_with: MadeWith,
    tokens: TokensOf,
    total: int,
    turns: Sequence[Turn],
    *,
    more: Callable[[Path], None] | None = None,
) -> None:
    """Write `total` tokens and their turns as the new session `name`. more: adds to the folder before it is there.

    Raises as `making`, and ValueError for tokens or turns that make no session.
    """
    with making(root, name) as workshop:
        with Session.open(workshop, name, **made_with._asdict()) as session:
            for start in range(0, total, PIECE):
                session.append(list(tokens(start, min(start + PIECE, total))))
            for turn in turns:
                session.add_turn(turn.role, turn.start, turn.stop)
        if more is not None:
            more(workshop / name)
        sync_folder(workshop / name)


def check_free(root: Path, name: str) -> None:
    """Raises ConfigError if there is such a session, or cannot be."""
    if os.path.lexists(session_folder(root, name)):
        raise ConfigError(
            f"there is a session {name} already: choose another name, or open that one (/load {name}, --session {name})"
        )


def free_name(root: Path | str, name: str) -> str:
    """`name` if there is no such session, else the first of name-2, name-3, ... that is free."""
    for number in count(1):
        ending = "" if number == 1 else f"-{number}"
        found = name[: 64 - len(ending)] + ending
        if not os.path.lexists(session_folder(root, found)):
            return found
    raise AssertionError("numbers do not end")


def _move(made: Path, target: Path) -> None:
    if os.path.lexists(target):  # where the system would replace an empty folder
        raise StoreError(f"{target} was made by another process meanwhile: choose another name")
    os.rename(made, target)
    sync_folder(target.parent)


def _clear_away(root: Path) -> None:
    """What crashes left: nobody holds its lock."""
    for workshop in root.glob(f"{PREFIX}*"):
        if workshop.is_symlink() or not (workshop / LOCK_NAME).is_file():
            continue
        lock = FileLock(workshop / LOCK_NAME)
        if lock.acquire():
            lock.release()
            shutil.rmtree(workshop, ignore_errors=True)
