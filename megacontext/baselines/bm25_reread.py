"""BM25 re-read: passages of the past that share words with the question are put back into the prompt as text.

A text-space control: Ram, Levine, Dalmedigos, Muhlgay, Shashua, Leyton-Brown, Shoham: In-Context Retrieval-Augmented
Language Models (TACL 2023, arXiv 2302.00083), section 3: passages found by BM25 stand as text before the newest text,
found anew every so many tokens with the last 32 as the query. BM25: Robertson, Zaragoza (2009), with Lucene's idf and
its k1 and b. Here the passages come from the conversation's own history.

When an answer is due, the question is the query: the first tokens, the passages found and the newest text with the
prompt are read anew, in time order, at consecutive positions.

Other than in the paper: it reads the past rather than a corpus; several passages rather than one; it searches every 128
tokens rather than every 4, because each time the model reads all of its prompt again. Words are the model's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megacontext.baselines.limits import Limits, TextSide
from megacontext.baselines.rereading import RereadingCache, Tokens
from nanochat.hook import BaseModel, ModelSpec

LEAST = 8  # tokens of a passage


@dataclass(frozen=True)
class BM25RereadConfig:
    """passage: tokens of a passage, fewer where the share has no room for one.

    A passage begins every half passage, so that no sentence is cut in all of them. share: of what is read anew, for
    passages at most. sinks: first tokens of history that always stand there. every: tokens after which it searches
    again (a quarter of the slots at most). query: newest tokens that it then searches with.
    """

    passage: int = 64
    share: float = 0.5
    sinks: int = 4
    every: int = 128
    query: int = 32
    k1: float = 1.2
    b: float = 0.75


class BM25Reread(RereadingCache):
    """shown: (n,) places in history of the tokens that were read at the last search; newer ones follow them."""

    def __init__(
        self,
        spec: ModelSpec,
        limits: Limits,
        config: BM25RereadConfig = BM25RereadConfig(),
        text: TextSide | None = None,
    ) -> None:
        """Raises BudgetError if the first tokens, new text and a pass leave no room, ValueError for a bad share."""
        if not 0 < config.share < 1 or config.passage < LEAST:
            raise ValueError(
                f"share {config.share} must be in (0, 1), passage {config.passage} at least {LEAST} tokens"
            )
        self.config = config
        self.every = min(config.every, limits.slots // 4)
        beside = max(self.every, limits.chunk)  # left free behind what is read anew
        limits.demand(config.sinks + beside + 2 * LEAST, "bm25_reread", "first tokens, passages and new text")
        super().__init__(spec, limits)

    def reset(self) -> None:
        super().reset()
        self.shown: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    @property
    def in_view(self) -> NDArray[np.int64]:
        """Places in history of all tokens in the prompt, in their order."""
        newer = self.prompt.length - len(self.shown)
        return np.concatenate([self.shown, np.arange(self.length - newer, self.length)])

    def refresh(self, model: BaseModel, query: Tokens | None) -> None:
        whole = self.prompt.length == self.length  # all of history is in view, nothing to look for
        if query is not None and not whole:
            self._read_anew(model, query, self.limits.slots - 2 * self.limits.chunk)
        elif self.full:
            slots = self.limits.slots - self.limits.chunk - self.every
            self._read_anew(model, self.tokens[-self.config.query :], slots)

    def _read_anew(self, model: BaseModel, query: Tokens, slots: int) -> None:
        self.shown = self.choose(query, slots)
        self.read(model, self.tokens[self.shown])

    def choose(self, query: Tokens, slots: int) -> NDArray[np.int64]:
        """Places of `slots` tokens to read: first ones, best passages, and as many of the newest as have room."""
        left = int(self.config.share * (slots - self.config.sinks))
        newest = self.length - (slots - self.config.sinks - left)
        seen = np.zeros(self.length, dtype=bool)
        seen[: self.config.sinks] = seen[newest:] = True
        for start, stop in self._best(query, newest, max(min(self.config.passage, left), LEAST)):
            new = int((~seen[start:stop]).sum())
            if new <= left:
                seen[start:stop] = True
                left -= new
        older = np.flatnonzero(~seen)
        seen[older[len(older) - left :]] = True
        return np.flatnonzero(seen)

    def _best(self, query: Tokens, newest: int, passage: int) -> list[tuple[int, int]]:
        """Passages [start, stop) among the tokens before `newest` that share a word with the query, the best first."""
        scores = bm25(self.tokens[:newest], query, passage=passage, k1=self.config.k1, b=self.config.b)
        self.selection_flops += 2 * len(query) * newest
        order = np.argsort(-scores, kind="stable")
        return [passage_at(int(i), passage, newest) for i in order if scores[i] > 0]


def passage_at(index: int, passage: int, length: int) -> tuple[int, int]:
    """Tokens [start, stop) of a passage: one begins every half passage."""
    start = index * (passage // 2)
    return start, min(start + passage, length)


def bm25(tokens: Tokens, query: Tokens, *, passage: int, k1: float, b: float) -> NDArray[np.float64]:
    """(passages,) the sum over the query's words of idf * tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length)).

    idf = ln(1 + (N - n + 0.5) / (n + 0.5)), n of N passages holding the word.
    """
    starts = np.arange(0, max(len(tokens) - passage // 2, 1), passage // 2)
    stops = np.minimum(starts + passage, len(tokens))
    lengths = (stops - starts).astype(np.float64)
    norm = k1 * (1 - b + b * lengths / max(lengths.mean(), 1))
    scores = np.zeros(len(starts))
    for word, times in zip(*np.unique(query, return_counts=True), strict=True):
        before = np.concatenate([[0], np.cumsum(tokens == word)])
        found = before[stops] - before[starts]
        holding = int((found > 0).sum())
        idf = np.log1p((len(starts) - holding + 0.5) / (holding + 0.5))
        scores += times * idf * found * (k1 + 1) / (found + norm)
    return scores
