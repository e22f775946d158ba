"""Text in, token ids out, and back. Text that people type is always ordinary text: it never yields a special id.

`TextModel` is the contract; `TokenizersText` implements it over a Hugging Face `tokenizers.Tokenizer`, whichever file
that came from. Conversations are `ChatFormat`'s business (`chat_template.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from megacontext.models.base import fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class ChatFormat(Protocol):
    """How a family writes a conversation down. What the user says is encoded as ordinary text, always."""

    def opening(self, system: str | None) -> list[int]:
        """What stands before the first turn."""

    def user(self, text: str, *, reply: bool = True) -> list[int]:
        """One user turn; with `reply`, the header of the assistant's reply follows."""

    def close(self) -> list[int]:
        """What ends an assistant's reply; the model's own stop token may be its first id."""


class TextModel(Protocol):
    """A model's text side. fingerprint: identifies the mapping between text and ids."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a reply."""

    @property
    def chat(self) -> ChatFormat: ...

    def encode(self, text: str) -> list[int]:
        """Ordinary text -> ids; never a special one."""

    def decode(self, ids: Sequence[int]) -> str:
        """ids -> text. Specials are left out, bytes that are no UTF-8 become U+FFFD."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id adds to the text, b"" for a special: join them to stream UTF-8 correctly."""


class TokenizersText:
    """Implements `TextModel`. special: every id that ordinary text must never yield."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        special: Iterable[int],
        stop_ids: Iterable[int],
        vocab: int,
        begin: Iterable[int] = (),
    ) -> None:
        """vocab: rows of the embedding, which may exceed the tokenizer's own count. begin: ids that start a text."""
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.special_ids = frozenset(special)
        self.stop_ids = frozenset(stop_ids)
        self.vocab_size = vocab
        self.begin = tuple(begin)
        self.chat: ChatFormat = NoChat(self)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint([self._tokenizer.to_str().encode(), repr(sorted(self.special_ids)).encode()])

    @cached_property
    def known_ids(self) -> frozenset[int]:
        """Every id of the tokenizer, specials included."""
        return frozenset(self._tokenizer.get_vocab(with_added_tokens=True).values())

    @cached_property
    def specials(self) -> dict[str, int]:
        """Text of every special token -> its id."""
        found = {self._tokenizer.id_to_token(i): i for i in self.special_ids}
        return {text: i for text, i in found.items() if text is not None}

    def split_specials(self, literal: str) -> list[int | str]:
        """A chat format's own text -> ids of the specials in it, and the text between them."""
        if self._special_pattern is None:
            return [literal]
        pieces = self._special_pattern.split(literal)
        return [self.specials[piece.strip()] if i % 2 else piece for i, piece in enumerate(pieces) if piece]

    @cached_property
    def _special_pattern(self) -> re.Pattern[str] | None:
        """Longest first. Some specials take the white space beside them along (`lstrip`, `rstrip`)."""
        added = self._tokenizer.get_added_tokens_decoder()
        patterns = []
        for text, token in sorted(self.specials.items(), key=lambda item: -len(item[0])):
            rule = added.get(token)
            left, right = (r"\s*" if rule and side else "" for side in (rule and rule.lstrip, rule and rule.rstrip))
            patterns.append(left + re.escape(text) + right)
        return re.compile(f"({'|'.join(patterns)})") if patterns else None

    def encode(self, text: str) -> list[int]:
        text = well_formed(text)
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self.special_ids.isdisjoint(ids):
            return ids
        return self._without_specials(text)

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        if token in self.special_ids or not 0 <= token < self.vocab_size:
            return b""
        piece = self._tokenizer.id_to_token(token)
        return b"" if piece is None else self._piece_bytes(piece)

    def _without_specials(self, text: str) -> list[int]:
        """For vocabularies in which a merge can yield a special: letter by letter, and what still is one left out."""
        letters = (self._tokenizer.encode(letter, add_special_tokens=False).ids for letter in text)
        return [token for ids in letters for token in ids if token not in self.special_ids]

    def _piece_bytes(self, piece: str) -> bytes:
        if self._byte_level:
            known = all(letter in BYTE_OF for letter in piece)
            return bytes(BYTE_OF[letter] for letter in piece) if known else piece.encode()
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()

    @cached_property
    def _byte_level(self) -> bool:
        """Whether letters of the vocabulary stand for bytes (GPT-2's table), rather than for themselves."""
        return '"ByteLevel"' in json.dumps(json.loads(self._tokenizer.to_str()).get("decoder"))


def well_formed(text: str) -> str:
    """The text, lone surrogates in it, which no UTF-8 has, replaced by U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def not_a_panic(error: BaseException) -> bool:
    """Whether `error` is none of the tokenizers library's: bare Exception, or a panic, which is no Exception at all."""
    return not isinstance(error, Exception) and type(error).__name__ != "PanicException"


class NoChat:
    """Implements `ChatFormat` for a base model without a template: turns are plain paragraphs (no special ids)."""

    def __init__(self, text: TokenizersText) -> None:
        self._text = text

    def opening(self, system: str | None) -> list[int]:
        return [*self._text.begin, *(self._text.encode(f"{system}\n\n") if system else [])]

    def user(self, text: str, *, reply: bool = True) -> list[int]:
        return self._text.encode(f"{text}\n\n" if reply else f"{text}\n")

    def close(self) -> list[int]:
        return self._text.encode("\n\n")


def _byte_table() -> dict[str, int]:
    """GPT-2's letters for bytes: printable Latin-1 stands for itself, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_table()
