"""A toy's text side, a small library, and models whose likelihoods are known in advance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from megacontext.evaluation.tasks.base import Document, Library
from megacontext.testing.toy import toy_model
from nanochat.hook import Stream


class ToyText:
    """Bytes; a chat in which each turn begins and ends with an id that no text has. Implements `TextModel`."""

    vocab_size = 265
    fingerprint = "toy"
    stop_ids = frozenset({257})

    @property
    def chat(self) -> ToyText:
        return self

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def opening(self, system: str | None) -> list[int]:
        return [256]

    def user(self, text: str, *, reply: bool = True) -> list[int]:
        return [258, *self.encode(text), 257, *([259] if reply else [])]

    def close(self) -> list[int]:
        return [257]


def words(count: int, seed: int = 0) -> str:
    """Text of made-up words: no digits, no answer of any task."""
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("aeioumnst", k=draw.randint(2, 8))) for _ in range(count))


def library(documents: int = 4, count: int = 6000) -> Library:
    made = [Document(f"text {i}", words(count, i), f"hash {i}") for i in range(documents)]
    return Library(ToyText(), made)


class Believer:
    """A model to which one continuation is likelier than any other: after any row, the id that `scores` puts first.

    Everything about caches is the toy's own; only the logits are made up.
    """

    def __init__(self, scores: Any) -> None:
        self.toy, self.scores = toy_model(n_layer=1, n_embd=32, window_pattern="L"), scores
        self.spec = self.toy.spec
        self.seen: list[int] = []

    def embed(self, tokens: Tensor) -> Stream:
        self.seen = tokens[0].tolist()
        return self.toy.embed(tokens)

    def forward(self, stream: Stream, cache: Any) -> Tensor:
        return self.toy.forward(stream, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        rows = self.seen[-hidden.shape[1] :]
        return torch.stack([self.scores(token) for token in rows])[None]
