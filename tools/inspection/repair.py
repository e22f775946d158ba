"""Repairs a session: afterwards the chat opens it, with every token that could be read before the damage.

Bytes of the truth are never thrown away: what is cut out of session.json, tokens.log or turns.jsonl goes to
quarantine/. What is derived and of no use is removed; it is made again from tokens, by the chat, when it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from megacontext.errors import StoreError
from megacontext.session import INFO_NAME, LOG_NAME, TURNS_NAME, mend_turns
from megacontext.tree.frame_file import FrameFile
from megacontext.tree.quarantine import FOLDER_NAME as QUARANTINE
from megacontext.tree.quarantine import set_aside
from megacontext.tree.token_frames import Header, digest_of
from megacontext.tree.token_log import TokenLog
from tools.inspection.check_derived import read_frames
from tools.inspection.check_truth import CheckedLog, check_info, check_log
from tools.inspection.file_state import FileState, counted
from tools.inspection.verify import MENDED, Verified, verify

TRUTH = (INFO_NAME, LOG_NAME, TURNS_NAME)
Tell = Callable[[str], None]


def repair(folder: Path, tell: Tell) -> Verified:
    """Mend what can be mended, telling each step in a line; returns what is so now.

    Raises StoreError if the session is open elsewhere, if its log cannot be mended, or if the disk refuses.
    """
    try:
        checked = check_log(folder)
        with TokenLog.open_as(folder / LOG_NAME, _header(folder, checked), repair=True) as log:  # locked to the end
            _tell_log(checked, log, tell)
            _mend_info(folder, tell)
            if cut := mend_turns(folder / TURNS_NAME, len(log))[1]:
                tell(f"{TURNS_NAME}: {counted(cut, 'byte')} moved to {QUARANTINE}/")
            for file in verify(folder).files:
                if file.name not in TRUTH and file.state in MENDED and not file.refused:
                    tell(f"{file.name}: {_mend_derived(folder, file)}")
    except OSError as error:
        raise StoreError(f"cannot repair {folder}: {error}") from error
    return verify(folder)


def _header(folder: Path, checked: CheckedLog) -> Header:
    """What the log's header is, or was: as session.json tells it. Raises StoreError if neither can be read."""
    if checked.header is not None:
        return checked.header
    state, info = check_info(folder, None)
    vocab, fingerprint = info.get("vocab"), info.get("fingerprint")
    if len(checked.ids) and state.state == "ok" and isinstance(vocab, int) and isinstance(fingerprint, str):
        return Header(vocab, digest_of(fingerprint))
    raise StoreError(
        f"{folder / LOG_NAME} cannot be mended ({checked.state.note}): restore it from a copy, or move the folder away"
    )


def _tell_log(checked: CheckedLog, log: TokenLog, tell: Tell) -> None:
    if checked.header is None:
        tell(f"{LOG_NAME}: its header is written anew, as {INFO_NAME} tells it; the old one moved to {QUARANTINE}/")
    if log.truncated:
        kept = counted(len(log), "token")
        tell(f"{LOG_NAME}: cut at byte {checked.end:,}, after {kept}; {log.truncated:,} bytes moved to {QUARANTINE}/")


def _mend_info(folder: Path, tell: Tell) -> None:
    state, _ = check_info(folder, check_log(folder).header)
    path = folder / INFO_NAME
    if state.state == "damaged" and path.is_file() and not path.is_symlink():
        set_aside(path, 0, path.read_bytes())
        path.unlink()
        tell(f"{INFO_NAME}: moved to {QUARANTINE}/; the next opening writes it anew")


def _mend_derived(folder: Path, file: FileState) -> str:
    """Take away what is of no use. Returns what was done."""
    path = folder / file.name
    if path.suffix == ".ctx" and file.state == "damaged" and file.at:  # its header is whole
        numbers = read_frames(path).damaged
        with closing(FrameFile.open_any(path, writable=True)) as frames:
            for number in numbers:
                frames.forget(number)
        return f"{counted(len(numbers), 'damaged frame')} taken out; made again from tokens when wanted"
    path.unlink()
    return f"removed ({file.note})"
