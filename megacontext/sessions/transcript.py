"""What was said in a session: its turns as messages, without the chat format around them.

A turn's ids are the format's own text with special ids in it, and what somebody said between two places of it. Special
ids cut the turn into stretches of text; which stretch holds what was said, and what stands around it there, shows when
the format is given two different texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from megacontext.errors import ConfigError
from megacontext.session import Turn

if TYPE_CHECKING:
    from megacontext.models.text import TextModel

SYSTEM, USER, ASSISTANT, DOCUMENT = ROLES = ("system", "user", "assistant", "document")

TokensOf = Callable[[int, int], Sequence[int]]  # (start, stop) -> ids


class Message(NamedTuple):
    """role: one of ROLES; a document is what a user gave without waiting for a reply."""

    role: str
    content: str


class Place(NamedTuple):
    """Where a format puts what is said: which stretch, counted from the end if below zero; what is around it there."""

    stretch: int
    before: bytes
    after: bytes

    def content(self, stretches: Sequence[bytes]) -> bytes:
        found = stretches[self.stretch] if -len(stretches) <= self.stretch < len(stretches) else b""
        return found.removeprefix(self.before).removesuffix(self.after)


def transcript(text: TextModel, tokens: TokensOf, total: int, turns: Sequence[Turn]) -> list[Message]:
    """All that was said, in order. What a crash left behind a turn, or without one, is a message too."""
    found: list[Message] = []
    for turn in _with_gaps(turns, total):
        ids = tokens(turn.start, turn.stop)
        if turn.start == 0 and (system := _system(text, ids, reply=turn.role == USER)) is not None:
            found.append(Message(SYSTEM, system))
        found += _messages(text, turn.role, ids, first=turn.start == 0)
    return found


def _with_gaps(turns: Sequence[Turn], total: int) -> Iterator[Turn]:
    """The turns, and as role "" the tokens that are in none."""
    end = 0
    for turn in [*turns, Turn(total, total, "")]:
        if end < turn.start:
            yield Turn(end, turn.start, "")
        if turn.start < turn.stop:
            yield turn
        end = turn.stop


def _messages(text: TextModel, role: str, ids: Sequence[int], *, first: bool) -> Iterator[Message]:
    if role == ASSISTANT:
        yield Message(ASSISTANT, text.decode(ids))
    elif role in (USER, DOCUMENT):
        yield Message(role, _said(text, ids, reply=role == USER, first=first))
    else:
        yield from _cut_short(text, ids)


def _cut_short(text: TextModel, ids: Sequence[int]) -> Iterator[Message]:
    """What a crash left of an exchange, or of a document."""
    place = _place(text, text.chat.user, from_end=True)
    form, found = _stretches(text, text.chat.user("a")), _stretches(text, ids)
    special, wanted = _specials(text, ids), _specials(text, text.chat.user("a"))
    ending = -place.stretch - 1  # special ids behind what was said
    if ending and special[-ending:] == wanted[-ending:] and found[-1].startswith(form[-1]):
        yield Message(USER, place.content(found).decode("utf-8", "replace"))
        yield Message(ASSISTANT, found[-1].removeprefix(form[-1]).decode("utf-8", "replace"))
    elif said := found[-1].removeprefix(place.before).decode("utf-8", "replace").strip():
        yield Message(DOCUMENT, said)


def _said(text: TextModel, ids: Sequence[int], *, reply: bool, first: bool) -> str:
    place = _place(text, lambda said: text.chat.user(said, reply=reply), from_end=True)
    stretches = _stretches(text, ids)
    if len(stretches) == 1 and not first:  # a format of plain paragraphs: what ends the reply before stands here, too
        stretches[0] = stretches[0].removeprefix(b"".join(map(text.token_bytes, text.chat.close())))
    return place.content(stretches).decode("utf-8", "replace")


def _system(text: TextModel, ids: Sequence[int], *, reply: bool) -> str | None:
    """The system message before the first user's; None if it is the format's own, or cannot be told apart."""
    try:
        place = _place(text, text.chat.opening, from_end=False)
    except ConfigError:  # a format without system messages
        return None
    opening, own = _stretches(text, text.chat.opening("a")), _stretches(text, text.chat.opening(None))
    turn, stretches = _stretches(text, text.chat.user("a", reply=reply)), _stretches(text, ids)
    runs_on = place.stretch == len(opening) - 1 and turn[0] != b""
    if runs_on or len(stretches) != len(opening) + len(turn) - 1:
        return None
    found = place.content(stretches)
    return None if len(own) == len(opening) and found == place.content(own) else found.decode("utf-8", "replace")


def _place(text: TextModel, write: Callable[[str], list[int]], *, from_end: bool) -> Place:
    one, other = _stretches(text, write("a")), _stretches(text, write("2 b"))
    index = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), 0)
    before, after = _same(one[index], other[index]), _same(one[index][::-1], other[index][::-1])[::-1]
    return Place(index - len(one) if from_end else index, before, after)


def _same(one: bytes, other: bytes) -> bytes:
    """What two texts have in common at their beginning."""
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _stretches(text: TextModel, ids: Sequence[int]) -> list[bytes]:
    """Bytes of the text between special ids: one stretch more than there are of these."""
    found: list[list[bytes]] = [[]]
    for token in ids:
        if piece := text.token_bytes(token):
            found[-1].append(piece)
        else:
            found.append([])
    return [b"".join(pieces) for pieces in found]


def _specials(text: TextModel, ids: Sequence[int]) -> list[int]:
    return [token for token in ids if not text.token_bytes(token)]
