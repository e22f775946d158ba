"""Messages -> the ids and turns of a session, as if they had been said in the chat.

The chat format writes the ids, so what a message says is ordinary text: it never yields a special id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from megacontext.errors import ConfigError
from megacontext.session import Turn
from megacontext.sessions.messages import check_order
from megacontext.sessions.transcript import ASSISTANT, DOCUMENT, SYSTEM, USER, Message

if TYPE_CHECKING:
    from megacontext.models.text import TextModel


class Rendered(NamedTuple):
    """folded: the system message stands in the first user's, because the model's format has no place for it."""

    ids: list[int]
    turns: list[Turn]
    folded: bool


def render(text: TextModel, messages: Sequence[Message]) -> Rendered:
    """Raises ConfigError for messages that make no conversation."""
    check_order(messages)
    rest = list(messages)
    system = rest.pop(0).content if rest[0].role == SYSTEM else None
    opening, folded = _opening(text, system), False
    if opening is None:
        opening, folded = text.chat.opening(None), True
        rest[0] = rest[0]._replace(content=f"{system}\n\n{rest[0].content}")
    ids: list[int] = []
    turns: list[Turn] = []
    for place, message in enumerate(rest):
        start = len(ids)
        if message.role == ASSISTANT:
            ids += text.encode(message.content)
        else:
            answered = place + 1 < len(rest) and rest[place + 1].role == ASSISTANT
            after_reply = place > 0 and rest[place - 1].role == ASSISTANT
            ids += (text.chat.close() if after_reply else []) + ([] if ids else opening)
            ids += text.chat.user(message.content, reply=answered)
            message = message._replace(role=USER if answered else DOCUMENT)
        turns.append(Turn(start, len(ids), message.role))
    return Rendered(ids, turns, folded)


def _opening(text: TextModel, system: str | None) -> list[int] | None:
    """What stands before the first turn, or None: there is no place for a system message."""
    try:
        return text.chat.opening(system)
    except ConfigError:
        if system is None:
            raise
        return None
