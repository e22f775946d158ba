"""Builds what a conversation needs: model, session, memory. The heavy imports begin here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from megacontext.conversation import Conversation
from megacontext.edit_ledger import EditLedger
from megacontext.telemetry.events import MemoryOpened, ModelLoaded, Warning_
from megacontext.telemetry.sinks import FanOut
from nanochat.chat.output import Output
from nanochat.chat.talk import Talk
from nanochat.streams import note

if TYPE_CHECKING:
    from megacontext.config import DemoConfig, SessionConfig
    from megacontext.models.base import LoadedModel
    from megacontext.session import Session
    from megacontext.telemetry.sinks import Sink
    from megacontext.tree.memory_files import MemoryFiles


@contextmanager
def open_talk(config: DemoConfig, output: Output, sink: Sink) -> Iterator[Talk]:
    """A talk that is ready, its session read again; the session is closed afterwards.

    Raises MissingAsset, StoreError or BudgetError, each with its way out.
    """
    from megacontext.cache import build_cache
    from megacontext.delta_nll import DeltaNll
    from megacontext.memory_check import check_memory
    from nanochat.sampling import Sampler

    loaded = load(config, sink)
    spec, probe, edits = loaded.model.spec, DeltaNll.of(config.telemetry), EditLedger()
    bounded = config.memory.cache in ("megacontext", "recency")
    if bounded:
        check_memory(spec, config.memory.as_shown())  # before a session is begun for nothing
    with ExitStack() as stack:
        session = stack.enter_context(open_session(config.session, loaded))
        files = open_files(config, session, loaded, sink) if bounded else None
        if files is not None:
            stack.callback(files.close)
        cache = build_cache(spec, config.memory, sink=FanOut([edits, sink]), probe=probe, files=files)
        sink.emit(_opened(config, session))
        sampler = Sampler(config.chat.temperature, config.chat.top_k, config.chat.seed)
        durable = config.session.durability == "sync"
        conversation = Conversation(
            loaded, cache, session, config.chat, sampler=sampler, sink=sink, sync_always=durable, files=files
        )
        talk = Talk(conversation, output, edits)
        talk.resume()
        yield talk


def open_files(config: DemoConfig, session: Session, loaded: LoadedModel, sink: Sink) -> MemoryFiles:
    """The memory's files beside the session's tokens; what cannot be used is made anew, and said so."""
    from megacontext.tree.memory_files import MemoryFiles

    files = MemoryFiles(session.folder, loaded.model.spec, config.memory.block, config.pages)
    for name, why in files.made_anew:
        message = f"{name} is made anew: {why}"
        note(message)
        sink.emit(Warning_(message=message, hint="it was derived from the tokens, which are safe"))
    return files


def open_session(config: SessionConfig, loaded: LoadedModel) -> Session:
    """The named session, a new one, or one that leaves no trace. Raises StoreError or ConfigError."""
    from megacontext.session import Session

    session = Session.open(
        config.root,
        config.name,
        vocab=loaded.text.vocab_size,
        fingerprint=loaded.text.fingerprint,
        model=loaded.name,
        ephemeral=config.ephemeral,
    )
    if session.name is not None:
        note(f"session {session.name}")
    if session.log.truncated:
        note(f"the end of the session was damaged: {session.log.truncated:,} bytes were moved to quarantine/")
    return session


def _opened(config: DemoConfig, session: Session) -> MemoryOpened:
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
