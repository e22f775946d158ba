"""Checks what was derived from a session's tokens: .ctx files, view.snap, turn.snap, segments of the lexical index.

Reads every byte, changes none. Damage here costs time, never tokens: what is missing is made again.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from megacontext.errors import StoreError
from megacontext.sessions.stored import open_plain
from megacontext.tree import ctx_format as ctx
from megacontext.tree import snapshot
from megacontext.tree.frame_file import FrameFile
from megacontext.tree.memory_files import TURN_NAME, VIEW_NAME
from megacontext.tree.token_frames import DamagedHeaderError
from tools.inspection.file_state import FileState, counted, is_strange, size_of

NOUNS = {ctx.PAGES: "page", ctx.MEANS: "group", ctx.GISTS: "gist"}
MADE_AGAIN = "made again from tokens"
NOTHING = "nothing is kept yet"
SHOWN = 5  # numbers of damaged frames that are named
PIECE = 1 << 16  # records of a segment read at a time


class Frames(NamedTuple):
    """Numbers of the frames of a .ctx file, by what was found at their places."""

    geometry: ctx.Geometry
    whole: list[int]
    damaged: list[int]


def check_ctx(path: Path, info: dict[str, Any], tokens: int) -> FileState:
    """A .ctx file of a memory that has read so many tokens. info: what session.json says."""
    size = size_of(path)
    try:
        with open_plain(path) as file:
            _, digest = ctx.unpack_header(file.read(ctx.HEADER_BYTES))
        frames = read_frames(path)
    except DamagedHeaderError as error:
        return FileState(path.name, "damaged", size, f"{error}: all of it is {MADE_AGAIN}", 0)
    except ValueError as error:
        return FileState(path.name, "unusable", size, f"{error}: all of it is {MADE_AGAIN}")
    except (OSError, StoreError) as error:
        return FileState(path.name, "damaged", size, str(error))
    return _ctx_state(path.name, size, frames, _maker(digest, info, frames.geometry), tokens)


def read_frames(path: Path) -> Frames:
    """Every frame, against its checksums. One that looks torn is read twice: it may be written just now."""
    with closing(FrameFile.open_any(path)) as file:
        there = list(file.numbers())
        torn = [number for number in there if file.read(number) is None]
        if torn:
            time.sleep(0.01)
        damaged = [number for number in torn if file.read(number) is None and file.has(number)]
    return Frames(file.geometry, sorted({*there} - {*damaged}), damaged)


def _maker(digest: bytes, info: dict[str, Any], geometry: ctx.Geometry) -> str:
    weights = info.get("weights")
    if not weights or geometry.kind == ctx.GISTS:
        return f"fingerprint {digest.hex()[:12]}"
    same = digest == ctx.digest_of(str(weights))
    return "of the session's model" if same else f"of another model than session.json names ({digest.hex()[:12]})"


def _ctx_state(name: str, size: int, frames: Frames, maker: str, tokens: int) -> FileState:
    geometry = frames.geometry
    noun = NOUNS.get(geometry.kind, "frame")
    shape = f"({geometry.layers}, {geometry.kv_heads}, {geometry.rows}, {geometry.width})"
    notes = [f"{counted(len(frames.whole), noun)} {shape} {geometry.encoding}, {maker}"]
    if geometry.kind == ctx.PAGES and geometry.rows:
        notes += _beside_the_log(frames, tokens // geometry.rows)
    if not frames.damaged:
        return FileState(name, "ok", size, "; ".join(notes))
    named = ", ".join(f"{number:,}" for number in frames.damaged[:SHOWN]) + (", ..." * (len(frames.damaged) > SHOWN))
    notes.append(f"{counted(len(frames.damaged), noun)} damaged ({named}): {MADE_AGAIN} when wanted")
    return FileState(name, "damaged", size, "; ".join(notes), geometry.offset(frames.damaged[0]))


def _beside_the_log(frames: Frames, blocks: int) -> Iterator[str]:
    """Pages that are not there, and pages of tokens that are not there."""
    known = sum(number < blocks for number in (*frames.whole, *frames.damaged))
    if missing := blocks - known:
        yield f"{missing:,} of {blocks:,} missing: {MADE_AGAIN} when wanted"
    if beyond := sum(number >= blocks for number in frames.whole):
        yield f"{beyond:,} of tokens that were lost: never read"


class CheckedView(NamedTuple):
    """length: tokens that the memory had read; 0 if that is not known."""

    state: FileState
    length: int = 0


def check_view(folder: Path, ids: np.ndarray, name: str = VIEW_NAME) -> CheckedView:
    """view.snap or turn.snap, beside a log of these tokens."""
    path = folder / name
    size = size_of(path)
    again = f"the chat reads all {counted(len(ids), 'token')} again"
    if name == VIEW_NAME and (folder / TURN_NAME).is_file():
        again = f"the chat goes on from {TURN_NAME}"
    elif name == TURN_NAME:
        again = f"it stands behind {VIEW_NAME}"
    if not path.exists() or is_strange(path):
        return CheckedView(FileState(name, "missing" if len(ids) else "ok", 0, again if len(ids) else NOTHING))
    try:
        if size > snapshot.LARGEST:
            raise ValueError("it is larger than any snapshot")
        with open_plain(path) as file:
            _, payload = snapshot.check(file.read())
        state = snapshot.plain_part(payload)
        length, checksum = int(state["length"]), state.get("tokens")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return CheckedView(FileState(name, "damaged", size, f"{error}: {again}", 0))
    except (OSError, StoreError) as error:
        return CheckedView(FileState(name, "damaged", size, str(error)))
    stands = f"it stands after {length:,} of {len(ids):,} tokens"
    if not 0 <= length <= len(ids):
        return CheckedView(FileState(name, "unusable", size, f"{stands}: {again}"))
    if checksum not in (None, zlib.crc32(ids[:length].astype("<u4").tobytes())):
        return CheckedView(FileState(name, "unusable", size, f"it stands after other tokens: {again}"))
    return CheckedView(FileState(name, "ok", size, stands), length)


def check_segment(path: Path, ids: np.ndarray) -> FileState:
    """A file of the lexical index, beside a log of these tokens."""
    from megacontext.focus.lexical.format import checksum_of_tokens
    from megacontext.focus.lexical.segment import Segment

    name, size = f"{path.parent.name}/{path.name}", size_of(path)
    try:
        with open_plain(path):
            segment = Segment.open(path)
        for first in range(0, len(segment), PIECE):
            segment.part(first, PIECE)
    except (OSError, StoreError) as error:
        note = f"{_without_path(error, path)}: {MADE_AGAIN} when the session is opened"
        return FileState(name, "damaged", size, note)
    newest = ids[segment.stop - segment.head.unit : segment.stop]
    if segment.stop > len(ids) or checksum_of_tokens(newest) != segment.head.newest:
        note = f"an index of other tokens than the log has: {MADE_AGAIN} when the session is opened"
        return FileState(name, "unusable", size, note)
    return FileState(name, "ok", size, f"index of tokens [{segment.start:,}, {segment.stop:,})")


def _without_path(error: Exception, path: Path) -> str:
    return str(error).replace(f"{path}: ", "").removesuffix("It can be made again from the tokens.").rstrip(" .")


def folder_size(folder: Path) -> tuple[int, int]:
    """(files, bytes) below a folder; links are not followed."""
    sizes = [(Path(path) / name).lstat().st_size for path, _, names in os.walk(folder) for name in names]
    return len(sizes), sum(sizes)
