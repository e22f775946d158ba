"""A copy of an open session under another name, with what was derived from its tokens.

Tokens and turns are written anew, so a copy is whole even if the disk of the original failed. Derived files are copied
without being understood: their own checksums and fingerprints are looked at when the copy is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from megacontext.session import INFO_NAME, LOG_NAME, TURNS_NAME, Session
from megacontext.sessions.making import MadeWith, write_session
from nanochat.file_copy import copy_file
from nanochat.files import sync_folder

NOT_DERIVED = (INFO_NAME, LOG_NAME, TURNS_NAME, "quarantine")


def copy_session(
    source: Session,
    root: Path | str,
    name: str,
    made_with: MadeWith,
    *,
    flush: Callable[[], None] | None = None,
    write_memory: Callable[[Path], None] | None = None,
) -> None:
    """Copy `source`, which may be ephemeral, to the new session `name` below `root`.

    flush: brings derived files up to date before they are copied; without it none are. write_memory: writes them, if
    `source` has no folder. Raises as `write_session`, and as these two.
    """
    folder = source.folder if flush is not None else None
    if flush is not None:
        flush()

    def derived(target: Path) -> None:
        if folder is not None:
            copy_derived(folder, target)
        elif source.folder is None and write_memory is not None:
            write_memory(target)

    write_session(root, name, made_with, source.tokens, len(source), source.turns, more=derived)


def copy_derived(source: Path, target: Path) -> None:
    """Copy files that were derived from the tokens, one folder deep. Raises OSError when the disk fails."""
    folders = set()
    for file in list(_derived(source)):
        new = target / file.relative_to(source)
        new.parent.mkdir(mode=0o700, exist_ok=True)
        copy_file(file, new)
        folders.add(new.parent)
    for folder in folders:
        sync_folder(folder)


def _derived(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name in NOT_DERIVED or not _may_be_copied(entry):
            continue
        if entry.is_dir():
            yield from (file for file in sorted(entry.iterdir()) if file.is_file() and _may_be_copied(file))
        else:
            yield entry


def _may_be_copied(path: Path) -> bool:
    """No lock, nothing half written, no link."""
    hidden = path.name.startswith(".") or path.name.endswith((".lock", ".tmp"))
    return not hidden and not path.is_symlink() and os.access(path, os.R_OK)
