"""Votes of the newest tokens for blocks: what a match is worth, and what the votes of a window come to.

A vote weighs idf * n^2 / sqrt(matches). It goes to the block that holds the token after the match, and to the next
block too when that token is near its block's end. Knows no index.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

FIRST, SECOND, ECHO = range(3)
SHARE = 0.25  # of what two blocks hold together, that the lesser one must have


class Pass(NamedTuple):
    """Votes of tokens that came together, oldest first. sizes: (m,) votes of each token. grams: n of each vote.

    parts: where in its block a vote's token stands: FIRST or SECOND half, or ECHO for the second vote of one match.
    """

    sizes: np.ndarray
    blocks: np.ndarray
    weights: np.ndarray
    grams: np.ndarray
    parts: np.ndarray

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self)


NONE = Pass(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.float64, np.uint8, np.uint8)))


def weigh(lengths: np.ndarray | int, counts: np.ndarray, grams: np.ndarray) -> np.ndarray:
    """What a match is worth. lengths: of history. counts, grams: matches of its n-gram in all, and n; broadcastable."""
    weights: np.ndarray = np.log1p(lengths / counts) * grams * grams / np.sqrt(counts)
    return weights


class Votes:
    """block: tokens a block. edge: what counts as near its end. window: votes of so many newest tokens are kept."""

    def __init__(self, block: int, *, edge: int, window: int, max_n: int, most: int) -> None:
        self.block, self.edge, self.window, self.max_n, self.most = block, edge, window, max_n, most
        self._kept_bytes = 0
        self._passes: deque[Pass] = deque()
        self.weighed = 0  # votes that were asked for, so far
        self._held = 0  # tokens in passes
        self._expected: Pass | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all votes that are kept."""
        return self._kept_bytes + (0 if self._expected is None else self._expected.nbytes)

    def add(self, length: int, counts: np.ndarray, places: np.ndarray) -> None:
        """length: of history before the first token. counts: (m * max_n,) matches of each token's n-grams.

        places: row << 32 | position of each match, in order, for rows with at most `most` of them.
        """
        self._expected = None
        self._keep(self._cast(length, counts, places))

    def expect(self, length: int, counts: np.ndarray, places: np.ndarray) -> None:
        """The same for tokens that are about to come: they vote until the next `add`, `expect` or `keep_expected`."""
        self._expected = self._cast(length, counts, places)

    def keep_expected(self) -> None:
        """What was expected has come, and its votes stay: as `add` with the same matches."""
        assert self._expected is not None
        self._keep(self._expected)
        self._expected = None

    def _cast(self, length: int, counts: np.ndarray, places: np.ndarray) -> Pass:
        rows, followers = places >> 32, (places & 0xFFFFFFFF) + 1
        blocks, places_in = np.divmod(followers, self.block)
        near = places_in >= self.block - self.edge
        each = 1 + near
        last = np.cumsum(each) - 1  # of each match's one or two votes
        blocks = np.repeat(blocks, each)
        blocks[last[near]] += 1
        weights = np.repeat(self._weights(length, counts)[rows], each)
        sizes = np.bincount(rows // self.max_n, each, len(counts) // self.max_n).astype(np.int64)
        grams = np.repeat((rows % self.max_n + 1).astype(np.uint8), each)
        parts = np.repeat((places_in >= self.block / 2).astype(np.uint8), each)
        parts[last[near]] = ECHO
        return Pass(sizes, blocks, weights, grams, parts)

    def _weights(self, length: int, counts: np.ndarray) -> np.ndarray:
        """(rows,) of one vote of each row. Where a row does not tell anything it has no votes."""
        counts = counts.clip(1, self.most).reshape(-1, self.max_n)
        lengths = np.arange(length, length + len(counts), dtype=np.int64)[:, None]
        return weigh(lengths, counts, np.arange(1, self.max_n + 1)).ravel()

    def _keep(self, votes: Pass) -> None:
        self._passes.append(votes)
        self._held += len(votes.sizes)
        self._kept_bytes += votes.nbytes
        while self._held - len(self._passes[0].sizes) >= self.window:
            oldest = self._passes.popleft()
            self._held -= len(oldest.sizes)
            self._kept_bytes -= oldest.nbytes

    def scores(self, kernel: np.ndarray, *, alone: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(blocks, scores): what the last len(kernel) tokens ask for, those of age a weighted by kernel[a].

        A token gives a block the root of its votes for it: so a passage that has long been followed does not drown
        what is asked for the first time. alone: as a question, whose words ask together: votes are summed as they are,
        only n-grams that lie within these tokens vote, and what lies across the edge of two blocks counts for both.
        """
        if alone:
            _, votes = self._question(kernel)
            return _across(*np.unique(votes.blocks, return_inverse=True), votes)
        votes, rows, kernel = self._weighed(kernel)
        return _by_block(*_roots(rows, votes.blocks, votes.weights, kernel))

    def asked(self, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, blocks, votes): what each token gives each block, the tokens being a question as for `scores`.

        Each n-gram gives a block its vote once, however often it stands there.
        """
        rows, votes = self._question(kernel)
        once, first = np.unique((rows * (self.max_n + 1) + votes.grams) << 32 | votes.blocks, return_index=True)
        pairs, total = _by_block((once >> 32) // (self.max_n + 1) << 32 | once & 0xFFFFFFFF, votes.weights[first])
        return pairs >> 32, pairs & 0xFFFFFFFF, total

    def _question(self, kernel: np.ndarray) -> tuple[np.ndarray, Pass]:
        """The token of each vote of a question, and these votes, weighed (sizes are not theirs)."""
        votes, rows, kernel = self._weighed(kernel)
        own = (votes.grams <= rows + 1) & (kernel[rows] > 0)
        rows = rows[own]
        kept = Pass(votes.sizes, *(part[own] for part in votes[1:]))
        return rows, kept._replace(weights=kept.weights * kernel[rows])

    def _weighed(self, kernel: np.ndarray) -> tuple[Pass, np.ndarray, np.ndarray]:
        """Votes of the last tokens as one pass, the token of each, and the weight of each token, oldest first."""
        there = self._held + (0 if self._expected is None else len(self._expected.sizes))
        wanted = min(len(kernel), self.window, there)
        votes = self._newest(wanted)
        self.weighed += len(votes.weights)
        return votes, np.repeat(np.arange(wanted), votes.sizes), kernel[:wanted][::-1]

    def _newest(self, tokens: int) -> Pass:
        """Votes of the newest tokens, as one pass."""
        passes: list[Pass] = [] if tokens else [NONE]
        expected = () if self._expected is None else (self._expected,)
        for votes in (*expected, *reversed(self._passes)) if tokens else ():
            surplus = len(votes.sizes) - tokens
            if surplus > 0:
                skip = votes.sizes[:surplus].sum()
                votes = Pass(votes.sizes[surplus:], *(part[skip:] for part in votes[1:]))
            passes.append(votes)
            tokens -= len(votes.sizes)
            if not tokens:
                break
        return Pass(*(np.concatenate(parts) for parts in zip(*reversed(passes), strict=True)))

    def copy(self) -> Votes:
        """An independent one with the same votes; passes, which never change, are shared."""
        twin = Votes.__new__(Votes)
        twin.__dict__ = {**self.__dict__, "_passes": self._passes.copy()}
        return twin


def _by_block(blocks: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every block once, with the sum of its weights."""
    unique, inverse = np.unique(blocks, return_inverse=True)
    return unique, np.bincount(inverse, weights, len(unique))


def _roots(
    rows: np.ndarray, blocks: np.ndarray, weights: np.ndarray, kernel: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(blocks, weights): of each row and block the root of what it gives it, times the row's weight in `kernel`."""
    pairs, votes = _by_block(rows << 32 | blocks, weights)
    return pairs & 0xFFFFFFFF, np.sqrt(votes) * kernel[pairs >> 32]


def _across(unique: np.ndarray, inverse: np.ndarray, votes: Pass) -> tuple[np.ndarray, np.ndarray]:
    """(blocks, scores): sums, but where the second half of a block and the first half of the next one have more votes
    together than either block by itself, and both a fair share of them, both get the sum: what is asked for lies across
    the edge.
    """
    scores = np.bincount(inverse, votes.weights, len(unique))
    first, second = (
        np.bincount(inverse, votes.weights * (votes.parts == part), len(unique)) for part in (FIRST, SECOND)
    )
    here = np.flatnonzero(np.diff(unique) == 1)
    together = second[here] + first[here + 1]
    fair = np.minimum(second[here], first[here + 1]) >= SHARE * together
    here, together = here[fair], together[fair]
    np.maximum.at(scores, here, together)
    np.maximum.at(scores, here + 1, together)
    return unique, scores
