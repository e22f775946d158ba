"""Builds what a conversation needs: model, session, memory. The heavy imports begin here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.conversation import Conversation
from megacontext.telemetry.events import MemoryOpened, ModelLoaded
from nanochat.chat.output import Output, note
from nanochat.chat.talk import Talk

if TYPE_CHECKING:
    from megacontext.config import DemoConfig, SessionConfig
    from megacontext.models.base import LoadedModel
    from megacontext.telemetry.sinks import Sink
    from megacontext.tree.token_log import MemoryLog


@contextmanager
def open_talk(config: DemoConfig, output: Output, sink: Sink) -> Iterator[Talk]:
    """A talk that is ready, its session read again; the session is closed afterwards.

    Raises MissingAsset, StoreError or BudgetError, each with its way out.
    """
    try:
        from megacontext.cache import build_cache  # type: ignore
    except ImportError:
        from nanochat.kv_cache import DenseCache

        def build_cache(spec, config, sink=None):
            return DenseCache(spec)

    from nanochat.sampling import Sampler

    loaded = load(config, sink)
    cache = build_cache(loaded.model.spec, config.memory, sink=sink)
    with closing(open_log(config.session, loaded)) as log:
        sink.emit(_opened(config, log))
        sampler = Sampler(config.chat.temperature, config.chat.top_k, config.chat.seed)
        durable = config.session.durability == "sync"
        conversation = Conversation(loaded, cache, log, config.chat, sampler=sampler, sink=sink, sync_always=durable)
        talk = Talk(conversation, output)
        talk.resume()
        yield talk


def open_log(session: SessionConfig, loaded: LoadedModel) -> MemoryLog:
    """The conversation's tokens: of the named session, of a new one, or in memory only. Raises StoreError."""
    from megacontext.tree.token_log import MemoryLog, TokenLog

    text = loaded.text
    if session.ephemeral:
        return MemoryLog(vocab=text.vocab_size)
    name = session.name or datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
    log = TokenLog.open(Path(session.root) / name / "tokens.log", vocab=text.vocab_size, fingerprint=text.fingerprint)
    note(f"session {name}")
    if log.truncated:
        note(f"the end of the session was damaged: {log.truncated:,} bytes were moved to quarantine/")
    return log


def _opened(config: DemoConfig, log: MemoryLog) -> MemoryOpened:
    path = getattr(log, "path", None)
    return MemoryOpened(
        cache=config.memory.cache,
        working_budget=config.memory.budget if config.memory.cache in ("megacontext", "recency") else None,
        session=None if path is None else path.parent.name,
        recovered_tokens=log.recovered.tokens,
        truncated_bytes=log.truncated,
        quarantined=str(path.parent / "quarantine") if path is not None and log.truncated else None,
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
