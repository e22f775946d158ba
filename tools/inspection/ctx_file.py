"""One .ctx file as text: what its header says. This project's own, and those of MegaContext's earlier design notes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megacontext.errors import StoreError
from megacontext.sessions.stored import open_plain
from megacontext.tree import ctx_format as ctx
from megacontext.tree.legacy_ctx import is_legacy, read_legacy
from tools.inspection.check_derived import NOUNS, read_frames
from tools.inspection.file_state import counted

FIRST = 8  # numbers that are shown


def ctx_lines(path: Path) -> list[str]:
    """Raises StoreError for a file that is neither."""
    with open_plain(path) as file:
        head = file.read(ctx.HEADER_BYTES)
    if is_legacy(head):
        return _legacy_lines(path)
    try:
        geometry, digest = ctx.unpack_header(head)
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from error
    frames = read_frames(path)
    noun = NOUNS.get(geometry.kind, "frame")
    shape = f"({geometry.layers}, {geometry.kv_heads}, {geometry.rows}, {geometry.width})"
    return [
        f"{path.name}   version {ctx.VERSION}   {noun}s of {shape} {geometry.encoding}   maker {digest.hex()[:12]}",
        f"  {counted(len(frames.whole), noun)} of {geometry.payload:,} bytes, every {geometry.stride:,} bytes "
        f"from byte {ctx.ALIGN:,}; {len(frames.damaged):,} damaged",
    ]


def _legacy_lines(path: Path) -> list[str]:
    header, entries = read_legacy(path)
    what = "token" if header.level == 0 else "gist"
    first = np.array2string(entries.reshape(-1)[:FIRST], precision=4, separator=", ")
    layout = "with a count of entries" if header.counted else "without a count"
    return [
        f"{path.name}   earlier layout, {layout}   level {header.level}   model {header.model or 'not named'}",
        f"  {counted(header.entries, what)} as {header.dtype}, blocks of {header.block}, width {header.width}",
        f"  first numbers {first}",
    ]
