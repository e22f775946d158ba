"""Conversations as JSON: {"messages": [{"role": "user", "content": "..."}, ...]}, as many programs write them.

Untrusted: size, shape and every value are checked. Knows nothing of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megacontext.errors import ConfigError
from megacontext.sessions.transcript import ASSISTANT, DOCUMENT, SYSTEM, USER, Message
from nanochat.files import read_json

LIMIT = 256 << 20  # bytes


def read_messages(path: Path) -> list[Message]:
    """Raises ConfigError, naming the file and what is wrong."""
    try:
        messages = parse_messages(read_json(path, limit=LIMIT))
        check_order(messages)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): name a JSON file") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return messages


def parse_messages(value: Any, *, roles: tuple[str, ...] = (SYSTEM, USER, ASSISTANT)) -> list[Message]:
    """Messages from JSON: an object with a list `messages`, or the list itself. Raises ConfigError."""
    found = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(found, list):
        raise ConfigError('this is no conversation: {"messages": [{"role": "user", "content": "..."}, ...]} is one')
    return [_message(item, number, roles) for number, item in enumerate(found, 1)]


def check_order(messages: Sequence[Message]) -> None:
    """Raises ConfigError: nothing to say, a system message that is not the first, a reply to nobody."""
    before = ""
    for number, message in enumerate(messages, 1):
        if message.role == SYSTEM and before:
            raise ConfigError(f"message {number} is from system: only the first one may be")
        if message.role == ASSISTANT and before not in (USER, DOCUMENT):
            raise ConfigError(f"message {number} is from assistant, and none from user stands before it")
        before = message.role
    if before in ("", SYSTEM):
        raise ConfigError("a conversation needs at least one message from user")


def messages_json(messages: list[Message], *, documents: bool = False) -> bytes:
    """As UTF-8 JSON. documents: a role of their own, which only we read; else they are from user."""
    roles = {} if documents else {DOCUMENT: USER}
    items = [{"role": roles.get(role, role), "content": content} for role, content in messages]
    return json.dumps({"messages": items}, ensure_ascii=False, indent=1).encode("utf-8") + b"\n"


def _message(item: Any, number: int, roles: tuple[str, ...]) -> Message:
    role = item.get("role") if isinstance(item, dict) else None
    if role not in roles:
        raise ConfigError(f"message {number} has the role {role!r}: {', '.join(roles)} are known")
    return Message(role, _content(item.get("content"), number))


def _content(content: Any, number: int) -> str:
    """Text, or a list of parts of type text."""
    texts = [_part(part) for part in content] if isinstance(content, list) else [content]
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"message {number} has content that is no text: pictures and tool calls are not read")
    return "".join(texts).encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair becomes "?"


def _part(part: Any) -> Any:
    return part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
