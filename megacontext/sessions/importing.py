"""One file in, as a new session: an export (.safetensors), a conversation as JSON messages (.json), or a text.

Untrusted: sizes are checked before a file is read, and everything in it before a session is begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from megacontext.errors import ConfigError, StoreError
from megacontext.session import NAME, Turn
from megacontext.sessions.exporting import MESSAGES, PORTABLE
from megacontext.sessions.making import MadeWith, check_free, free_name, write_session
from megacontext.sessions.messages import read_messages
from megacontext.sessions.portable import LARGEST, Portable, unpack
from megacontext.sessions.rendering import render
from megacontext.sessions.transcript import DOCUMENT, Message
from nanochat.files import read_bytes

if TYPE_CHECKING:
    from megacontext.models.text import TextModel

FALLBACK = "imported"


@dataclass(frozen=True)
class Source:
    """What was read of a file, before a model is known. name: a usable one, for the session."""

    name: str
    messages: list[Message]
    portable: Portable | None = None


class Imported(NamedTuple):
    """said: what the user has to know of how it was taken in, a line each."""

    name: str
    tokens: int
    turns: int
    said: list[str]


def read_source(path: Path, text: str | None = None) -> Source:
    """What `path` holds, by the ending of its name. text: its contents, if it is a plain text and was read already.

    Raises ConfigError or StoreError, naming the file.
    """
    name = path.stem if NAME.fullmatch(path.stem) else FALLBACK
    if text is not None:
        return Source(name, [Message(DOCUMENT, text)])
    if path.suffix == MESSAGES:
        return Source(name, read_messages(path))
    portable = _read_portable(path)
    return Source(portable.name if NAME.fullmatch(portable.name) else name, portable.messages, portable)


def is_text(path: Path) -> bool:
    """Whether the ending says neither export nor messages."""
    return path.suffix not in (PORTABLE, MESSAGES)


def import_session(source: Source, text: TextModel, root: Path | str, name: str | None, *, model: str) -> Imported:
    """Make a session of it. name None: the source's own, with a number behind it if that is taken. model: text's.

    An export of the same tokenizer keeps its ids; any other source is encoded by `text`. Raises ConfigError for a name
    that is taken or for messages that make no conversation, StoreError when the disk fails.
    """
    root = Path(root)
    if name is not None:
        check_free(root, name)
    name = free_name(root, source.name) if name is None else name
    taken = _kept(source.portable, text) or _encoded(source, text, model)
    made_with = MadeWith(text.vocab_size, text.fingerprint, taken.model, taken.weights)
    ids = taken.ids
    write_session(root, name, made_with, lambda start, stop: ids[start:stop], len(ids), taken.turns)
    return Imported(name, len(ids), len(taken.turns), taken.said)


class _Taken(NamedTuple):
    ids: Sequence[int]
    turns: Sequence[Turn]
    model: str
    weights: str
    said: list[str]


def _kept(made: Portable | None, text: TextModel) -> _Taken | None:
    """The ids as they are, if they mean the same here. Vocabularies of one tokenizer may be padded differently."""
    if made is None or made.fingerprint != text.fingerprint:
        return None
    if len(made.tokens) and int(made.tokens.max()) >= text.vocab_size:
        return None
    return _Taken(made.tokens.tolist(), made.turns, made.model, made.weights, [])


def _encoded(source: Source, text: TextModel, model: str) -> _Taken:
    """The text, encoded again."""
    rendered, said, made = render(text, source.messages), [], source.portable
    if made is not None:
        said.append(
            f"it was made with another tokenizer ({made.model}): its text was encoded again for {model}, "
            f"{len(made.tokens):,} tokens became {len(rendered.ids):,}"
        )
    if rendered.folded:
        said.append(f"{model} has no place for a system message: it stands in the first message from user")
    return _Taken(rendered.ids, rendered.turns, model, "", said)


def _read_portable(path: Path) -> Portable:
    try:
        return unpack(read_bytes(path, limit=LARGEST))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): name an export") from error
    except ValueError as error:
        raise StoreError(f"{path} cannot be imported: {error}. Export it again.") from error
