"""Inference: prefill once, then sample.

It knows models and caches by the hook alone, and of a tokenizer only a few special ids and how to decode an expression.
It knows nothing about tokenization, chat formats or what a cache remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from nanochat.hook import BaseModel, KVCache

Progress = Callable[[int, int], None]


def _feed(model: BaseModel, cache: KVCache, rows: Sequence[Sequence[int]]) -> Tensor:
    """One pass over rows (B, T) of ids -> final hidden rows (B, T, D); the cache then does what it does between."""
    tokens = torch.tensor(rows, dtype=torch.long, device=model.spec.device)
    hidden = model.forward(model.embed(tokens), cache)
    cache.maintain(model)
    return hidden


def _last_logits(model: BaseModel, hidden: Tensor) -> Tensor:
    return model.logits(hidden[:, -1:])[:, -1]


@torch.no_grad()
def prefill(
    model: BaseModel,
    cache: KVCache,
    tokens: Sequence[int],
    *,
    answer: bool = True,
    on_progress: Progress | None = None,
) -> Tensor:
    """Read `tokens` into `cache`, in chunks of what it has room for. Returns the last row's logits (1, V) float32.

    answer: an answer comes next, so the last token is held back until the cache has been told that the prompt ends:
    its row already sees the view that the cache chose for the answer. False while a document is read.
    on_progress: called with (tokens done, tokens in all) after every pass.
    """
    if not tokens:
        raise ValueError("the prompt is empty; give at least one token, for example the model's bos")
    total, done = len(tokens), 0
    held_back = total - 1 if answer else total
    hidden: Tensor | None = None
    while done < total:
        if answer and done == held_back:
            cache.maintain(model, prompt=total)
        rows = cache.room(held_back - done) if done < held_back else 1
        hidden = _feed(model, cache, [tokens[done : done + rows]])
        done += rows
        if on_progress is not None:
            on_progress(done, total)
    assert hidden is not None
    return _last_logits(model, hidden)


@torch.no_grad()
def decode(model: BaseModel, cache: KVCache, logits: Tensor, sample: Callable[[Tensor], int]) -> Iterator[int]:
    """Endless: sample an id from `logits` (1, V), yield it, feed it. The caller stops by closing the iterator.

    An id that was yielded and not followed by another next() has not been fed.
    """
    while True:
        token = sample(logits)
        yield token
        logits = _last_logits(model, _feed(model, cache, [[token]]))
