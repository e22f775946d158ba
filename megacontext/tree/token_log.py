"""The tokens of a conversation on disk: append-only, checksummed, one writer. Tokens are the truth.

`append` buffers, `sync` makes everything so far durable. Opening verifies every frame. A torn tail, which a crash
leaves, is cut off into `quarantine/` beside the log; damage to bytes that once were durable is refused, never guessed
at. The bytes are in token_frames. Knows nothing of turns, pages or models.

If the disk fails, `sync` (or `append`) says so once with StoreError; from then on the log keeps new tokens in memory,
so that a conversation can go on, and every `sync` fails again.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megacontext.errors import StoreError
from megacontext.tree import token_frames as frames
from megacontext.tree.frame_run import read_runs
from megacontext.tree.memory_log import MemoryLog, Recovered
from megacontext.tree.quarantine import set_aside, set_tail_aside
from megacontext.tree.token_frames import FRAME_TOKENS, HEADER_BYTES, Header
from nanochat.files import FileLock, atomic_write, make_folder

INDEXED = 256  # tokens from one place that is noted to the next, if frames are that short
_BINARY = getattr(os, "O_BINARY", 0)


class DamagedLogError(StoreError):
    """A log whose damage no opening mends by itself. offset: the first bad byte. tokens: that are whole before it."""

    def __init__(self, message: str, offset: int, tokens: int) -> None:
        super().__init__(message)
        self.offset, self.tokens = offset, tokens


class TokenLog(MemoryLog):
    """A token log in a file. Use `open`.

    recovered: frames and tokens found on opening. truncated: bytes of a torn tail that opening cut off.
    failed: why nothing is written any more, or "".

        [0, _written)        in the file; where to begin to read: _starts (token) and _offsets (byte), of some frames
        [_written, len)      in memory, _pending
    """

    def __init__(self, path: Path, lock: FileLock, descriptor: int, *, vocab: int) -> None:
        super().__init__(vocab=vocab)
        self.path, self.failed = path, ""
        self._lock, self._descriptor = lock, descriptor
        self._starts, self._offsets = array("Q"), array("Q")
        self._written = self._sequence = 0
        self._size = HEADER_BYTES
        self._durable = True
        self._found: np.ndarray | None = None  # what opening read, until somebody has asked for all of it

    @classmethod
    def open(cls, path: Path | str, *, vocab: int, fingerprint: str, repair: bool = False) -> TokenLog:
        """Open or create the log at `path`, with its folder.

        fingerprint: what the ids mean, such as the tokenizer's. repair: cut at damage, too, and keep what is before it;
        a damaged header with whole frames behind it is written anew.
        Raises StoreError if another process has it open, if it belongs to another vocabulary or fingerprint, or if the
        disk refuses; DamagedLogError if it is damaged before its tail. Then nothing was changed.
        """
        if not 0 < vocab <= frames.VOCAB_LIMIT:
            raise ValueError(f"vocab must be in [1, {frames.VOCAB_LIMIT}], got {vocab}")
        return cls.open_as(Path(path), Header(vocab, frames.digest_of(fingerprint)), repair=repair)

    @classmethod
    def open_as(cls, path: Path, header: Header, *, repair: bool = False) -> TokenLog:
        """As `open`, for a log with this header, whatever the tokenizer is called."""
        try:
            make_folder(path.parent)
            lock = _locked(path)
            try:
                return cls._open(path, lock, header, repair)
            except BaseException:
                lock.release()
                raise
        except OSError as error:
            raise StoreError(f"cannot open the token log {path}: {error}") from error

    @classmethod
    def _open(cls, path: Path, lock: FileLock, header: Header, repair: bool) -> TokenLog:
        if not path.exists():
            with atomic_write(path, mode=0o600) as file:
                file.write(frames.pack_header(header))
        descriptor = os.open(path, os.O_RDWR | _BINARY)
        log = cls(path, lock, descriptor, vocab=header.vocab)
        try:
            log._check_header(header, repair)
            log._recover(repair)
        except BaseException:
            os.close(descriptor)
            raise
        return log

    def __enter__(self) -> TokenLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._written + len(self._pending)

    # Opening ----------------------------------------------------------------------------------------------------------

    def _check_header(self, wanted: Header, repair: bool) -> None:
        data = self._read(0, HEADER_BYTES)
        try:
            found = frames.unpack_header(data)
        except frames.DamagedHeaderError as error:
            if not (repair and any(frames.read_frames(self._read, HEADER_BYTES))):
                raise DamagedLogError(f"{self.path} cannot be read: {error}", 0, 0) from error
            set_aside(self.path, 0, data)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, frames.pack_header(wanted))
            os.fsync(self._descriptor)
            found = wanted
        except ValueError as error:
            raise StoreError(f"{self.path} cannot be read: {error}") from error
        if found.vocab != wanted.vocab:
            raise StoreError(
                f"{self.path} was written with a vocabulary of {found.vocab}, this model has {wanted.vocab}: "
                "use the model it was made with, or another session"
            )
        if found.digest != wanted.digest:
            raise StoreError(
                f"{self.path} was written with another tokenizer (fingerprint {found.digest.hex()[:12]}, this model "
                f"has {wanted.digest.hex()[:12]}): use the model it was made with, or another session"
            )

    def _recover(self, repair: bool) -> None:
        count, pieces = 0, [np.empty(0, np.uint32)]
        for run in read_runs(self._read, HEADER_BYTES, self.vocab):
            of_tokens = run.counts > 0
            self._index(run.offsets[of_tokens], run.counts[of_tokens])
            self._size, self._sequence = run.end, run.sequence
            count += int(of_tokens.sum())
            pieces.append(run.tokens)
        self._found = np.concatenate(pieces)
        self.recovered = Recovered(count, self._written)
        self._cut_tail(repair)

    def _index(self, offsets: np.ndarray, counts: np.ndarray) -> None:
        """Frames of tokens follow: note where some begin, so that at most INDEXED tokens more are read than wanted."""
        starts = self._written + np.cumsum(counts) - counts
        steps = np.flatnonzero(np.diff(starts // INDEXED, prepend=self._starts[-1] // INDEXED if self._starts else -1))
        self._starts.extend(starts[steps].tolist())
        self._offsets.extend(offsets[steps].tolist())
        self._written += int(counts.sum())

    def _cut_tail(self, repair: bool) -> None:
        size = os.fstat(self._descriptor).st_size - self._size
        if size <= 0:
            return
        behind = f"{size:,} bytes stand" if size > frames.TAIL_LIMIT else ""
        if frames.durable_length(self._read(self._size, min(size, frames.TAIL_LIMIT))) > self._size:
            behind = "good data stands"
        if behind and not repair:
            raise DamagedLogError(
                f"{self.path} is damaged at byte {self._size}, after {self._written} tokens, and {behind} behind it",
                self._size,
                self._written,
            )
        set_tail_aside(self.path, self._size)
        os.ftruncate(self._descriptor, self._size)
        os.fsync(self._descriptor)
        self.truncated = size

    # Writing ----------------------------------------------------------------------------------------------------------

    def append(self, ids: Sequence[int] | np.ndarray) -> None:
        """Take ids at the end, in memory until the next `sync` or until a full frame has come together.

        Raises ValueError if an id is out of the vocabulary (then none is taken), StoreError if the disk fails just now
        (they are taken all the same).
        """
        if self._descriptor < 0:
            raise ValueError(f"{self.path} is closed")
        self._found = None
        super().append(ids)
        while len(self._pending) >= FRAME_TOKENS and not self.failed:
            self._write_frame(FRAME_TOKENS)

    def flush(self) -> None:
        """Hand everything so far to the system: the end of this process loses none of it, a power cut may.

        Raises StoreError if the disk fails, or failed before.
        """
        if self.failed:
            raise StoreError(self.failed)
        if self._pending:
            self._write_frame(len(self._pending))

    def sync(self) -> None:
        """Make everything so far durable: when this returns, a crash loses none of it.

        Raises StoreError if the disk fails, or failed before.
        """
        self.flush()
        if self._durable:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as error:  # never tried again: after a failed fsync the kernel may have dropped the data
            raise self._fail(error) from error
        self._durable = True
        self._write(frames.pack_synced(self._size, self._sequence))

    def close(self) -> None:
        """Sync and release the file, whatever happens. Raises StoreError if the disk fails just now."""
        if self._descriptor < 0:
            return
        try:
            if not self.failed:
                self.sync()
        finally:
            os.close(self._descriptor)
            self._descriptor = -1  # a number that no other file can get
            self._lock.release()

    def _write_frame(self, count: int) -> None:
        offset = self._size
        self._write(frames.pack_tokens(np.array(self._pending[:count]), self._sequence))
        self._index(np.array([offset]), np.array([count]))
        del self._pending[:count]
        self._durable = False

    def _write(self, data: bytes) -> None:
        """Write one frame. A part of one, left by a failure, is a torn tail to the next opening."""
        left = memoryview(data)
        try:
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            raise self._fail(error) from error
        self._size += len(data)
        self._sequence += 1

    def _fail(self, error: OSError) -> StoreError:
        self.failed = (
            f"cannot write the token log {self.path}: {error}. What is said from here on is kept in memory only; "
            "make room or use another disk, and start again"
        )
        return StoreError(self.failed)

    # Reading ----------------------------------------------------------------------------------------------------------

    def array(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) as (stop - start,) uint32, read from the frames that hold them.

        Raises ValueError if they are not all there, StoreError if the file no longer holds what was written.
        """
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"tokens [{start}, {stop}) are not within the log's [0, {len(self)})")
        written = min(stop, self._written)
        pieces = [self._from_file(start, written)] if start < written else []
        pending = self._pending[max(start - self._written, 0) : max(stop - self._written, 0)]
        return np.concatenate([*pieces, np.array(pending, dtype=np.uint32)])

    def _from_file(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop), of which there is at least one."""
        found = self._found
        if found is not None and stop <= len(found):
            if (start, stop) == (0, self._written):
                self._found = None  # whoever asked for all of them has them now
            return found[start:stop]
        first, last = bisect_right(self._starts, start) - 1, bisect_left(self._starts, stop)
        begin, end = self._offsets[first], self._offsets[last] if last < len(self._offsets) else self._size
        runs = list(read_runs(self._read, begin, self.vocab, sequence=None, stop=end))
        reached = runs[-1].end if runs else begin
        if reached != end:
            raise StoreError(f"{self.path} was damaged while it was open, at byte {reached}: restore it from a copy")
        return np.concatenate([run.tokens for run in runs])[start - self._starts[first] : stop - self._starts[first]]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        index = self._starts.itemsize * (len(self._starts) + len(self._offsets))
        return super().nbytes + index + (0 if self._found is None else self._found.nbytes)

    def _read(self, offset: int, size: int) -> bytes:
        if self._descriptor < 0:
            raise ValueError(f"{self.path} is closed")
        pieces = []
        try:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            while size > 0 and (piece := os.read(self._descriptor, size)):
                pieces.append(piece)
                size -= len(piece)
        except OSError as error:
            raise StoreError(f"cannot read the token log {self.path}: {error}") from error
        return b"".join(pieces)


def _locked(path: Path) -> FileLock:
    lock = FileLock(path.with_name(path.name + ".lock"))
    if not lock.acquire():
        raise StoreError(
            f"{path} is open in process {lock.owner()}: one process writes at a time. "
            "Close it there, or use another name."
        )
    return lock
