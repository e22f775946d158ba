"""Text sides without a model: one id a byte, with a chat format of special ids, or of plain paragraphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from megacontext.errors import ConfigError
from megacontext.models.chat_template import give_chat
from megacontext.models.text import BYTE_OF, TokenizersText
from megacontext.session import Session

USER, REPLY, END, OPEN = range(256, 260)
VOCAB = 260
SPECIALS = ("<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class ByteText:
    """Implements TextModel and ChatFormat: <open> system <user> text <end> <reply> text <end>. shift: other ids."""

    stop_ids = frozenset({END})

    def __init__(self, fingerprint: str = "bytes", *, systems: bool = True, shift: int = 0) -> None:
        self.fingerprint, self.systems, self.shift = fingerprint, systems, shift
        self.vocab_size = VOCAB

    @property
    def chat(self) -> ByteText:
        return self

    def encode(self, text: str) -> list[int]:
        return [(byte + self.shift) % 256 for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([(token - self.shift) % 256]) if token < 256 else b""

    def opening(self, system: str | None) -> list[int]:
        if system is not None and not self.systems:
            raise ConfigError("no system messages")
        return [OPEN, *self.encode("kind." if system is None else system)]

    def user(self, text: str, *, reply: bool = True) -> list[int]:
        return [USER, *self.encode(text), END] + ([REPLY] if reply else [])

    def close(self) -> list[int]:
        return [END]


class ParagraphText(ByteText):
    """A base model's: paragraphs, no special id at all."""

    def opening(self, system: str | None) -> list[int]:
        return self.encode(f"{system}\n\n") if system else []

    def user(self, text: str, *, reply: bool = True) -> list[int]:
        return self.encode(f"{text}\n\n" if reply else f"{text}\n")

    def close(self) -> list[int]:
        return self.encode("\n\n")


def chatml() -> TokenizersText:
    """Bytes, two special tokens, and the chat format most models have: a real tokenizer and a real template."""
    letters = sorted(BYTE_OF, key=lambda letter: BYTE_OF[letter])
    tokenizer = Tokenizer(BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    text = TokenizersText(tokenizer, special=[256, 257], stop_ids=[257], vocab=258)
    give_chat(text, TEMPLATE, {})
    return text


def begin(root: Path | str, name: str | None = "talk", **options: object) -> Session:
    made_with = {"vocab": VOCAB, "fingerprint": "bytes", "model": "toy", "weights": "w"}
    return Session.open(root, name, **(made_with | options))  # type: ignore[arg-type]


def add(session: Session, role: str, ids: Sequence[int]) -> None:
    start = len(session)
    session.append(list(ids))
    session.add_turn(role, start, len(session))
    session.sync()


def filled(root: Path | str, name: str = "talk") -> Session:
    """Hello, a reply, a document; open."""
    session, text = begin(root, name), ByteText()
    add(session, "user", text.opening(None) + text.user("hello"))
    add(session, "assistant", text.encode("hi"))
    add(session, "document", text.close() + text.user("A book.\n", reply=False))
    return session
