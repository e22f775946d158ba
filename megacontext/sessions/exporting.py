"""A session out to one file: everything (.safetensors), or what was said as JSON messages (.json)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from megacontext.errors import ConfigError, StoreError
from megacontext.sessions.messages import messages_json
from megacontext.sessions.portable import Portable, pack
from megacontext.sessions.stored import StoredSession
from megacontext.sessions.transcript import Message, transcript
from nanochat.files import atomic_write

if TYPE_CHECKING:
    from megacontext.models.text import TextModel

PORTABLE, MESSAGES = ".safetensors", ".json"


class Exported(NamedTuple):
    """bytes: of the file."""

    tokens: int
    messages: int
    bytes: int


def check_target(path: Path) -> None:
    """Raises ConfigError if the name does not say what is wanted, or if something is there already."""
    if path.suffix not in (PORTABLE, MESSAGES):
        raise ConfigError(
            f"{path}: name it *{PORTABLE} for the whole session, or *{MESSAGES} for what was said, as messages"
        )
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already: choose another name, or remove it")


def export_session(session: StoredSession, text: TextModel, path: Path) -> Exported:
    """Write `session` to the new file `path`, readable by its owner alone. text: of the model that made it.

    Raises ConfigError for a name that does not do, StoreError for a session that is damaged or another tokenizer's, or
    when the disk fails.
    """
    check_target(path)
    if text.fingerprint != session.fingerprint:
        raise StoreError(
            f"the session {session.name} was made with another tokenizer (model {session.model!r}): "
            "name that model with --model"
        )
    if session.lost:
        raise StoreError(
            f"the session {session.name} cannot be exported whole, {session.damage}: restore or repair it first"
        )
    tokens = session.tokens
    messages = transcript(text, lambda start, stop: tokens[start:stop].tolist(), len(tokens), session.turns)
    data = messages_json(messages) if path.suffix == MESSAGES else pack(_portable(session, messages))
    try:
        with atomic_write(path, mode=0o600) as file:
            file.write(data)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})") from error
    return Exported(len(tokens), len(messages), len(data))


def _portable(session: StoredSession, messages: list[Message]) -> Portable:
    return Portable(
        session.name,
        session.model,
        session.weights,
        session.fingerprint,
        session.vocab,
        session.tokens,
        list(session.turns),
        messages,
    )
