"""Checks what a session cannot do without: session.json, tokens.log, turns.jsonl. Reads every byte, changes none.

Knows nothing of what is derived from tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from megacontext.errors import StoreError
from megacontext.session import (
    FORMAT,
    INFO_LIMIT,
    INFO_NAME,
    LOG_NAME,
    TURNS_LIMIT,
    TURNS_NAME,
    VERSION,
    is_intact,
    parse_turns,
)
from megacontext.sessions.stored import open_plain
from megacontext.tree import token_frames as frames
from nanochat.files import read_json
from tools.inspection.file_state import FileState, counted, size_of


class CheckedLog(NamedTuple):
    """header: None if it is damaged. ids: (n,) uint32, the tokens before any damage. end: the first byte behind."""

    state: FileState
    header: frames.Header | None
    ids: np.ndarray
    end: int


def check_log(folder: Path) -> CheckedLog:
    """tokens.log: header, frames, sequence numbers, checksums, durable marks."""
    path = folder / LOG_NAME
    try:
        with open_plain(path) as file:
            return _check_log(file, path.stat().st_size)
    except (OSError, StoreError) as error:
        missing = not path.exists() and not path.is_symlink()
        note = "the session's tokens are gone: restore it from a copy" if missing else str(error)
        state = FileState(LOG_NAME, "missing" if missing else "damaged", 0, note, refused=True)
        return CheckedLog(state, None, np.empty(0, np.uint32), 0)


def _check_log(file: BinaryIO, size: int) -> CheckedLog:
    def read(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    header, wrong = _header(read(0, frames.HEADER_BYTES))
    found = _whole_frames(read, header)
    count = len(found.ids)
    if wrong:
        note = f"{wrong}; {counted(count, 'token')} can be read behind it" if count else wrong
        return CheckedLog(FileState(LOG_NAME, "damaged", size, note, 0, refused=True), header, found.ids, found.end)
    return CheckedLog(_log_state(read, size, found), header, found.ids, found.end)


def _header(data: bytes) -> tuple[frames.Header | None, str]:
    try:
        return frames.unpack_header(data), ""
    except ValueError as error:
        return None, str(error)


class _Whole(NamedTuple):
    """What stands in whole frames before any damage. unmarked: tokens behind the last durable mark."""

    frames: int
    ids: np.ndarray
    unmarked: int
    end: int


def _whole_frames(read: Callable[[int, int], bytes], header: frames.Header | None) -> _Whole:
    pieces = [np.empty(0, np.uint32)]
    count = unmarked = 0
    end = frames.HEADER_BYTES
    vocab = frames.VOCAB_LIMIT if header is None else header.vocab
    for frame in frames.read_frames(read, end):
        if frame.type == frames.TOKENS:
            if int(frame.tokens.max()) >= vocab:
                break
            pieces.append(frame.tokens)
        unmarked = unmarked + len(frame.tokens) if frame.type == frames.TOKENS else 0
        count, end = count + 1, frame.end
    return _Whole(count, np.concatenate(pieces), unmarked, end)


def _log_state(read: Callable[[int, int], bytes], size: int, found: _Whole) -> FileState:
    holds = f"{counted(len(found.ids), 'token')} in {counted(found.frames, 'frame')}"
    holds += f", {found.unmarked:,} of them not marked durable" if found.unmarked else ""
    behind = max(size - found.end, 0)
    if not behind:
        return FileState(LOG_NAME, "ok", size, holds)
    tail = read(found.end, min(behind, frames.TAIL_LIMIT))
    if frames.durable_length(tail) <= found.end:
        if behind > frames.TAIL_LIMIT:
            note = f"{holds} before it; behind it {counted(behind, 'byte')}, more than a crash leaves"
            return FileState(LOG_NAME, "damaged", size, note, found.end, refused=True)
        note = f"{holds}; then {counted(behind, 'byte')} of a write that a crash cut off, or that goes on just now"
        return FileState(LOG_NAME, "torn tail", size, note, found.end)
    note = f"{holds} before it; behind it {counted(_readable(tail), 'token')} in frames that are whole"
    return FileState(LOG_NAME, "damaged", size, note, found.end, refused=True)


def _readable(tail: bytes) -> int:
    """Tokens in whole frames anywhere in `tail`."""
    words = np.frombuffer(tail, dtype="<u4", count=len(tail) // 4)
    places = np.flatnonzero(words == int.from_bytes(frames.WORD, "little")) * 4
    found = (frames.unpack_frame(tail, int(place), int(place)) for place in places)
    return sum(len(frame.tokens) for frame in found if frame is not None and frame.type == frames.TOKENS)


def check_info(folder: Path, header: frames.Header | None) -> tuple[FileState, dict[str, Any]]:
    """session.json, held against the log's header; and what is in it."""
    path = folder / INFO_NAME
    size = size_of(path)
    if not path.exists() and not path.is_symlink():
        return FileState(INFO_NAME, "missing", 0, "the next opening writes it, without the date it was begun on"), {}
    try:
        with open_plain(path):
            info = read_json(path, limit=INFO_LIMIT)
    except (OSError, ValueError, StoreError) as error:
        return FileState(INFO_NAME, "damaged", size, str(error), refused=True), {}
    if not isinstance(info, dict) or (info.get("format"), info.get("version")) != (FORMAT, VERSION):
        return FileState(INFO_NAME, "damaged", size, f"it is no session of version {VERSION}", refused=True), {}
    if not is_intact(info):
        return FileState(INFO_NAME, "damaged", size, "its checksum does not fit what it says", refused=True), {}
    if header is not None and not describes(info, header):
        note = f"it says another vocabulary or tokenizer than {LOG_NAME}, whose header is whole"
        return FileState(INFO_NAME, "damaged", size, note, refused=True), info
    note = f"model {info.get('model') or 'unknown'}, begun {info.get('created') or 'at a time unknown'}"
    return FileState(INFO_NAME, "ok", size, note), info


def describes(info: dict[str, Any], header: frames.Header) -> bool:
    """Whether session.json and the log's header speak of one tokenizer."""
    return info.get("vocab") == header.vocab and frames.digest_of(str(info.get("fingerprint"))) == header.digest


def check_turns(folder: Path, tokens: int) -> FileState:
    """turns.jsonl, for a log of so many whole tokens."""
    path = folder / TURNS_NAME
    size = size_of(path)
    if not path.exists() and not path.is_symlink():
        return FileState(TURNS_NAME, "ok" if not tokens else "missing", 0, "no turns are known; the tokens are there")
    try:
        if size > TURNS_LIMIT:
            raise StoreError(f"at most {TURNS_LIMIT:,} bytes are read: the chat refuses it. It can be missing.")
        with open_plain(path) as file:
            data = file.read(TURNS_LIMIT)
    except (OSError, StoreError) as error:
        return FileState(TURNS_NAME, "damaged", size, str(error), refused=True)
    turns, good = parse_turns(data, tokens)
    if good == size:
        return FileState(TURNS_NAME, "ok", size, counted(len(turns), "turn"))
    rest = data[good:]
    note = f"{counted(len(turns), 'turn')}; the next opening moves {counted(len(rest), 'byte')} to quarantine/"
    return FileState(TURNS_NAME, "damaged" if b"\n" in rest else "torn tail", size, note, good)
