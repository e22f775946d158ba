"""LexicalScorer: what stood where the recent words stood before. Knows no model; its index is lexical_store.py's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.errors import StoreError
from megacontext.focus.base import Moment, Scorer, Scores
from megacontext.focus.lexical.follow_up import FollowUp
from megacontext.focus.lexical_store import LexicalStore
from megacontext.models.vocabulary import Vocabulary
from megacontext.tree.memory_tree import MemoryTree

CANDIDATES = 64  # blocks a scorer names at most
NEARLY = 0.9  # of the best block's score: found as well
FOLLOWED, LESS = 0.8, 0.004  # of the best block's score: what further look-ups find has; each block a little less
WINDOW = 256  # newest tokens whose votes are kept: the words of a prompt must be among them


def best(blocks: np.ndarray, scores: np.ndarray, count: int = CANDIDATES) -> Scores:
    """The `count` best of them, as a dict."""
    if len(blocks) > count:
        top = np.argpartition(scores, -count)[-count:]
        blocks, scores = blocks[top], scores[top]
    return dict(zip(blocks.tolist(), scores.tolist(), strict=True))


def flowing_kernel(window: int = 64, votes: float = 0.9, scores: float = 0.8) -> np.ndarray:
    """Weight of a vote by its token's age: votes fade by `votes` a token, scores made of them by `scores` a token."""
    age = np.arange(window)
    return (votes ** (age + 1) - scores ** (age + 1)) / (votes - scores)


class LexicalScorer(Scorer):
    """Votes of an index over all tokens, while text flows over the last ones, at a prompt's end over all of the prompt.

    half: the votes that make a score of 1/2. At a prompt's end the best block's score says how sure the index is, the
    others stand to it as their votes do: so the few that really answer the prompt stand out.
    folder: of the index, whose files `restore` uses again, and which is cleared where history begins; None: in memory.
    vocabulary: which ids are the same word, so that the index does not tell them apart; None: none are. follows:
    further look-ups at a prompt's end. fingerprint: of what makes tokens. progress(done, all): told while much
    of the index is made again.
    """

    def __init__(
        self,
        block: int,
        *,
        half: float = 20.0,
        prompt_half: float = 200.0,
        folder: Path | None = None,
        fingerprint: str = "",
        vocabulary: Vocabulary | None = None,
        follows: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.block, self.half, self.prompt_half = block, half, prompt_half
        self.vocabulary, self.follows = vocabulary, follows
        self.folder, self.progress = folder, progress
        self.fingerprint = f"{fingerprint} {vocabulary.fingerprint}" if vocabulary else fingerprint
        self.ahead = 0  # tokens that are expected
        self.index: LexicalStore | None = None  # opened when history begins, or when it is brought back
        self.kernel = flowing_kernel()

    def _open(self, length: int, tokens: Callable[[int, int], Sequence[int]]) -> LexicalStore:
        return LexicalStore.open(
            self.folder,
            length,
            lambda start, stop: self._folded(tokens(start, stop)).tolist(),
            self.fingerprint,
            block=self.block,
            window=WINDOW,
            progress=self.progress,
        )

    def observe(self, tokens: Sequence[int]) -> None:
        if self.index is None:
            self.index = self._open(0, lambda start, stop: [])
        self.ahead = 0
        self.index.add(self._folded(tokens))

    def expect(self, tokens: Sequence[int]) -> None:
        if self.index is not None:
            self.index.expect(self._folded(tokens))
            self.ahead = min(len(tokens), WINDOW)

    def score(self, moment: Moment) -> Scores:
        if self.index is None:
            return {}
        before = self.index.weighed
        # What somebody said is asked for by itself: with the chat format before it, it would look like any other turn.
        blocks, votes = self.index.scores(self._kernel(moment), alone=bool(moment.words))
        self.flops += 2 * (self.index.weighed - before)
        # What is recent stands in view anyway; but if it answers a prompt best, others must measure up to it.
        far = blocks < max(moment.far_end, moment.words[0] // self.block if moment.words else 0)
        blocks, votes = blocks[far], votes[far]
        if not len(blocks):
            return {}
        if moment.words:
            most = votes.max()
            return best(blocks, votes / (most + self.prompt_half))
        return best(blocks, votes / (votes + self.half))

    def _folded(self, tokens: Sequence[int]) -> np.ndarray:
        ids = np.asarray(tokens, np.int64)
        return ids if self.vocabulary is None else self.vocabulary.fold(ids)

    def follow(self, moment: Moment, scores: Scores) -> Scores:
        most = max(scores.values(), default=0.0)
        if self.index is None or self.vocabulary is None or not moment.words or not most > 0:
            return scores
        start, stop = max(moment.words[0], moment.words[1] - WINDOW), moment.words[1]
        ahead = FollowUp(self.index, self.vocabulary, moment.tree.tokens, start, self.block)
        best = sorted((block for block in scores if scores[block] >= NEARLY * most), key=lambda b: -scores[b])[:2]
        found = dict(scores)
        steps = islice(ahead.steps(moment.tree.tokens(start, stop), best), self.follows)
        for rank, block in enumerate(chain.from_iterable(steps)):
            found[block] = max(found.get(block, 0.0), (FOLLOWED - LESS * rank) * most)
        self.flops += 2 * ahead.weighed
        return found

    def _kernel(self, moment: Moment) -> np.ndarray:
        """Weight by age. At a prompt's end: its words, all alike."""
        if not moment.words:
            # Each row of the coming pass asks for itself: their votes have not faded yet.
            return np.concatenate([np.full(max(self.ahead - 1, 0), self.kernel[0]), self.kernel])
        history = moment.context.history
        kernel = np.zeros(min(history - moment.words[0], WINDOW))
        kernel[max(history - moment.words[1], 0) :] = 1.0
        return kernel

    def restore(self, state: dict[str, Any], tree: MemoryTree) -> None:
        self.index = self._open(len(tree), tree.tokens)

    @property
    def failure(self) -> StoreError | None:
        return None if self.index is None else self.index.failure

    @property
    def nbytes(self) -> int:
        return 0 if self.index is None else self.index.nbytes

    def copy(self) -> LexicalScorer:
        """A fork's: it shares what the index has in files, and keeps what it adds in memory."""
        twin = LexicalScorer.__new__(LexicalScorer)
        index = None if self.index is None else self.index.copy()
        twin.__dict__ = {**self.__dict__, "index": index, "folder": None}
        return twin
