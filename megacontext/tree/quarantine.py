"""Bytes that cannot be used are moved aside, never thrown away: into `quarantine/` beside the file they stood in.

<folder>/quarantine/<file>.<first byte>.<time in ns>
"""

from __future__ import annotations

import time
from pathlib import Path

from nanochat.files import atomic_write, sync_folder

FOLDER_NAME = "quarantine"


def set_aside(path: Path, offset: int, data: bytes) -> Path:
    """Keep `data`, which stood at byte `offset` of `path`; durable when this returns. Raises OSError."""
    folder = path.parent / FOLDER_NAME
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = folder / f"{path.name}.{offset}.{time.time_ns()}"
    with atomic_write(kept, mode=0o600) as file:
        file.write(data)
    sync_folder(path.parent)
    return kept
