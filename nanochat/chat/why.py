"""/why: which part of history is meant, and why its entries stand in view as they do. Values in, lines out.

A part of history is named by token numbers, as /context shows them, or by words that stand in it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from megacontext.edit_ledger import EditLedger, Protected, explain, lost, occasion
from megacontext.errors import ConfigError
from megacontext.span import Grid
from nanochat.harmless import snippet

if TYPE_CHECKING:
    from megacontext.cache import ContextCache
    from megacontext.context import WorkingContext
    from megacontext.conversation import Conversation
    from megacontext.span import Span

USAGE = 'write /why START:END or /why TOKEN, with token numbers as /context shows them, or /why "some words"'
MOST_ENTRIES = 12
SEARCH_PIECE = 2048  # tokens searched for words in one go
SNIPPET_TOKENS = 40

_NUMBER = r"(\d{1,3}(?:,\d{3})+|\d+)"
_TOKEN = re.compile(_NUMBER)
_PAIR = re.compile(rf"(?:LOD\d+)?[\[(]?\s*{_NUMBER}\s*(?::|-|\.\.|,)\s*{_NUMBER}\s*[\])]?")
_QUOTED = re.compile(r"""["'“‘](.+)["'”’]""", re.DOTALL)


class Part(NamedTuple):
    """Tokens [start, stop) of history."""

    start: int
    stop: int


def why_lines(conversation: Conversation, ledger: EditLedger, asked: str) -> list[str]:
    """The entries that cover what was asked for, each with its reason. Raises ConfigError, saying what to write."""
    part = find(conversation, asked)
    history = len(conversation.log)
    head = f"tokens [{part.start:,}, {part.stop:,}) of {history:,}: {_text(conversation, part)}"
    cache = conversation.cache
    if getattr(cache, "context", None) is None:
        return [head, f"  {type(cache).__name__} keeps all of history exact in view: nothing is ever folded away"]
    return [head, *_entry_lines(conversation, cache, ledger, part)]  # type: ignore[arg-type]


# --- which part ---


def find(conversation: Conversation, asked: str) -> Part:
    """What `asked` names, cut to history. Raises ConfigError."""
    history = len(conversation.log)
    if words := _QUOTED.fullmatch(asked):
        return _find_words(conversation, words[1])
    start, stop = parse_part(asked)
    if start >= history:
        there = f"it has tokens 0 to {history - 1:,}" if history else "nothing has been said yet"
        raise ConfigError(f"token {start:,} is not in history: {there}")
    return Part(start, min(stop, history))


def parse_part(asked: str) -> Part:
    """`1024:1056`, `1024-1056`, `[1,024, 1,056)`, `LOD1[1024:1056]` or one token number. Raises ConfigError."""
    if token := _TOKEN.fullmatch(asked):
        return Part(_number(token[1]), _number(token[1]) + 1)
    pair = _PAIR.fullmatch(asked)
    if pair is None:
        raise ConfigError(f"{asked!r} names no part of history: {USAGE}")
    start, stop = _number(pair[1]), _number(pair[2])
    if start >= stop:
        raise ConfigError(f"{asked!r} holds no token: the end comes after the start, as in {stop}:{start + 1}")
    return Part(start, stop)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _find_words(conversation: Conversation, words: str) -> Part:
    """The newest block that holds `words`; capital and small letters of ASCII are alike."""
    wanted, history = words.encode("utf-8").lower(), len(conversation.log)
    for stop in range(history, 0, -SEARCH_PIECE):
        start = max(stop - SEARCH_PIECE, 0)
        ids = conversation.log.tokens(start, min(stop + len(wanted), history))  # a match may go on behind the piece
        place = _last_place(conversation, ids, wanted)
        if place is not None:
            block = getattr(conversation.cache, "grid", Grid()).block
            first = (start + place) // block * block
            return Part(first, min(first + block, history))
    raise ConfigError(f"{words!r} stands nowhere in the {history:,} tokens of history: {USAGE}")


def _last_place(conversation: Conversation, ids: Sequence[int], wanted: bytes) -> int | None:
    """Which of `ids` begins the last occurrence of `wanted`."""
    pieces = [conversation.text.token_bytes(token) for token in ids]
    at = b"".join(pieces).lower().rfind(wanted)
    ends = list(accumulate(map(len, pieces)))
    return None if at < 0 else bisect_right(ends, at)


# --- why ---


def _entry_lines(conversation: Conversation, cache: ContextCache, ledger: EditLedger, part: Part) -> list[str]:
    context, lines = cache.context, []
    entries = _covering(context, part)
    for entry in entries[:MOST_ENTRIES]:
        lines += _one_entry(conversation, cache, ledger, entry, part)
    if len(entries) > MOST_ENTRIES:
        lines.append(f"  and {len(entries) - MOST_ENTRIES:,} more entries: ask for a shorter part")
    if part.stop > context.sealed:
        newest = len(conversation.log) - context.sealed
        lines.append(f"  tail  exact: the newest {newest:,} tokens, until they fill a block of {context.grid.block}")
    if any(", score " in line for line in lines):
        lines.append(f"  (a score above {cache.config.expand_above:g} deserves detail)")
    return lines


def _covering(context: WorkingContext, part: Part) -> tuple[Span, ...]:
    """The entries that hold tokens of `part`; none if it lies in the tail."""
    stop = min(part.stop, context.sealed)
    return context.entries[context.index(part.start) : context.index(stop - 1) + 1] if part.start < stop else ()


def _one_entry(
    conversation: Conversation, cache: ContextCache, ledger: EditLedger, entry: Span, part: Part
) -> list[str]:
    allocator, context = cache.allocator, cache.context
    protected = Protected(allocator.first_end(context), allocator.recent_start(context))
    seen = Part(max(entry.start, part.start), min(entry.end, part.stop))
    lines = [f"  {entry}  {explain(entry, context, protected, ledger)}"]
    if seen != part:
        lines.append(f"      {_text(conversation, seen)}")
    block = context.grid.page(seen.start // context.grid.block)
    if entry.level > 1 and seen.stop <= block.end:
        lines.append(f"      {_why_block(block, ledger)}")
    return lines


def _why_block(block: Span, ledger: EditLedger) -> str:
    """What became of one block within a folded group."""
    edit = ledger.last(block)
    why = lost(ledger) if edit is None else f"folded at tick {edit.tick}, {occasion(edit)}"
    return f"its block [{block.start:,}, {block.end:,}): {why}"


def _text(conversation: Conversation, part: Part) -> str:
    ids = conversation.log.tokens(part.start, min(part.stop, part.start + SNIPPET_TOKENS))
    return f'"{snippet(conversation.text.decode(ids))}"'
