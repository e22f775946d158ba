"""The simplest index of its kind, in dictionaries: what LexicalStore must answer, bit for bit.

It says which blocks hold what came next the last time, and takes about 200 to 400 bytes a token for that.

Every n-gram (1 to 4 tokens) that ends in the recent text looks up where it ended before; each such match votes for the
block that holds the token *after* the match, and for the next block too when that token is near the block's end.
A vote weighs idf * n^2 / sqrt(matches); n-grams with more than `max_matches` matches say nothing. (The successor vote
of dev/LOG.md.) Adding a token and collecting votes cost the same however long history is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np


class LexicalIndex:
    """block: tokens a block. window: votes of the last `window` tokens are kept. edge: what counts as near the end."""

    def __init__(self, block: int, *, max_n: int = 4, max_matches: int = 64, edge: int = 8, window: int = 256) -> None:
        self.block, self.max_n, self.max_matches, self.edge = block, max_n, max_matches, edge
        self.length = 0
        self._postings: list[dict[int, int | list[int]]] = [{} for _ in range(max_n)]
        self._listed = 0  # end positions that stand in lists
        self._recent: deque[int] = deque(maxlen=max_n - 1)
        self._votes: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=window)

    def add(self, tokens: Iterable[int]) -> None:
        """Let each token vote with the history before it, then index it."""
        for token in tokens:
            self._add(token)

    def _add(self, token: int) -> None:
        blocks: list[int] = []
        weights: list[float] = []
        key = 0
        gram = [token, *reversed(self._recent)]
        for n, part in enumerate(gram[: self.max_n], 1):
            key = key << 21 | part
            matches = self._look_up_and_post(n, key)
            if matches:
                weight = np.log1p(self.length / len(matches)) * n * n / len(matches) ** 0.5
                for match in matches:
                    follower = match + 1
                    blocks.append(follower // self.block)
                    weights.append(weight)
                    if follower % self.block >= self.block - self.edge:
                        blocks.append(follower // self.block + 1)
                        weights.append(weight)
        self._votes.append((np.array(blocks, np.int64), np.array(weights)))
        self._recent.append(token)
        self.length += 1

    def _look_up_and_post(self, n: int, key: int) -> list[int]:
        """End positions of this n-gram before now (none if it is too common), and note the one at hand."""
        postings = self._postings[n - 1]
        found = postings.get(key)
        if found is None:
            postings[key] = self.length
            return []
        if isinstance(found, int):
            postings[key] = [found, self.length]
            self._listed += 2
            return [found]
        if len(found) > self.max_matches:
            return []
        matches = found.copy()
        found.append(self.length)
        self._listed += 1
        return matches

    def scores(self, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(blocks, scores): roots of the votes of each of the last len(kernel) tokens, age a weighted by kernel[a]."""
        recent = list(self._votes)[-len(kernel) :] if len(kernel) else []
        total: dict[int, float] = {}
        for age, (blocks, weights) in zip(range(len(recent) - 1, -1, -1), recent, strict=True):
            unique, inverse = np.unique(blocks, return_inverse=True)
            for block, votes in zip(unique.tolist(), np.sqrt(np.bincount(inverse, weights, len(unique))), strict=True):
                total[block] = total.get(block, 0.0) + votes * kernel[age]
        found = sorted(total)
        return np.array(found, np.int64), np.array([total[block] for block in found])

    @property
    def nbytes(self) -> int:
        """A close estimate: dictionaries, their integers and their lists; votes. Asked on every tick, so it counts."""
        votes = sum(blocks.nbytes + weights.nbytes for blocks, weights in self._votes)
        return sum(map(len, self._postings)) * 100 + self._listed * 36 + votes

    def copy(self) -> LexicalIndex:
        """An independent index with the same contents."""
        twin = LexicalIndex(self.block, max_n=self.max_n, max_matches=self.max_matches, edge=self.edge)
        twin.length, twin._recent, twin._votes = self.length, self._recent.copy(), self._votes.copy()
        twin._listed = self._listed
        twin._postings = [{k: v if isinstance(v, int) else v.copy() for k, v in p.items()} for p in self._postings]
        return twin
