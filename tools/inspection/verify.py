"""Verifies a session: every byte of every file is read, none is changed, no lock is taken.

A session that is open elsewhere can be verified; a write that goes on just then may look like a torn tail.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from megacontext.errors import StoreError
from megacontext.session import INFO_NAME, LOG_NAME, TURNS_NAME, repair_command
from megacontext.tree.memory_files import TURN_NAME, VIEW_NAME
from megacontext.tree.quarantine import FOLDER_NAME as QUARANTINE
from tools.inspection.check_derived import check_ctx, check_segment, check_view, folder_size
from tools.inspection.check_truth import check_info, check_log, check_turns
from tools.inspection.file_state import FileState, counted, is_strange

LEXICAL = "lexical"
LOCK = LOG_NAME + ".lock"
MENDED = {"torn tail", "damaged", "unusable", "left over"}  # what --repair does something about


class Verified(NamedTuple):
    """tokens: whole ones before any damage to the log."""

    folder: Path
    tokens: int
    files: tuple[FileState, ...]

    @property
    def refused(self) -> bool:
        """Whether the chat refuses to open the session."""
        return any(file.refused for file in self.files)

    @property
    def exit_code(self) -> int:
        """4 where the chat refuses the session; damage that it mends by itself is 0."""
        return StoreError.exit_code if self.refused else 0

    @property
    def summary(self) -> str:
        """One line, with what to run."""
        tokens = counted(self.tokens, "token")
        mendable = [file for file in self.files if file.state in MENDED]
        if self.refused:
            beyond = [f"{file.name} ({file.note})" for file in self.files if file.refused and file.state not in MENDED]
            way_out = f"first mend {', '.join(beyond)}" if beyond else f"run {repair_command(self.folder)}"
            return f"damaged: {tokens} can be read, and the chat opens it no more: {way_out}"
        if not mendable:
            return f"whole: {tokens}"
        named = ", ".join(file.name for file in mendable)
        return f"whole: {tokens}; what is wrong with {named} costs time, no tokens"


def verify(folder: Path) -> Verified:
    """Check all files of a session. Never raises for what is in them."""
    log = check_log(folder)
    info, content = check_info(folder, log.header)
    view = check_view(folder, log.ids)
    truth = (info, log.state, check_turns(folder, len(log.ids)))
    derived = _derived(folder, content, log.ids, view.length or len(log.ids))
    return Verified(folder, len(log.ids), (*truth, *derived, view.state))


def _derived(folder: Path, info: dict[str, Any], ids: np.ndarray, read: int) -> Iterator[FileState]:
    """read: tokens that the memory has read of them."""
    yield from (_strange(path, folder) for path in sorted(folder.rglob("*")) if is_strange(path))
    for path in sorted(folder.iterdir()):
        if path.name in (INFO_NAME, LOG_NAME, TURNS_NAME, VIEW_NAME, LOCK) or is_strange(path):
            continue
        if path.name == QUARANTINE and path.is_dir():
            yield _quarantine(path)
        elif path.name == TURN_NAME:
            yield check_view(folder, ids, TURN_NAME).state
        elif path.suffix == ".ctx":
            yield check_ctx(path, info, read)
        elif path.name == LEXICAL and path.is_dir():
            yield from (_in_lexical(file, ids) for file in sorted(path.iterdir()) if not is_strange(file))
        else:
            yield _other(path, path.name)


def _in_lexical(path: Path, ids: np.ndarray) -> FileState:
    return check_segment(path, ids) if path.suffix == ".lex" else _other(path, f"{LEXICAL}/{path.name}")


def _quarantine(path: Path) -> FileState:
    files, size = folder_size(path)
    note = f"{counted(files, 'piece')} that earlier openings or repairs cut out; nothing reads them"
    return FileState(f"{QUARANTINE}/", "ok", size, note)


def _strange(path: Path, folder: Path) -> FileState:
    kind = "a link" if path.is_symlink() else "a pipe or a device"
    name = path.relative_to(folder).as_posix()
    return FileState(name, "strange", 0, f"{kind}: put the file itself in its place, or move it away", refused=True)


def _other(path: Path, name: str) -> FileState:
    size = path.stat().st_size if path.is_file() else folder_size(path)[1]
    if path.name.startswith(".") and path.suffix == ".tmp":
        return FileState(name, "left over", size, "a file that a crash left half written")
    return FileState(name, "unknown", size, "no file of a session")
