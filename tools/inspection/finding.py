"""Finds a session's folder by what a user calls it."""

from __future__ import annotations

from pathlib import Path

from megacontext.errors import ConfigError
from megacontext.session import INFO_NAME, LOG_NAME


def find_folder(root: Path, session: str) -> Path:
    """A session's folder: below `root` by name, or `session` as a path. Raises ConfigError, naming those there are."""
    for folder in (root / session, Path(session)):
        if (folder / LOG_NAME).is_file() or (folder / INFO_NAME).is_file():
            return folder
    there = sorted(path.parent.name for path in root.glob(f"*/{LOG_NAME}"))
    hint = f"there are {', '.join(there[-12:])}" if there else "none is there yet; name another folder with --root"
    raise ConfigError(f"no session {session!r} below {root}: {hint}")
