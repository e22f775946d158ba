"""Inference: prefill once, then sample.

It knows models and caches by the hook alone, and hands a tokenizer on to the calculator. It knows nothing about
tokenization, chat formats, positions, or what a cache remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nanochat import hook
from nanochat.calculator import use_calculator
from nanochat.hook import BaseModel
from nanochat.kv_cache import DenseCache
from nanochat.sampling import sample_next_token
from nanochat.tool_use import RowState, ToolUse
from nanochat.upstream_cache import KVCache
from nanochat.upstream_model import UpstreamModel

__all__ = ["Engine", "KVCache", "RowState", "decode", "prefill", "sample_next_token", "use_calculator"]

Progress = Callable[[int, int], None]
CacheFactory = Callable[[], hook.KVCache]


def _feed(model: BaseModel, cache: hook.KVCache, rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """One pass over rows (B, T) of ids -> final hidden rows (B, T, D); then the cache's moment between passes."""
    tokens = torch.tensor(rows, dtype=torch.long, device=device)
    hidden = model.forward(model.embed(tokens), cache)
    cache.maintain(model)
    return hidden


def _last_logits(model: BaseModel, hidden: Tensor) -> Tensor:
    return model.logits(hidden[:, -1:])[:, -1]


@torch.no_grad()
def prefill(
    model: BaseModel,
    cache: hook.KVCache,
    tokens: Sequence[int],
    *,
    answer: bool = True,
    words: tuple[int, int] | None = None,
    on_progress: Progress | None = None,
) -> Tensor:
    """Read `tokens` into `cache`, in chunks of what it has room for. Returns the last row's logits (1, V) float32.

    answer: an answer comes next, so the last token is held back until the cache has been told of the prompt's end:
    its row already sees the view that the cache chose for the answer. False while a document is read.
    words: the tokens [start, stop) that somebody said, without the chat format around them; a memory looks for these.
    on_progress: called with (tokens done, tokens in all) after every pass. Raises ValueError for an empty prompt.
    """
    if not tokens:
        raise ValueError("the prompt is empty; give at least one token, for example the model's bos")
    device, total, done = model.spec.device, len(tokens), 0
    body = total - 1 if answer else total
    while done < total:
        if answer and done == body:
            cache.maintain(model, prompt=total, words=words)
        rows = cache.room(body - done) if done < body else 1
        hidden = _feed(model, cache, [tokens[done : done + rows]], device)
        done += rows
        if on_progress is not None:
            on_progress(done, total)
    return _last_logits(model, hidden)


@torch.no_grad()
def decode(model: BaseModel, cache: hook.KVCache, logits: Tensor, sample: Callable[[Tensor], int]) -> Iterator[int]:
    """Endless: sample an id from `logits` (1, V), yield it, feed it. The caller stops by closing the iterator.

    An id that was yielded and not followed by another next() has not been fed.
    """
    device = model.spec.device
    while True:
        token = sample(logits)
        yield token
        logits = _last_logits(model, _feed(model, cache, [[token]], device))


class Branches:
    """Continuations of one prompt: a cache of n rows, or n caches of one row where a cache cannot hold so many."""

    def __init__(self, model: BaseModel, cache: hook.KVCache, count: int) -> None:
        self.model, self.device = model, model.spec.device
        self.caches = [cache] if count == 1 else self._fork(cache, count)

    @staticmethod
    def _fork(cache: hook.KVCache, count: int) -> list[hook.KVCache]:
        try:
            return [cache.fork(count)]
        except ValueError:
            return [cache, *(cache.fork() for _ in range(count - 1))]

    def step(self, column: Sequence[int]) -> Tensor:
        """Feed one id to each continuation -> logits (n, V)."""
        rows = [[token] for token in column]
        groups = [rows] if len(self.caches) == 1 else [[row] for row in rows]
        hidden = [
            _feed(self.model, cache, group, self.device) for cache, group in zip(self.caches, groups, strict=True)
        ]
        return _last_logits(self.model, torch.cat(hidden))


class Engine:
    """Upstream's Engine, for any model and cache behind the hook.

    model: a BaseModel, or a model written against upstream (config, get_device(), forward(ids, kv_cache=...)).
    cache_factory: makes an empty cache for a prompt; None takes a plain one.
    """

    def __init__(self, model: Any, tokenizer: Any, cache_factory: CacheFactory | None = None) -> None:
        self.model, self.tokenizer, self.cache_factory = model, tokenizer, cache_factory
        self._model: BaseModel = model if isinstance(model, BaseModel) else UpstreamModel(model)

    def _cache(self, slots: int) -> hook.KVCache:
        if self.cache_factory is not None:
            return self.cache_factory()
        if isinstance(self._model, UpstreamModel):
            return self._model.cache(slots)
        return DenseCache(self._model.spec, capacity=slots)

    @torch.no_grad()
    def generate(
        self,
        tokens: Sequence[int],
        num_samples: int = 1,
        max_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 42,
    ) -> Iterator[tuple[list[int], list[int]]]:
        """Yields (column, masks), one entry a sample: the id, and 1 if it was sampled or 0 if it was forced.

        Stops after `max_tokens` columns, or when every row has met <|assistant_end|> or <|bos|>; a row that is done
        goes on being sampled until then. All rows draw from one generator, so a seed fixes the whole column.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; ask for at least 1")
        tools = ToolUse(self.tokenizer)
        rows = [RowState(tokens) for _ in range(num_samples)]
        rng = torch.Generator(self._model.spec.device).manual_seed(seed)
        cache = self._cache(len(tokens) + (max_tokens or 0))
        logits = prefill(self._model, cache, tokens).expand(num_samples, -1)
        branches = Branches(self._model, cache, num_samples)
        generated = 0
        while max_tokens is None or generated < max_tokens:
            sampled = sample_next_token(logits, rng, temperature, top_k)[:, 0].tolist()
            steps = [tools.step(row, token) for row, token in zip(rows, sampled, strict=True)]
            column = [token for token, _ in steps]
            yield column, [mask for _, mask in steps]
            generated += 1
            if generated == max_tokens or all(row.completed for row in rows):
                return
            logits = branches.step(column)

    def generate_batch(
        self, tokens: Sequence[int], num_samples: int = 1, **kwargs: Any
    ) -> tuple[list[list[int]], list[list[int]]]:
        """All samples at once: (ids, masks), each beginning with the prompt (mask 0), without the terminal id."""
        terminal = ToolUse(self.tokenizer).terminal
        results = [list(tokens) for _ in range(num_samples)]
        masks = [[0] * len(tokens) for _ in range(num_samples)]
        running = set(range(num_samples))
        for column, column_masks in self.generate(tokens, num_samples, **kwargs):
            running -= {i for i in running if column[i] in terminal}
            for i in running:
                results[i].append(column[i])
                masks[i].append(column_masks[i])
            if not running:
                break
        return results, masks
