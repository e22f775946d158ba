"""Which session the chat is in, and the way to another: load, fork, save. One model serves them all.

A step to another session is taken when that one is open and read; if it fails or is interrupted, nothing has changed.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from megacontext.session import Session
    from nanochat.chat.setup import Opened, Opener

UNKEPT = "this conversation is ephemeral: /save NAME keeps it from now on"


class Desk:
    """Holds one open conversation at a time. failure: why something said in this run is not on disk, or None."""

    def __init__(self, opener: Opener, opened: Opened) -> None:
        self.opener, self.opened = opener, opened
        self._failure: StoreError | None = None

    @property
    def failure(self) -> StoreError | None:
        return self._failure or self.opened.conversation.store_failure

    @property
    def root(self) -> Path:
        """Folder of the sessions."""
        return Path(self.opener.config.session.root)

    @property
    def session(self) -> Session:
        return self.opened.session

    def load(self, name: str) -> None:
        """Leave this session for the one called `name`. Raises ConfigError or StoreError; then this one stays open."""
        from megacontext.session import session_folder, session_names

        if name == self.session.name:
            raise ConfigError(f"this is session {name} already")
        if not session_folder(self.root, name).exists():
            near = get_close_matches(name, session_names(self.root), n=1)
            raise ConfigError(
                f"there is no session {name}: " + (f"did you mean {near[0]}?" if near else "/sessions lists them")
            )
        before = self._enter(self.opener.session(name))
        self._failure = self._failure or before.conversation.store_failure
        self._leave(before)

    def fork(self, name: str | None) -> None:
        """Go on in a copy of this session, which stays as it is. Raises as `load`."""
        from megacontext.sessions.making import free_name

        if self.session.name is None:
            raise ConfigError(UNKEPT)
        name = name or free_name(self.root, self.session.name)
        self._copy(name)
        self._go_on_in(self.opener.session(name))

    def save(self, name: str | None) -> None:
        """Bring everything to the disk; with a name: a copy under it, or the first home of an ephemeral conversation.

        Raises ConfigError or StoreError.
        """
        if name is not None:
            self._copy(name)
            if self.session.name is None:
                self._go_on_in(self.opener.session(name))
            return
        if self.session.name is None:
            raise ConfigError(UNKEPT)
        if self.failure is not None:
            raise self.failure
        self.session.sync()
        if self.opened.files is not None:
            self.opened.files.flush()

    def close(self) -> None:
        """Write what is left and let go. Raises StoreError if the disk fails just now."""
        self.opened.close()

    def _copy(self, name: str) -> None:
        from megacontext.sessions.copying import copy_session

        files = self.opened.files
        flush = None if files is None or files.pages.failure is not None else files.flush
        copy_session(
            self.session,
            self.root,
            name,
            self.opener.made_with,
            flush=flush,
            write_memory=self.opened.conversation.write_memory,
        )

    def _go_on_in(self, copy: Session) -> None:
        """In a copy of this session that `_copy` has made."""
        if self.opened.files is None:  # a plain cache: nothing on disk to bring back
            self._move_into(copy)
        else:
            self._leave(self._enter(copy))

    def _enter(self, session: Session) -> Opened:
        """Bring its memory back, or read it again; it is closed if that fails. Returns what was open before."""
        before, self.opened = self.opened, self.opener.open(session)
        return before

    def _leave(self, before: Opened) -> None:
        try:
            before.close()
        except StoreError as error:
            self._failure = self._failure or error
            raise

    def _move_into(self, session: Session) -> None:
        """Into a copy of this session with the memory as it is, which has no files of its own."""
        before = self.session
        try:
            self.opened.conversation.move_to(session)
        except BaseException:
            session.close()
            raise
        self.opened = replace(self.opened, session=session)
        self.opener.tell_opened(session)
        before.close()
