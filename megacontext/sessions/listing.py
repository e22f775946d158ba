"""Which sessions there are, as plain values. Each is read as it lies on disk; one that cannot be read is listed so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from megacontext.errors import StoreError
from megacontext.session import session_names
from megacontext.sessions.stored import LOG_NAME, read_session


class SessionInfo(NamedTuple):
    """written: seconds since 1970. bytes: on disk, everything derived included. damage: what opening would say."""

    name: str
    tokens: int
    turns: int
    written: float
    bytes: int
    model: str
    damage: str = ""


def list_sessions(root: Path | str) -> list[SessionInfo]:
    """Those below `root`, the one last written to first. One that holds no token is left out."""
    found = [_info(Path(root) / name) for name in session_names(root)]
    return sorted((info for info in found if info.tokens or info.damage), key=lambda info: -info.written)


def _info(folder: Path) -> SessionInfo:
    written, size = (folder / LOG_NAME).lstat().st_mtime, sum(_sizes(folder))
    try:
        session = read_session(folder)
    except StoreError as error:
        return SessionInfo(folder.name, 0, 0, written, size, "unknown", str(error))
    tokens, turns = len(session.tokens), len(session.turns)
    return SessionInfo(folder.name, tokens, turns, written, size, session.model, session.damage)


def _sizes(folder: Path) -> Iterator[int]:
    """Bytes on disk of the files in `folder` and in its folders; links are not followed."""
    for path, _, names in os.walk(folder):
        for name in names:
            status = (Path(path) / name).lstat()
            blocks = getattr(status, "st_blocks", None)
            yield status.st_size if blocks is None else 512 * blocks
