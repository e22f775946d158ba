"""OneConversation: what every memory here is, whatever it keeps. One conversation comes in passes of a few rows; those
since the last `maintain` can be taken back, and the whole can be copied.
"""

from __future__ import annotations

from typing import Any

from megacontext.baselines.copying import copied
from megacontext.baselines.limits import Limits
from nanochat.hook import KVCache, ModelSpec, Stream
from nanochat.kv_cache import Windows


class OneConversation(KVCache):
    """Subclasses set `spec` and `limits`, and count new rows in `_unsettled`; `_windows` holds what one pass needs."""

    spec: ModelSpec
    limits: Limits
    _windows: Windows
    _unsettled: int  # rows since the last `maintain`

    def room(self, rows: int) -> int:
        return min(rows, self.limits.chunk)

    def check_batch(self, stream: Stream) -> None:
        """Raises ValueError for several conversations side by side."""
        if stream.x.shape[0] != 1:
            raise ValueError(f"{type(self).__name__} holds one conversation, not a batch of {stream.x.shape[0]}")

    def check_rows(self, stream: Stream) -> None:
        """Raises ValueError for more rows than a pass may bring."""
        if stream.rows > self.limits.chunk:
            raise ValueError(f"{stream.rows} rows do not fit: bring at most `room` rows ({self.limits.chunk}) a pass")

    def check_fork(self, batch: int) -> None:
        """Raises ValueError for a fork of several rows."""
        if batch != 1:
            raise ValueError(f"{type(self).__name__} holds one conversation, not {batch}: fork it {batch} times")

    def held(self) -> dict[str, Any]:
        """What belongs to this cache alone."""
        return {name: value for name, value in self.__dict__.items() if name not in ("spec", "limits", "_windows")}

    def fork(self, batch: int = 1) -> KVCache:
        self.check_fork(batch)
        twin = object.__new__(type(self))
        twin.__dict__ = {**self.__dict__, **copied(self.held()), "_windows": Windows(self.spec.windows)}
        return twin
