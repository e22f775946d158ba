"""Tiny random models and what tests do with them. Needs no pytest.

A toy is a nanochat GPT of a few thousand parameters whose weights are drawn so that every part matters: unlike fresh
initial weights, no projection is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nanochat.generations import named
from nanochat.gpt import GPT, GPTConfig
from nanochat.hook import BaseModel, KVCache
from nanochat.kv_cache import NoCache
from nanochat.tokenizer import SPECIAL_TOKENS

TOY_SIZES = {
    "sequence_len": 128,
    "vocab_size": 265,
    "n_layer": 4,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 64,
    "window_pattern": "SSSL",
}
SCALARS = {
    "resid_lambdas": (1.0, 0.05),
    "x0_lambdas": (0.1, 0.1),
    "smear_lambda": (0.5, 0.0),
    "backout_lambda": (0.2, 0.0),
}


def toy_model(generation: str = "G4", *, seed: int = 0, dtype: torch.dtype = torch.float32, **sizes: Any) -> GPT:
    """A random GPT of a generation; `sizes` are fields of GPTConfig over TOY_SIZES. Fixed by the seed."""
    model = GPT(GPTConfig(**{**TOY_SIZES, **sizes}), generation=named(generation), compute_dtype=dtype)
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name in SCALARS:
            first, step = SCALARS[name]
            parameter.data = first + step * torch.arange(len(parameter), dtype=torch.float32)
        else:
            parameter.data = torch.empty_like(parameter).uniform_(-1, 1, generator=rng) * _scale(name)
    return model.requires_grad_(False).cast_for_inference(dtype)


def _scale(name: str) -> float:
    if name == "lm_head.weight":
        return 0.5
    return 0.25 if name.startswith("transformer.h.") and "gate" not in name else 1.0


def toy_tokens(count: int, *, vocab: int = 256, seed: int = 0) -> list[int]:
    """`count` random ids below `vocab`."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (count,), generator=rng).tolist()


def ids(model: BaseModel, *rows: Sequence[int]) -> Tensor:
    """Rows of ids -> (B, T) on the model's device."""
    return torch.tensor([list(row) for row in rows], dtype=torch.long, device=model.spec.device)


@torch.no_grad()
def run(model: BaseModel, cache: KVCache, tokens: Tensor) -> Tensor:
    """One pass over tokens (B, T), nothing else -> logits (B, T, V)."""
    return model.logits(model.forward(model.embed(tokens), cache))


def full_logits(model: BaseModel, tokens: Sequence[int]) -> Tensor:
    """The oracle: logits (T, V) of one pass without a memory."""
    return run(model, NoCache(model.spec), ids(model, tokens))[0]


def cached_logits(model: BaseModel, cache: KVCache, tokens: Sequence[int], chunks: Iterable[int] = ()) -> Tensor:
    """Logits (T, V), read in `chunks` and then in single rows, as the engine reads: room before, maintain after."""
    parts, done, sizes = [], 0, iter(chunks)
    while done < len(tokens):
        rows = min(next(sizes, 1), len(tokens) - done)
        rows = cache.room(rows)
        parts.append(run(model, cache, ids(model, tokens[done : done + rows]))[0])
        cache.maintain(model)
        done += rows
    return torch.cat(parts)


class ToyTokenizer:
    """Bytes, then nanochat's special tokens: ids 0 .. 264."""

    def encode_special(self, text: str) -> int:
        return 256 + SPECIAL_TOKENS.index(text)

    def get_bos_token_id(self) -> int:
        return self.encode_special("<|bos|>")

    def get_vocab_size(self) -> int:
        return 256 + len(SPECIAL_TOKENS)

    def encode(self, text: str, prepend: int | None = None) -> list[int]:
        return ([] if prepend is None else [prepend]) + list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode(errors="replace")


class ToyWords:
    """An id for each word: what a `Vocabulary` asks of a tokenizer. "/" is a new line, "+ma" goes on with a word."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self.vocab_size, self.fingerprint = tuple(words), len(words), repr(words)

    def token_bytes(self, token: int) -> bytes:
        word = self.words[token]
        return b"\n" if word == "/" else word[1:].encode() if word[0] == "+" else f" {word}".encode()


class ToyWeights:
    """Implements `Weights`: `make(name, shape)` draws the matrices, norms change nothing."""

    fingerprint = "toy"

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], make: Callable[[str, tuple[int, ...]], Tensor]) -> None:
        self.shapes, self.make = shapes, make

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises KeyError for a name that is not there."""
        return self.shapes[name]

    def tensor(self, name: str) -> Tensor:
        """Drawn anew each time it is asked for."""
        shape = self.shapes[name]
        if len(shape) == 1:
            return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        return self.make(name, shape)
