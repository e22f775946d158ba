"""Bytes that cannot be used are moved aside, never thrown away: into `quarantine/` beside the file they stood in.

<folder>/quarantine/<file>.<first byte>.<time in ns>
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from nanochat.files import atomic_write, sync_folder

FOLDER_NAME = "quarantine"
PIECE = 1 << 20  # bytes


def set_aside(path: Path, offset: int, data: bytes) -> Path:
    """Keep `data`, which stood at byte `offset` of `path`; durable when this returns. Raises OSError."""
    return _kept(path, offset, [data])


def set_tail_aside(path: Path, offset: int) -> Path:
    """Keep what stands at byte `offset` of `path` and behind it, however much that is. As `set_aside`."""
    return _kept(path, offset, _pieces(path, offset))


def _pieces(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(PIECE):
            yield piece


def _kept(path: Path, offset: int, pieces: Iterable[bytes]) -> Path:
    folder = path.parent / FOLDER_NAME
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = folder / f"{path.name}.{offset}.{time.time_ns()}"
    with atomic_write(kept, mode=0o600) as file:
        for piece in pieces:
            if piece.count(0) == len(piece):
                file.seek(len(piece), os.SEEK_CUR)  # zeros may take no room here, as where they come from
            else:
                file.write(piece)
        file.truncate()
    sync_folder(path.parent)
    return kept
