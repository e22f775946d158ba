"""Which files of a folder can serve as segments of an index; the others are removed.

What is in the folder is derived from tokens, so what cannot be used is no loss. Files are chosen by what their names
and headers say, with a look at the tokens that a file ends with; whether its records are whole shows in use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from megacontext.errors import StoreError
from megacontext.focus.lexical.format import LEFTOVER, NAME, checksum_of_tokens
from megacontext.focus.lexical.rebuild import Tokens, read_text
from megacontext.focus.lexical.segment import Segment
from nanochat.files import sync_folder


class Wanted(NamedTuple):
    """unit: tokens of the smallest segment. digest: of the fingerprint. Segments reach to `end` at most."""

    unit: int
    digest: bytes
    end: int
    tokens: Tokens


class Found(NamedTuple):
    """segments: in order, not overlapping. refused: why files cannot be used."""

    segments: list[Segment]
    refused: list[str]


def find_segments(folder: Path, wanted: Wanted) -> Found:
    """The segments in the folder, which is made if there is none. Raises OSError.

    A merged segment stands for those it was made of, which a crash may have left beside it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    segments: list[Segment] = []
    refused: list[str] = []
    paths, useless = _listed(folder)
    for path in paths:
        try:
            if segment := _usable(path, segments, wanted):
                segments.append(segment)
                continue
        except StoreError as error:
            refused.append(str(error))
        useless.append(path)
    _remove(folder, useless)
    return Found(sorted(segments, key=lambda segment: segment.start), refused)


def discard(segment: Segment) -> None:
    """Its file is not wanted any more. Where a mapped file cannot be removed, the next opening does it."""
    if segment.path is not None:
        with suppress(OSError):
            segment.path.unlink()


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """(files that are called like segments, those of the most tokens first; what can be none)"""
    sizes: dict[Path, int] = {}
    useless: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = NAME.fullmatch(entry.name)
            if name and entry.is_file(follow_symlinks=False):
                sizes[folder / entry.name] = int(name[2]) - int(name[1])
            elif name or LEFTOVER.fullmatch(entry.name):
                useless.append(folder / entry.name)
    return sorted(sizes, key=lambda path: (-sizes[path], path.name)), useless


def _usable(path: Path, chosen: Sequence[Segment], wanted: Wanted) -> Segment | None:
    """The segment, None if one of `chosen` stands for it. Raises StoreError if it cannot be used."""
    start, stop = map(int, path.stem.split("-"))
    if any(start < other.stop and other.start < stop for other in chosen):
        return None
    segment = Segment.open(path)
    head, unit = segment.head, wanted.unit
    units, left_over = divmod(head.length, unit)
    if head.unit != unit or left_over or units & (units - 1) or head.start % head.length:
        raise StoreError(f"{path}: it covers other tokens than a segment of this index does")
    if head.digest != wanted.digest:
        raise StoreError(f"{path}: another tokenizer made it")
    if head.stop > wanted.end:
        raise StoreError(f"{path}: it goes beyond the tokens that are there")
    if checksum_of_tokens(read_text(wanted.tokens, head.stop - unit, head.stop)[-unit:]) != head.newest:
        raise StoreError(f"{path}: it was made of other tokens")
    return segment


def _remove(folder: Path, useless: Sequence[Path]) -> None:
    """For good: a file that came back after a power cut could speak of tokens that others have replaced."""
    for path in useless:
        with suppress(OSError):
            path.unlink()
    if useless:
        sync_folder(folder)
