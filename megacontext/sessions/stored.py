"""Reads a session as it lies on disk, whoever has it open: no lock is taken, and no byte changed.

What opening would repair (a torn tail, a torn turn) is left out and told instead. Its files are untrusted: sizes are
checked before reading, and a link is no file of a session.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
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
    Turn,
    parse_turns,
)
from megacontext.tree import token_frames as frames
from megacontext.tree.frame_run import read_runs
from nanochat.files import read_json

TAIL_LIMIT = frames.TAIL_LIMIT


@dataclass(frozen=True)
class StoredSession:
    """tokens: (n,) uint32. model: what session.json calls it; weights: its fingerprint, or "". damage: what could not
    be read, or ""; lost: whether that had once been whole.
    """

    folder: Path
    model: str
    weights: str
    created: str
    vocab: int
    fingerprint: str
    tokens: np.ndarray
    turns: tuple[Turn, ...]
    damage: str = ""
    lost: bool = False

    @property
    def name(self) -> str:
        return self.folder.name


def read_session(folder: Path) -> StoredSession:
    """Raises StoreError if nothing of it can be read."""
    try:
        info = _info(folder / INFO_NAME)
        written = _turn_bytes(folder / TURNS_NAME)  # before the log: no turn then speaks of tokens not read
        with open_plain(folder / LOG_NAME) as file:
            header = _header(folder / LOG_NAME, file)
            tokens, torn, lost = _tokens(file, header.vocab)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read ({error.strerror})") from error
    turns, good = parse_turns(written, len(tokens))
    damage = [torn] if torn else []
    if good < len(written):
        damage.append(f"{len(written) - good:,} bytes of {TURNS_NAME} are torn, or speak of tokens that are not there")
    return StoredSession(
        folder,
        str(info.get("model") or "unknown"),
        str(info.get("weights") or ""),
        str(info.get("created") or "unknown"),
        header.vocab,
        str(info.get("fingerprint") or ""),
        tokens,
        tuple(turns),
        "; ".join(damage),
        lost,
    )


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading. Raises StoreError for a link, and for anything else that is no plain file."""
    if path.is_symlink() or not path.is_file():
        raise StoreError(f"{path} is no plain file: a session's files are never links")
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags), "rb", buffering=0)


def _info(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        with open_plain(path):
            found = read_json(path, limit=INFO_LIMIT)
    except ValueError as error:
        raise StoreError(f"{error}. Move it away: the tokens beside it can be read without it.") from error
    if not isinstance(found, dict) or (found.get("format"), found.get("version")) != (FORMAT, VERSION):
        raise StoreError(f"{path} is no session of version {VERSION}")
    return found


def _turn_bytes(path: Path) -> bytes:
    if not path.exists():
        return b""
    with open_plain(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > TURNS_LIMIT:
            raise StoreError(f"{path} has {size:,} bytes; at most {TURNS_LIMIT:,} are read")
        return file.read(TURNS_LIMIT)


def _header(path: Path, file: BinaryIO) -> frames.Header:
    try:
        return frames.unpack_header(file.read(frames.HEADER_BYTES))
    except ValueError as error:
        raise StoreError(f"{path} cannot be read: {error}. Restore it from a copy, or move it away.") from error


class _Found(NamedTuple):
    tokens: np.ndarray
    damage: str
    lost: bool


def _tokens(file: BinaryIO, vocab: int) -> _Found:
    """Tokens of all whole frames, and what stands behind them."""
    read = _reader(file)
    pieces: list[np.ndarray] = [np.empty(0, np.uint32)]
    end = sequence = 0
    for run in read_runs(read, frames.HEADER_BYTES, vocab):
        pieces.append(run.tokens)
        end, sequence = run.end, run.sequence
    tokens, end = np.concatenate(pieces), end or frames.HEADER_BYTES
    frame = next(frames.read_frames(read, end, sequence), None)
    if frame is not None and frame.type == frames.TOKENS and int(frame.tokens.max()) >= vocab:
        return _Found(tokens, f"an id out of the vocabulary at byte {end:,}", True)
    left = os.fstat(file.fileno()).st_size - end
    if left <= 0:
        return _Found(tokens, "", False)
    if frames.durable_length(read(end, min(left, TAIL_LIMIT))) > end:
        what = f"damaged at byte {end:,}, after {len(tokens):,} tokens, with good data behind it"
        return _Found(tokens, what, True)
    what = f"{left:,} bytes of an unfinished write at the end (a crash, or a process that writes now)"
    return _Found(tokens, what, False)


def _reader(file: BinaryIO) -> Callable[[int, int], bytes]:
    def read(offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    return read
