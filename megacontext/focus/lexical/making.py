"""A segment in the making: a bounded piece of work at a time, the wait for the disk in a thread.

Knows nothing of where its records come from and of what the segment replaces.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np

from megacontext.errors import StoreError
from megacontext.focus.lexical.format import GROUP, Head
from megacontext.focus.lexical.records import RECORD
from megacontext.focus.lexical.segment import Segment, write_segment


class Making:
    """chunks: its sorted records, whole groups but for the last. folder: where its file goes; None: into memory."""

    def __init__(self, head: Head, chunks: Iterator[np.ndarray], folder: Path | None) -> None:
        self.head = head
        self._path = None if folder is None else folder / head.name
        self._memory = np.empty(head.length if folder is None else 0, RECORD)
        self._steps = _fill(self._memory, chunks) if self._path is None else write_segment(self._path, head, chunks)
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    @property
    def waits(self) -> bool:
        """Whether the disk is at work, and nothing else is to do."""
        return self._thread is not None and self._thread.is_alive()

    def advance(self) -> Segment | None:
        """One more piece; the segment when it is there. Raises StoreError when the disk fails, or a source is bad."""
        if self.waits:
            return None
        if self._thread is not None:
            return self._published()
        try:
            complete = next(self._steps)
        except OSError as error:
            raise self._failed(error) from error
        if complete and self._path is None:
            return Segment(self.head, self._memory)
        if complete:
            self._thread = threading.Thread(target=self._publish, name="lexical", daemon=True)
            self._thread.start()
        return None

    def finish(self) -> Segment:
        """All that is left, waiting for the disk. Raises as `advance` does."""
        while (segment := self.advance()) is None:
            if self._thread is not None:
                self._thread.join()
        return segment

    def cancel(self) -> None:
        """Leave nothing behind; what is being moved into place gets there."""
        if self._thread is not None:
            self._thread.join()
        self._steps.close()

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._memory.nbytes

    def _publish(self) -> None:
        """In the thread: sync and move into place."""
        try:
            for _ in self._steps:
                pass
        except OSError as error:
            self._error = error

    def _published(self) -> Segment:
        assert self._path is not None
        if self._error is not None:
            raise self._failed(self._error) from self._error
        return Segment.open(self._path, trusted=True)

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(f"{self._path}: cannot be written ({error.strerror}). The index goes on in memory.")


def in_pieces(records: np.ndarray, step: int = 16 * GROUP) -> Iterator[np.ndarray]:
    """Sorted records as `chunks`."""
    return (records[at : at + step] for at in range(0, len(records), step))


def _fill(records: np.ndarray, chunks: Iterator[np.ndarray]) -> Generator[bool, None, None]:
    """The same steps as write_segment's, into memory."""
    place = 0
    for chunk in chunks:
        records[place : place + len(chunk)] = chunk
        place += len(chunk)
        yield False
    yield True
