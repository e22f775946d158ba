"""What a turn is made of: a reply while it grows, its result, and where turns end in a row of ids."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from megacontext.telemetry.events import Turn
from megacontext.telemetry.timing import ReplyTimer

if TYPE_CHECKING:
    import numpy as np

    from megacontext.models.text import TextModel

SEARCH_PIECE = 256  # ids looked at in one go


class Tokens(Protocol):
    """Where a conversation's ids and turns are kept: a `Session`, on disk or ephemeral."""

    def append(self, tokens: list[int]) -> None: ...

    def add_turn(self, role: str, start: int, stop: int) -> None: ...

    def sync(self) -> None: ...

    def tokens(self, start: int, stop: int) -> list[int]: ...

    def array(self, start: int, stop: int) -> np.ndarray: ...

    @property
    def ended(self) -> bool:
        """Whether the last id is the end of a turn that was added."""
        ...

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
        self.turn = len(prompt)  # ids of the user's own turn, at the prompt's end
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


class Frame(NamedTuple):
    """The ids that a chat format puts before and after the words of a user's turn."""

    before: list[int]
    after: list[int]


def user_frame(text: TextModel, *, reply: bool = True) -> Frame:
    """Where two turns with different words agree; with `reply`, the header of the reply belongs to it."""
    one, other = text.chat.user("a", reply=reply), text.chat.user("2 b", reply=reply)
    head = _same(one, other)
    tail = _same(one[head:][::-1], other[head:][::-1])
    return Frame(one[:head], one[len(one) - tail :])


def _same(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two rows have in common at their beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def words_of(text: TextModel, prompt: int, turn: int) -> tuple[int, int] | None:
    """Where the user's words stand in a prompt of `prompt` ids whose last `turn` are the user's turn: [start, stop).

    None if there are none. Words that merge with the format around them (a leading newline) lose the merged id.
    """
    before, after = user_frame(text)
    start, stop = prompt - turn + len(before), prompt - len(after)
    return (start, stop) if start < stop else None


def reply_is_open(text: TextModel, log: Tokens) -> bool:
    """Whether the log ends inside a reply: the last special id in it is none of those that end a turn."""
    closing = {_last_special(text, text.chat.close()), _last_special(text, user_frame(text, reply=False).after)} - {
        None
    }
    for stop in range(len(log), 0, -SEARCH_PIECE):
        found = _last_special(text, log.tokens(max(0, stop - SEARCH_PIECE), stop))
        if found is not None:
            return found not in closing
    return len(log) > 0


def _last_special(text: TextModel, ids: Sequence[int]) -> int | None:
    return next((token for token in reversed(ids) if not text.token_bytes(token)), None)
