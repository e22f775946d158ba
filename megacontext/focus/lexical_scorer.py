"""LexicalScorer: what stood where the recent words stood before. Knows no model; its index is lexical_store.py's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.errors import StoreError
from megacontext.focus.base import Moment, Scorer, Scores
from megacontext.focus.lexical.also_asked import also_asked
from megacontext.focus.lexical.follow_up import FollowUp
from megacontext.focus.lexical.records import checked
from megacontext.focus.lexical_store import LexicalStore
from megacontext.models.vocabulary import SPELLED, Vocabulary
from megacontext.tree.memory_tree import MemoryTree

CANDIDATES = 64  # blocks a scorer names at most
NEAREST = 32  # blocks before the recent part that are near enough to be named for that alone
NEARLY = 0.9  # of the best block's score: found as well
FOLLOWED, LESS = 0.8, 0.004  # of the best block's score: what is found further has; each block a little less
WAITING = 64  # tokens that may wait to be indexed: together they cost a fraction of what they cost one by one
WINDOW = 256  # newest tokens whose votes are kept: the words of a prompt must be among them


def best(blocks: np.ndarray, scores: np.ndarray, count: int = CANDIDATES) -> Scores:
    """The `count` best of them, as a dict."""
    if len(blocks) > count:
        top = np.argpartition(scores, -count)[-count:]
        blocks, scores = blocks[top], scores[top]
    return dict(zip(blocks.tolist(), scores.tolist(), strict=True))


@cache
def flowing_kernel(ahead: int = 0, window: int = 24, fade: float = 0.8) -> np.ndarray:
    """Weight of what a token asks for by its age while text flows; all of them together 1.

    ahead: tokens of the coming pass. Each of its rows asks for itself: none of them has faded yet. Not to be changed.
    """
    weights = np.concatenate([np.ones(max(ahead - 1, 0)), fade ** np.arange(window)])
    weights /= weights.sum()
    weights.setflags(write=False)
    return weights


def _until(end: int, blocks: np.ndarray, votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return blocks[blocks < end], votes[blocks < end]


class LexicalScorer(Scorer):
    """Votes of an index over all tokens, while text flows of the last ones, at a prompt's end of the prompt's words.

    While text flows a block's worth is what is asked of it (mean root of a token's votes) and its nearness: `nearness`
    tokens over its distance. A worth of 1 makes a score of 1/2. At a prompt's end the best block's score says how sure
    the index is (half: the votes that make 1/2), the others stand to it as their votes do: so the few that really
    answer the prompt stand out.
    folder: of the index, whose files `restore` uses again, and which is cleared where history begins; None: in memory.
    vocabulary: which ids are the same word, so that the index does not tell them apart; None: none are. follows:
    further look-ups at a prompt's end. fingerprint: of what makes tokens. progress(done, all): told while much
    of the index is made again.
    """

    def __init__(
        self,
        block: int,
        *,
        nearness: int = 0,
        prompt_half: float = 200.0,
        folder: Path | None = None,
        fingerprint: str = "",
        vocabulary: Vocabulary | None = None,
        follows: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.block, self.nearness, self.prompt_half = block, nearness, prompt_half
        self.vocabulary, self.follows = vocabulary, follows
        self.folder, self.progress = folder, progress
        self.fingerprint = f"{fingerprint} {vocabulary.fingerprint}" if vocabulary else fingerprint
        self.ahead = 0  # tokens that are expected
        self._index: LexicalStore | None = None  # opened when history begins, or when it is brought back
        self._newest: list[int] = []  # ids of history, as far as they say which word goes on
        self._waiting: list[np.ndarray] = []  # tokens of history that are not indexed yet

    def _open(self, length: int, tokens: Callable[[int, int], Sequence[int]]) -> LexicalStore:
        return LexicalStore.open(
            self.folder,
            length,
            lambda start, stop: self._folded(tokens(start, stop), tokens(max(start - SPELLED, 0), start)).tolist(),
            self.fingerprint,
            block=self.block,
            window=WINDOW,
            progress=self.progress,
        )

    def _current(self) -> LexicalStore | None:
        """The index, with everything in it that waited.

        Raises StoreError if a file is damaged and cannot be made again; what is not in it then waits on.
        """
        if self._index is not None and self._waiting:
            before, tokens = self._index.length, np.concatenate(self._waiting)
            try:
                self._index.add(tokens)
            finally:
                rest = tokens[self._index.length - before :]
                self._waiting = [rest] if len(rest) else []
        return self._index

    def observe(self, tokens: Sequence[int]) -> None:
        if self._index is None:
            self._index = self._open(0, lambda start, stop: [])
        self.ahead = 0
        self._waiting.append(checked(self._folded(tokens, self._newest)))
        self._newest = [*self._newest, *tokens][-SPELLED:]
        if sum(map(len, self._waiting)) >= WAITING:
            with suppress(StoreError):  # they wait on, and whoever asks is told
                self._current()

    def expect(self, tokens: Sequence[int]) -> None:
        index = self._current()
        if index is not None:
            index.expect(self._folded(tokens, self._newest))
            self.ahead = min(len(tokens), WINDOW)

    def score(self, moment: Moment) -> Scores:
        index = self._current()
        if index is None:
            return {}
        before = index.weighed
        found = self._prompted(index, moment, moment.words) if moment.words else self._flowing(index, moment)
        self.flops += 2 * (index.weighed - before)
        return found

    def _prompted(self, index: LexicalStore, moment: Moment, words: tuple[int, int]) -> Scores:
        # What is recent stands in view anyway; but if it answers a prompt best, others must measure up to it.
        blocks, votes = _until(self._before(moment, words), *index.scores(self._question(moment, words), alone=True))
        return best(blocks, votes / (votes.max() + self.prompt_half)) if len(blocks) else {}

    def _flowing(self, index: LexicalStore, moment: Moment) -> Scores:
        blocks, asked = index.scores(flowing_kernel(self.ahead))
        far = blocks < moment.far_end
        near = np.arange(max(moment.far_end - NEAREST, 0) if self.nearness else moment.far_end, moment.far_end)
        numbers = np.union1d(blocks[far], near)
        worth = self.nearness / (moment.context.history - numbers * self.block)
        worth[np.searchsorted(numbers, blocks[far])] += asked[far]
        return best(numbers, worth / (worth + 1.0))

    def _folded(self, tokens: Sequence[int], before: Sequence[int]) -> np.ndarray:
        ids = np.asarray(tokens, np.int64)
        return ids if self.vocabulary is None else self.vocabulary.fold(ids, before)

    def follow(self, moment: Moment, scores: Scores) -> Scores:
        most = max(scores.values(), default=0.0)
        index = self._current()
        if index is None or not moment.words or not most > 0:
            return scores
        found = dict(scores)
        others = [*self._also_asked(index, moment, moment.words), *self._followed(index, moment, moment.words, scores)]
        for rank, block in enumerate(dict.fromkeys(others)):
            found[block] = max(found.get(block, 0.0), (FOLLOWED - LESS * rank) * most)
        return found

    def _also_asked(self, index: LexicalStore, moment: Moment, words: tuple[int, int]) -> list[int]:
        """The blocks of a question's other parts."""
        weighed, question, before = index.weighed, self._question(moment, words), self._before(moment, words)
        numbers, scores = _until(before, *index.scores(question, alone=True))
        rows, blocks, votes = index.asked(question)
        self.flops += 2 * (index.weighed - weighed)
        there = blocks < before
        if not len(numbers):
            return []
        near = np.abs(numbers - numbers[scores.argmax()]) <= 1
        known = numbers[near & (scores >= NEARLY * scores.max())]
        return also_asked(rows[there], blocks[there], votes[there], known, index.length)

    def _followed(self, index: LexicalStore, moment: Moment, words: tuple[int, int], scores: Scores) -> Sequence[int]:
        """The blocks of what the best ones ask on for."""
        if self.vocabulary is None:
            return ()
        start, stop = max(words[0], words[1] - WINDOW), words[1]
        ahead = FollowUp(index, self.vocabulary, moment.tree.tokens, start, self.block)
        most = max(scores.values())
        best = sorted((block for block in scores if scores[block] >= NEARLY * most), key=lambda b: -scores[b])[:2]
        found = list(chain.from_iterable(islice(ahead.steps(moment.tree.tokens(start, stop), best), self.follows)))
        self.flops += 2 * ahead.weighed
        return found

    def _question(self, moment: Moment, words: tuple[int, int]) -> np.ndarray:
        """Weight of each newest token by its age: the words count, one by one.

        With the chat format around it, what somebody said would look like any other turn; with its question mark, like
        the question when it was asked before.
        """
        history = moment.context.history
        kernel = np.zeros(min(history - words[0], WINDOW))
        start, stop = history - len(kernel), min(words[1], history)
        if start < stop:
            counts = np.ones(stop - start)
            if self.vocabulary is not None:
                counts[self.vocabulary.is_end(np.asarray(moment.tree.tokens(start, stop), np.int64))] = 0.0
            kernel[history - stop :] = counts[::-1]
        return kernel

    def _before(self, moment: Moment, words: tuple[int, int]) -> int:
        """The end of the blocks before a prompt."""
        return max(moment.far_end, words[0] // self.block)

    def restore(self, state: dict[str, Any], tree: MemoryTree) -> None:
        self._index, self._waiting = self._open(len(tree), tree.tokens), []
        self._newest = list(tree.tokens(max(len(tree) - SPELLED, 0), len(tree)))

    @property
    def failure(self) -> StoreError | None:
        return None if self._index is None else self._index.failure

    @property
    def nbytes(self) -> int:
        waiting = sum(tokens.nbytes for tokens in self._waiting)
        return waiting if self._index is None else waiting + self._index.nbytes

    def copy(self) -> LexicalScorer:
        """A fork's: it shares what the index has in files, and keeps what it adds in memory."""
        twin = LexicalScorer.__new__(LexicalScorer)
        index = None if self._index is None else self._index.copy()
        twin.__dict__ = {**self.__dict__, "_index": index, "_waiting": self._waiting.copy(), "folder": None}
        return twin
