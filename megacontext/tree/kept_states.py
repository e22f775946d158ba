"""Where a memory stood, on disk, twice: the newest state, and an earlier one that a power cut does not take.

    newest    replaced with every block, not synced
    earlier   of a turn's end: its tokens were durable before it was written, and it is synced

A state of a turn's end is written as the newest and synced; the next one does not replace it but makes it the earlier
one. After a power cut the newest may be torn, or speak of tokens that the log has lost; the earlier one still fits, and
only what came after it is read again. Knows nothing of what is in a state.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from megacontext.errors import StoreError
from megacontext.tree import snapshot


class KeptStates:
    """newest, earlier: where they lie. One thread at a time."""

    def __init__(self, newest: Path, earlier: Path) -> None:
        self._newest, self._earlier = newest, earlier
        self._spare = False  # whether the newest is of a turn's end, and must not be replaced

    def write(self, data: bytes, *, turn_end: bool) -> None:
        """Keep what `snapshot.pack` made. turn_end: its tokens are durable. Raises StoreError when the disk fails."""
        if self._spare:
            self._move()
        self._spare = False
        snapshot.write(self._newest, data, sync=turn_end)
        self._spare = turn_end

    def _move(self) -> None:
        try:
            os.replace(self._newest, self._earlier)
        except FileNotFoundError:
            pass  # somebody has cleared it away
        except OSError as error:
            raise StoreError(f"{self._earlier}: cannot be written ({error.strerror})") from error

    def read(self, fingerprint: str) -> Iterator[tuple[str, snapshot.State | None, str]]:
        """(name, state, "") of each, the newest first; (name, None, why) of one that cannot be used, "" for no file."""
        for path in (self._newest, self._earlier):
            yield (path.name, *snapshot.read(path, fingerprint))

    def refuse(self, name: str) -> None:
        """The state of this name is of no use. The newest will be replaced; an earlier one would stay for long."""
        if name == self._earlier.name:
            with suppress(OSError):
                self._earlier.unlink()

    def taken_up(self, name: str, *, turn_end: bool) -> None:
        """The memory stands where the state of this name says. turn_end: as it was written."""
        self._spare = turn_end and name == self._newest.name
