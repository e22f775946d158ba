"""The tokens of all documents of a split, one after the other on disk, and how far reading them has come.

tokens.bin      ids as unsigned 32-bit integers, little-endian
documents.txt   one line a document that is in there completely: how many tokens it has

Tokens first, then the line: what a line speaks of is there. A run that ends in the middle of a document reads that
document again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

ID = np.dtype("<u4")
LINE = re.compile(rb"[0-9]{1,18}\n")


class TokenSpool:
    """Open for appending. lengths: tokens of each finished document."""

    def __init__(self, folder: Path) -> None:
        """Takes up what `folder` holds, torn ends left out."""
        self.path, self._journal_path = folder / "tokens.bin", folder / "documents.txt"
        self.path.touch()
        self._journal_path.touch()
        self.lengths = self._finished()
        self._journalled = len(self.lengths)
        self.tokens = sum(self.lengths)
        self._file = self.path.open("r+b")
        self._begin_document()

    def _finished(self) -> list[int]:
        """What the journal says, as far as its lines are whole and their tokens are there."""
        room, lengths, size = self.path.stat().st_size // ID.itemsize, list[int](), 0
        with self._journal_path.open("r+b") as journal:
            for line in journal:
                if not LINE.fullmatch(line) or int(line) > room:
                    break
                room, size = room - int(line), size + len(line)
                lengths.append(int(line))
            journal.truncate(size)
        return lengths

    def append(self, ids: Sequence[int]) -> None:
        """Ids of the document that is being read."""
        self._file.write(np.asarray(ids, dtype=ID).tobytes())

    def end_document(self, tokens: int) -> None:
        """The document is finished; the first `tokens` of its ids count."""
        self.lengths.append(tokens)
        self.tokens += tokens
        self._begin_document()

    def _begin_document(self) -> None:
        self._file.seek(self.tokens * ID.itemsize)

    def sync(self) -> None:
        """Make the finished documents durable."""
        self._file.flush()
        os.fsync(self._file.fileno())
        with self._journal_path.open("ab") as journal:
            journal.writelines(b"%d\n" % tokens for tokens in self.lengths[self._journalled :])
            journal.flush()
            os.fsync(journal.fileno())
        self._journalled = len(self.lengths)

    def read(self, start: int, count: int) -> np.ndarray:
        """Ids [start, start + count) of the finished documents, (count,); after `sync`."""
        self._file.seek(start * ID.itemsize)
        return np.frombuffer(self._file.read(count * ID.itemsize), ID)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> TokenSpool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
