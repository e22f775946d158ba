"""Which session the chat is in, and the way to another: load, fork, save. One model serves them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megacontext.errors import StoreError
    from nanochat.chat.setup import Opened, Opener


class Desk:
    """Holds one open conversation at a time. failure: why something said in this run is not on disk, or None."""

    def __init__(self, opener: Opener, opened: Opened) -> None:
        self.opener, self.opened = opener, opened
        self._failure: StoreError | None = None

    @property
    def failure(self) -> StoreError | None:
        return self._failure or self.opened.conversation.store_failure

    def close(self) -> None:
        """Write what is left and let go. Raises StoreError if the disk fails just now."""
        self.opened.close()
