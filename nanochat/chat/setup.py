"""Builds what a conversation needs: model, session, memory. The heavy imports begin here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megacontext.conversation import Conversation, Resumed
from megacontext.edit_ledger import EditLedger
from megacontext.telemetry.events import MemoryOpened, ModelLoaded, Warning_
from megacontext.telemetry.sinks import FanOut, Telling
from nanochat.chat.meter import stats_of
from nanochat.chat.output import Output
from nanochat.chat.sessions import Desk
from nanochat.chat.talk import Talk
from nanochat.chat.terminal import progress
from nanochat.streams import note

if TYPE_CHECKING:
    from megacontext.config import DemoConfig
    from megacontext.models.base import LoadedModel
    from megacontext.session import Session
    from megacontext.sessions.making import MadeWith
    from megacontext.telemetry.sinks import Sink
    from megacontext.tree.memory_files import MemoryFiles


@contextmanager
def open_talk(config: DemoConfig, output: Output, sink: Sink) -> Iterator[Talk]:
    """A talk that is ready, its session read again; the session is closed afterwards.

    Raises MissingAsset, StoreError or BudgetError, each with its way out.
    """
    opener = Opener(config, load(config, sink), sink)
    session = opener.session(config.session.name, ephemeral=config.session.ephemeral)
    desk = Desk(opener, opener.open(session))
    try:
        yield Talk(desk, output)
    finally:
        desk.close()


@dataclass(frozen=True)
class Opened:
    """A conversation and what it holds. edits: has heard of all edits of its view. files: None for a plain cache."""

    conversation: Conversation
    session: Session
    edits: EditLedger
    files: MemoryFiles | None

    def close(self) -> None:
        """Write what is left and let go: the memory's files first. Raises StoreError if the disk fails just now."""
        try:
            if self.files is not None:
                self.files.close()
        finally:
            self.session.close()


class Opener:
    """Opens conversations over one model, as often as wanted. Raises BudgetError or ConfigError at once."""

    def __init__(self, config: DemoConfig, loaded: LoadedModel, sink: Sink) -> None:
        from megacontext.memory_check import check_memory

        self.config, self.loaded, self._sink = config, loaded, sink
        self._bounded = config.memory.cache in ("megacontext", "recency")
        if self._bounded:
            check_memory(loaded.model.spec, config.memory.as_shown())  # before a session is begun for nothing

    @property
    def made_with(self) -> MadeWith:
        """What sessions of this model say of it."""
        from megacontext.sessions.making import MadeWith

        text, spec = self.loaded.text, self.loaded.model.spec
        return MadeWith(text.vocab_size, text.fingerprint, self.loaded.name, spec.fingerprint)

    def session(self, name: str | None, *, ephemeral: bool = False) -> Session:
        """The named session, a new one, or one that leaves no trace. Raises StoreError or ConfigError."""
        from megacontext.session import Session

        root = self.config.session.root
        session = Session.open(root, name, **self.made_with._asdict(), ephemeral=ephemeral)
        if session.log.truncated:
            note(f"the end of the session was damaged: {session.log.truncated:,} bytes were moved to quarantine/")
        return session

    def open(self, session: Session) -> Opened:
        """A conversation that stands where `session` ends. The session is closed if that fails or is interrupted."""
        with ExitStack() as undo:
            undo.callback(session.close)
            files = open_files(self.config, session, self.loaded, self._sink) if self._bounded else None
            if files is not None:
                undo.callback(files.close)
            edits = EditLedger()
            conversation = self._conversation(session, edits, files)
            self.tell_opened(session)
            if resume(conversation).kept and files is not None:
                edits.begin(stats_of(conversation.cache)["tick"], getattr(conversation.cache, "edits", None))
            undo.pop_all()
        return Opened(conversation, session, edits, files)

    def tell_opened(self, session: Session) -> None:
        """To the user and to the event log."""
        if session.name is not None:
            note(f"session {session.name}")
        self._sink.emit(_memory_opened(self.config, session))

    def _conversation(self, session: Session, edits: EditLedger, files: MemoryFiles | None) -> Conversation:
        from megacontext.cache import build_cache
        from megacontext.delta_nll import DeltaNll
        from nanochat.sampling import Sampler

        config, sink = self.config, FanOut([edits, Telling(self._sink, note)])
        probe, spec, text = DeltaNll.of(config.telemetry), self.loaded.model.spec, self.loaded.text
        return Conversation(
            self.loaded,
            build_cache(spec, config.memory, sink=sink, probe=probe, files=files, text=text),
            session,
            config.chat,
            sampler=Sampler(config.chat.temperature, config.chat.top_k, config.chat.seed),
            sink=self._sink,
            sync_always=config.session.durability == "sync",
            files=files,
        )


def resume(conversation: Conversation) -> Resumed:
    """Go on with a session: as its memory was kept; what was not is read again, and said so."""
    if not len(conversation.log):
        return Resumed(0, 0, "")
    with progress("reading the session again") as bar:
        found = conversation.resume(bar)
    if found.why:
        instead = "that of an earlier turn was taken up" if found.kept else "the session was read again"
        note(f"the kept memory could not be used: {found.why}; {instead}")
    again = found.tokens - found.kept
    note(f"went on with {found.tokens:,} tokens" + (f", {again:,} of them read again" if again > 1 else ""))
    return found


def open_files(config: DemoConfig, session: Session, loaded: LoadedModel, sink: Sink) -> MemoryFiles:
    """The memory's files beside the session's tokens; what cannot be used is made anew, and said so."""
    from megacontext.tree.memory_files import MemoryFiles

    files = MemoryFiles(session.folder, loaded.model.spec, config.memory.block, config.pages, log=session.log)
    for name, why in files.made_anew:
        message = f"{name} is made anew: {why}"
        note(message)
        sink.emit(Warning_(message=message, hint="it was derived from the tokens, which are safe"))
    return files


def _memory_opened(config: DemoConfig, session: Session) -> MemoryOpened:
    cut = session.folder is not None and session.log.truncated
    return MemoryOpened(
        cache=config.memory.cache,
        working_budget=config.memory.budget if config.memory.cache in ("megacontext", "recency") else None,
        session=session.name,
        recovered_tokens=session.log.recovered.tokens,
        truncated_bytes=session.log.truncated,
        quarantined=str(session.folder / "quarantine") if cut and session.folder else None,
    )


def load(config: DemoConfig, sink: Sink) -> LoadedModel:
    """The model, with a word on how long it took."""
    import torch

    from megacontext.models import load_model

    started = time.monotonic()
    if config.model.threads is not None:
        torch.set_num_threads(config.model.threads)
    loaded = load_model(config.model)
    seconds = time.monotonic() - started
    fingerprint = loaded.model.spec.fingerprint
    sink.emit(
        ModelLoaded(name=loaded.name, fingerprint=fingerprint, load_ms=round(seconds * 1000, 1), summary=loaded.summary)
    )
    note(f"{loaded.name} is ready after {seconds:.1f} s")
    return loaded
