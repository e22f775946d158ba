"""Reads a session as it lies on disk, whoever has it open: no lock is taken, and no byte changed.

What opening would repair (a torn tail, a torn turn) is left out and told instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.errors import ConfigError, StoreError
from megacontext.session import FORMAT, INFO_LIMIT, INFO_NAME, LOG_NAME, TURNS_NAME, VERSION, Turn, parse_turns
from megacontext.tree import token_frames as frames
from nanochat.files import read_json


@dataclass(frozen=True)
class StoredSession:
    """tokens: (n,) uint32. model: what session.json calls it. damage: what could not be read, or ""."""

    folder: Path
    model: str
    created: str
    vocab: int
    fingerprint: str
    tokens: np.ndarray
    turns: tuple[Turn, ...]
    damage: str = ""

    @property
    def name(self) -> str:
        return self.folder.name


def find_folder(root: Path, session: str) -> Path:
    """A session's folder: below `root` by name, or `session` as a path. Raises ConfigError, naming those there are."""
    for folder in (root / session, Path(session)):
        if (folder / LOG_NAME).is_file():
            return folder
    there = sorted(path.parent.name for path in root.glob(f"*/{LOG_NAME}"))
    hint = f"there are {', '.join(there[-12:])}" if there else "none is there yet; name another folder with --root"
    raise ConfigError(f"no session {session!r} below {root}: {hint}")


def read_session(folder: Path) -> StoredSession:
    """Raises StoreError if nothing of it can be read."""
    try:
        info = _info(folder / INFO_NAME)
        written = (folder / TURNS_NAME).read_bytes() if (folder / TURNS_NAME).exists() else b""
        data = (folder / LOG_NAME).read_bytes()  # after the turns: no turn then speaks of tokens not read
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read ({error.strerror})") from error
    header = _header(folder / LOG_NAME, data)
    tokens, damage = _tokens(data, header.vocab)
    turns, good = parse_turns(written, len(tokens))
    if good < len(written):
        damage.append(f"{len(written) - good:,} bytes of {TURNS_NAME} are torn, or speak of tokens that are not there")
    return StoredSession(
        folder,
        str(info.get("model") or "unknown"),
        str(info.get("created") or "unknown"),
        header.vocab,
        str(info.get("fingerprint") or ""),
        tokens,
        tuple(turns),
        "; ".join(damage),
    )


def _info(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = read_json(path, limit=INFO_LIMIT)
    except ValueError as error:
        raise StoreError(f"{error}. Move it away: the tokens beside it can be read without it.") from error
    if not isinstance(found, dict) or (found.get("format"), found.get("version")) != (FORMAT, VERSION):
        raise StoreError(f"{path} is no session of version {VERSION}")
    return found


def _header(path: Path, data: bytes) -> frames.Header:
    try:
        return frames.unpack_header(data[: frames.HEADER_BYTES])
    except ValueError as error:
        raise StoreError(f"{path} cannot be read: {error}. Restore it from a copy, or move it away.") from error


def _tokens(data: bytes, vocab: int) -> tuple[np.ndarray, list[str]]:
    """Tokens of all whole frames, and what stands behind them."""
    pieces: list[np.ndarray] = []
    end = frames.HEADER_BYTES
    for frame in frames.read_frames(lambda offset, size: data[offset : offset + size], end):
        if frame.type == frames.TOKENS:
            if int(frame.tokens.max()) >= vocab:
                return _joined(pieces), [f"an id out of the vocabulary at byte {frame.offset:,}"]
            pieces.append(frame.tokens)
        end = frame.end
    tokens, tail = _joined(pieces), data[end:]
    if not tail:
        return tokens, []
    if frames.durable_length(tail) > end:
        return tokens, [f"damaged at byte {end:,}, after {len(tokens):,} tokens, with good data behind it"]
    return tokens, [f"{len(tail):,} bytes of an unfinished write at the end (a crash, or a process that writes now)"]


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.uint32), *pieces])
