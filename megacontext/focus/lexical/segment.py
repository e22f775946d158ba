"""Sorted records of a run of tokens, in memory or in a file that is mapped. Never changed once made.

A file that an earlier process wrote is believed group by group, when its checksum is right: groups are verified where
searches end. That is enough. A search ends between two records that it looked at last, of which one told it to go up
and one to go down; if both are as they were written, it ends where it must, whatever it met on the way. So opening a
segment costs the same however long it is, and damage is found before it can change an answer.

Knows nothing of other segments.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np

from megacontext.errors import StoreError
from megacontext.focus.lexical import format as lex
from megacontext.focus.lexical.records import RECORD, places
from nanochat.files import atomic_write


class SegmentDamaged(StoreError):
    """What a segment holds is not what was written."""

    def __init__(self, segment: Segment) -> None:
        super().__init__(f"{segment.path}: damaged. It can be made again from the tokens.")
        self.segment = segment


class Segment:
    """Records of the tokens [start, stop), sorted. path: where they are mapped from; None: they are in memory.

    checksums: of each group of records, if they must still be verified.
    """

    def __init__(
        self, head: lex.Head, records: np.ndarray, path: Path | None = None, checksums: np.ndarray | None = None
    ) -> None:
        self.head, self.path = head, path
        self._records = records
        self._checksums = checksums
        self._unread = np.ones(0 if checksums is None else len(checksums), bool)  # groups not verified yet

    @classmethod
    def open(cls, path: Path, *, trusted: bool = False) -> Segment:
        """Map a file. trusted: this process wrote it. Raises StoreError if it cannot be used."""
        try:
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
            with os.fdopen(os.open(path, flags), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                head, table = lex.unpack_head(file.read(lex.HEADER_BYTES))
                if head.length < 1 or head.size != size or head.name != path.name:
                    raise ValueError(f"it has {size} bytes for {head.length} records of {head.name}")
                sums = lex.unpack_checksums(head, file.read(head.offset - lex.HEADER_BYTES), table)
                mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: {error}. It can be made again from the tokens.") from error
        records = np.frombuffer(mapped, RECORD, head.length, head.offset)
        return cls(head, records, path, None if trusted else sums)

    def __len__(self) -> int:
        return self.head.length

    @property
    def start(self) -> int:
        return self.head.start

    @property
    def stop(self) -> int:
        return self.head.stop

    def find(self, bounds: np.ndarray) -> np.ndarray:
        """(k,) for each bound the number of records below it. Raises SegmentDamaged."""
        found = self._records.searchsorted(bounds)
        if self._checksums is not None:
            self._verify(np.maximum(found - 1, 0))
            self._verify(np.minimum(found, len(self) - 1))
        return found

    def positions(self, at: np.ndarray) -> np.ndarray:
        """Where the tokens of the records at these indices stand. Raises SegmentDamaged."""
        if self._checksums is not None:
            self._verify(at)
        return places(self._records[at]) + self.start

    def part(self, first: int, count: int) -> np.ndarray:
        """`count` records from `first` on, fewer at the end. Raises SegmentDamaged."""
        if self._checksums is not None:
            self._verify(np.arange(first, min(first + count, len(self))))
        return self._records[first : first + count]

    def _verify(self, at: np.ndarray) -> None:
        """Hold the groups of these records against their checksums, unless that was done."""
        groups = at // lex.GROUP
        groups = groups[self._unread[groups]]
        if not len(groups):
            return
        assert self._checksums is not None
        data = self._records.view(np.uint8).data
        for group in np.unique(groups).tolist():
            if zlib.crc32(data[group * lex.ALIGN : (group + 1) * lex.ALIGN]) != self._checksums[group]:
                raise SegmentDamaged(self)
            self._unread[group] = False
        if not self._unread.any():
            self._checksums = None

    @property
    def nbytes(self) -> int:
        """Bytes in memory. A mapped file's are not counted: the system reads and drops them as it likes."""
        records = 0 if self.path else self._records.nbytes
        return records + (0 if self._checksums is None else self._checksums.nbytes + self._unread.nbytes)

    @property
    def disk_bytes(self) -> int:
        return self.head.size if self.path else 0


def write_segment(path: Path, head: lex.Head, chunks: Iterable[np.ndarray]) -> Generator[bool, None, None]:
    """Write sorted records, some at each step, and move them to `path` in one step when all are on disk.

    chunks: whole groups of records, but for the last. Yields False after each, and True when only the sync is left.
    Closing the iterator before its end leaves nothing behind. Raises OSError.
    """
    sums: list[int] = []
    with atomic_write(path, mode=0o600) as file:
        file.seek(head.offset)
        for chunk in chunks:
            file.write(chunk.view(np.uint8).data)
            sums += lex.checksums(chunk)
            yield False
        file.seek(0)
        file.write(lex.pack_front(head, sums))
        yield True


def merged(left: Segment, right: Segment, step: int) -> Iterator[np.ndarray]:
    """The records of two segments in order, `step` at a time (the last fewer). Raises SegmentDamaged."""
    i = j = 0
    while i + j < len(left) + len(right):
        from_left = left.part(i, step)
        both = np.sort(np.concatenate([from_left, right.part(j, step) + len(left) * 1j]), kind="stable")[:step]
        taken = int(np.searchsorted(from_left, both[-1], side="right"))
        i, j = i + taken, j + len(both) - taken
        yield both
