"""turns.jsonl: whose tokens those of a log are, one turn a line. Knows tokens by their number alone.

    [start, stop, "role", "crc32"]      tokens [start, stop); 8 hexadecimal digits over the bytes before `, "crc32"`

Lines are appended, and synced when the tokens they speak of are durable. Lines up to the first one that is torn or
damaged count; a line without a checksum, as they were written once, is believed.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from megacontext.errors import StoreError
from megacontext.tree.quarantine import set_aside
from nanochat.files import atomic_write, sync_folder

ROLE = re.compile(r"[a-z_]{1,32}")
TURNS_LIMIT = 64 << 20  # bytes that are read at most


class Turn(NamedTuple):
    """Tokens [start, stop) of the log, and who they are from: user, assistant, document."""

    start: int
    stop: int
    role: str


def pack_turn(turn: Turn) -> bytes:
    """Its line."""
    body = json.dumps(turn)[:-1].encode()
    return body + f', "{_checksum(body)}"]\n'.encode()


def _checksum(body: bytes) -> str:
    return f"{zlib.crc32(body):08x}"


def parse_turns(data: bytes, tokens: int) -> tuple[list[Turn], int]:
    """Turns up to the first line that is torn or damaged, or that speaks of tokens which are not there; and how many
    bytes these turns take.
    """
    turns: list[Turn] = []
    good = 0
    for line in data.splitlines(keepends=True):
        turn = _parse_turn(line, turns[-1].stop if turns else 0, tokens)
        if turn is None:
            break
        turns.append(turn)
        good += len(line)
    return turns, good


def _parse_turn(line: bytes, least: int, tokens: int) -> Turn | None:
    if not line.endswith(b"\n"):
        return None
    try:
        start, stop, role, *checksum = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    if checksum and checksum != [_checksum(line[: line.rindex(b",")])]:
        return None
    if type(start) is not int or type(stop) is not int or not isinstance(role, str) or not ROLE.fullmatch(role):
        return None
    return Turn(start, stop, role) if least <= start <= stop <= tokens else None


def mend_turns(path: Path, tokens: int) -> tuple[list[Turn], int]:
    """The turns in the file, for a log of so many tokens. What is torn is moved to quarantine/: how many bytes.

    Raises StoreError for a file that is too large, OSError when the disk fails.
    """
    if not path.exists():
        return [], 0
    if (size := path.stat().st_size) > TURNS_LIMIT:
        raise StoreError(
            f"{path} has {size:,} bytes; at most {TURNS_LIMIT:,} are read. Move it away: it can be missing."
        )
    data = path.read_bytes()
    turns, good = parse_turns(data, tokens)
    if good < len(data):
        set_aside(path, good, data[good:])
        with atomic_write(path, mode=0o600) as file:
            file.write(data[:good])
    return turns, len(data) - good


def append_turns(path: Path, turns: Sequence[Turn], kept: int) -> int:
    """Write turns behind the first `kept` bytes of the file, which hold those before; durable when this returns.

    What stands behind them is a write that failed, and is cut off first. Returns the bytes that are kept then. Raises
    OSError when the disk fails.
    """
    new = not path.exists()
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o600), "r+b") as file:
        file.truncate(min(kept, file.seek(0, os.SEEK_END)))
        file.seek(0, os.SEEK_END)
        file.write(b"".join(map(pack_turn, turns)))
        file.flush()
        os.fsync(file.fileno())
        end = file.tell()
    if new:
        sync_folder(path.parent)
    return end
