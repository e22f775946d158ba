"""What a turn is made of: a reply while it grows, its result, and where turns end in a row of ids."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from megacontext.telemetry.events import Turn
from megacontext.telemetry.timing import ReplyTimer

if TYPE_CHECKING:
    from megacontext.models.text import TextModel

SEARCH_PIECE = 256  # ids looked at in one go


class Tokens(Protocol):
    """Where a conversation's ids and turns are kept: a `Session`, on disk or ephemeral."""

    def append(self, tokens: list[int]) -> None: ...

    def add_turn(self, role: str, start: int, stop: int) -> None: ...

    def sync(self) -> None: ...

    def tokens(self, start: int, stop: int) -> list[int]: ...

    def __len__(self) -> int: ...


class TurnResult(NamedTuple):
    """A finished turn. event: its figures; stop is stop, max_tokens, interrupted or read."""

    text: str
    event: Turn


class Reply:
    """A reply while it grows: bytes in, whole characters out."""

    def __init__(self, prompt: list[int], start: int, name: str | None = None) -> None:
        self.prompt = prompt
        self.start = start  # of the prompt in the log
        self.name = name
        self.stop = "interrupted"
        self.generated = 0
        self.text = ""
        self.timer = ReplyTimer(perf_counter())
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes) -> str:
        self.generated += 1
        return self._take(self._decoder.decode(data))

    def end(self) -> str:
        """What a broken last character leaves: one replacement character, or nothing."""
        return self._take(self._decoder.decode(b"", final=True))

    def _take(self, piece: str) -> str:
        self.text += piece
        return piece


def after_body(text: TextModel) -> list[int]:
    """What stands after the words of a user's turn: where two turns with different words agree at the end."""
    one, other = text.chat.user("a", reply=False), text.chat.user("2 b", reply=False)
    same = 0
    while same < min(len(one), len(other)) and one[-1 - same] == other[-1 - same]:
        same += 1
    return one[len(one) - same :]


def reply_is_open(text: TextModel, log: Tokens) -> bool:
    """Whether the log ends inside a reply: the last special id in it is none of those that end a turn."""
    closing = {_last_special(text, text.chat.close()), _last_special(text, after_body(text))} - {None}
    for stop in range(len(log), 0, -SEARCH_PIECE):
        found = _last_special(text, log.tokens(max(0, stop - SEARCH_PIECE), stop))
        if found is not None:
            return found not in closing
    return len(log) > 0


def _last_special(text: TextModel, ids: Sequence[int]) -> int | None:
    return next((token for token in reversed(ids) if not text.token_bytes(token)), None)


def find_words(turn: Sequence[int], words: Sequence[int]) -> tuple[int, int] | None:
    """Where in a turn its words stand, [start, stop), without the chat format around them; None if they do not."""
    for start in range(len(turn) - len(words), -1, -1):
        if words and list(turn[start : start + len(words)]) == list(words):
            return start, start + len(words)
    return None
