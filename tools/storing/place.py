"""Opens a session with its memory, as the chat does, without a terminal: model, log, files, cache, conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megacontext.conversation import Conversation
    from megacontext.models.base import LoadedModel
    from megacontext.session import Session
    from megacontext.telemetry.sinks import Sink
    from megacontext.tree.memory_files import MemoryFiles


@dataclass(frozen=True)
class Place:
    """Where a session lies and how it is opened. model: a GGUF file or a folder. dtype, ram_bytes: of pages."""

    root: str
    name: str
    model: str
    budget: int = 1024
    dtype: str = "model"
    ram_bytes: int = 512 << 20
    max_tokens: int = 128

    @property
    def folder(self) -> Path:
        return Path(self.root) / self.name

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Open:
    """A conversation that is open, and what it holds."""

    conversation: Conversation
    session: Session
    files: MemoryFiles

    def close(self) -> None:
        self.files.flush()
        self.files.close()
        self.session.close()


def load(place: Place) -> LoadedModel:
    """The model. Raises MissingAsset."""
    from megacontext.config import ModelConfig
    from megacontext.models import load_model

    return load_model(ModelConfig(path=place.model))


@contextmanager
def opened(place: Place, loaded: LoadedModel, sink: Sink | None = None) -> Iterator[Open]:
    """The session's conversation, not resumed yet. sink: receives the memory's events. Raises StoreError."""
    from megacontext.cache import build_cache
    from megacontext.config import ChatConfig, MemoryConfig, PagesConfig
    from megacontext.conversation import Conversation
    from megacontext.session import Session
    from megacontext.tree.memory_files import MemoryFiles
    from nanochat.sampling import Sampler

    text, spec, memory = loaded.text, loaded.model.spec, MemoryConfig(budget=place.budget)
    session = Session.open(
        place.root,
        place.name,
        vocab=text.vocab_size,
        fingerprint=text.fingerprint,
        model=loaded.name,
        weights=spec.fingerprint,
    )
    pages = PagesConfig(dtype=place.dtype, ram_bytes=place.ram_bytes)  # type: ignore[arg-type]
    files = MemoryFiles(session.folder, spec, memory.block, pages, log=session.log)
    chat = ChatConfig(max_tokens=place.max_tokens, temperature=0, top_k=None)
    conversation = Conversation(
        loaded,
        build_cache(spec, memory, sink=sink, files=files, text=text),
        session,
        chat,
        sampler=Sampler(chat.temperature, chat.top_k, chat.seed),
        files=files,
    )
    there = Open(conversation, session, files)
    try:
        yield there
    finally:
        there.close()
