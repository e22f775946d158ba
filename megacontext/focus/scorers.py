"""The scorers that need no training. Each is one idea; `make_scorer` is the factory, MixScorer the default.

Where the numbers come from is in dev/LOG.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from megacontext.arena import Page
from megacontext.focus.base import Moment, Scorer, Scores
from megacontext.focus.lexical_index import LexicalIndex
from nanochat.hook import ModelSpec

CANDIDATES = 64  # blocks a scorer names at most


def best(blocks: np.ndarray, scores: np.ndarray, count: int = CANDIDATES) -> Scores:
    """The `count` best of them, as a dict."""
    if len(blocks) > count:
        top = np.argpartition(scores, -count)[-count:]
        blocks, scores = blocks[top], scores[top]
    return dict(zip(blocks.tolist(), scores.tolist(), strict=True))


class RecencyScorer(Scorer):
    """Nothing deserves detail but what is recent: the allocator's own order. A sliding window with a first block."""

    def score(self, moment: Moment) -> Scores:
        return {}

    def copy(self) -> RecencyScorer:
        return self


class RandomScorer(Scorer):
    """Random far blocks, drawn anew every `hold` scorings: the floor that any scorer must beat."""

    def __init__(self, seed: int, hold: int = 32) -> None:
        self.seed, self.hold, self.asked = seed, hold, 0

    def score(self, moment: Moment) -> Scores:
        draw = np.random.default_rng((self.seed, self.asked // self.hold))
        self.asked += 1
        blocks = moment.context.sealed // moment.context.grid.block
        if not blocks:
            return {}
        picks = np.unique(draw.integers(0, blocks, CANDIDATES))
        return dict(zip(picks.tolist(), draw.random(len(picks)).tolist(), strict=True))

    def copy(self) -> RandomScorer:
        twin = RandomScorer(self.seed, self.hold)
        twin.asked = self.asked
        return twin


class OracleScorer(Scorer):
    """Told from outside which blocks are the right ones. For evaluation only: the ceiling of any scorer."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.wanted: list[int] = []

    def hint(self, places: Sequence[tuple[int, int]]) -> None:
        """The token ranges [start, end) that matter next."""
        blocks = (range(start // self.block, (end - 1) // self.block + 1) for start, end in places)
        self.wanted = sorted({block for run in blocks for block in run})

    def score(self, moment: Moment) -> Scores:
        return dict.fromkeys(self.wanted, 1.0)

    def copy(self) -> OracleScorer:
        return self


def flowing_kernel(window: int = 64, votes: float = 0.9, scores: float = 0.8) -> np.ndarray:
    """Weight of a vote by its token's age: votes fade by `votes` a token, scores made of them by `scores` a token."""
    age = np.arange(window)
    return (votes ** (age + 1) - scores ** (age + 1)) / (votes - scores)


class LexicalScorer(Scorer):
    """Votes of an inverted index, while text flows over the last tokens, at a prompt's end over all of the prompt.

    half: the votes that make a score of 1/2. At a prompt's end the best block's score says how sure the index is, the
    others stand to it as their votes do: so the few that really answer the prompt stand out.
    """

    def __init__(self, block: int, *, half: float = 20.0, prompt_half: float = 200.0, window: int = 64) -> None:
        self.index = LexicalIndex(block, window=window)
        self.kernel = flowing_kernel(window)
        self.half, self.prompt_half, self.window = half, prompt_half, window

    def observe(self, tokens: Sequence[int]) -> None:
        self.index.add(tokens)

    def score(self, moment: Moment) -> Scores:
        kernel = np.ones(min(moment.prompt, self.window)) if moment.prompt else self.kernel
        blocks, votes = self.index.scores(kernel)
        far = blocks < moment.far_end
        blocks, votes = blocks[far], votes[far]
        if not len(blocks):
            return {}
        if moment.prompt:
            most = votes.max()
            return best(blocks, votes / (most + self.prompt_half))
        return best(blocks, votes / (votes + self.half))

    @property
    def nbytes(self) -> int:
        return self.index.nbytes

    def copy(self) -> LexicalScorer:
        twin = LexicalScorer.__new__(LexicalScorer)
        twin.__dict__ = {**self.__dict__, "index": self.index.copy()}
        return twin


class SemanticScorer(Scorer):
    """Cosine between the prompt and each block, both as centred means of some middle layers' values.

    Finds what was said in other words. Answers only at a prompt's end: while text flows it would only repeat
    what the last tokens are about.
    """

    def __init__(self, spec: ModelSpec, depths: Sequence[float] = (0.23, 0.3, 0.4, 0.47)) -> None:
        layers = len(spec.memory_layers)
        self.layers = sorted({min(round(depth * layers), layers - 1) for depth in depths})
        self.vectors = np.empty((64, len(self.layers) * spec.kv_heads * spec.head_dim), np.float32)
        self.count = 0
        self.total = np.zeros(self.vectors.shape[1])

    def _mean(self, values: Tensor) -> np.ndarray:
        """(L, Hk, n, d) values -> one vector, each layer scaled to length 1."""
        means = values[self.layers].float().mean(2).flatten(1)
        return torch.nn.functional.normalize(means, dim=-1).flatten().cpu().numpy()

    def seal(self, block: int, page: Page) -> None:
        if self.count == len(self.vectors):
            self.vectors = np.concatenate([self.vectors, np.empty_like(self.vectors)])
        self.vectors[self.count] = self._mean(page.values)
        self.total += self.vectors[self.count]
        self.count += 1

    def score(self, moment: Moment) -> Scores:
        if not moment.prompt or not self.count:
            return {}
        rows = prompt_values(moment)
        centre = self.total / self.count
        query = self._mean(rows) - centre
        known = self.vectors[: min(self.count, moment.far_end)] - centre
        cosine = known @ query / (np.linalg.norm(known, axis=1) * np.linalg.norm(query) + 1e-9)
        return best(np.arange(len(known)), cosine)

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes

    def copy(self) -> SemanticScorer:
        twin = SemanticScorer.__new__(SemanticScorer)
        twin.__dict__ = {**self.__dict__, "vectors": self.vectors.copy(), "total": self.total.copy()}
        return twin


class AttentionScorer(Scorer):
    """The largest mass that any head of any layer gives to a page in view, or to the gist that stands for a block.

    It can only judge what is in view: without gists it decides which pages may stay, not which should come.
    """

    wants_attention = True

    def __init__(self, block: int) -> None:
        self.block = block

    def score(self, moment: Moment) -> Scores:
        if moment.mass is None:
            return {}
        numbers = [n for n in moment.shown if n < moment.far_end]
        frames = [moment.shown[n] for n in numbers]
        leaves = [span for span in moment.gists if span.level == 1]
        if leaves:
            width = len(moment.gists[leaves[0]])
            numbers += [span.start // self.block for span in leaves]
            gists = moment.mass.page_masses([moment.gists[span] for span in leaves]) if width else torch.zeros(0)
        masses = moment.mass.page_masses(frames).tolist() if frames else []
        masses += gists.tolist() if leaves else []
        return dict(zip(numbers, masses, strict=True))

    def copy(self) -> AttentionScorer:
        return self


def prompt_values(moment: Moment) -> Tensor:
    """(L, Hk, n, d): values of the prompt's rows, as far as they are still at the end of the view."""
    context, block = moment.context, moment.context.grid.block
    pieces, left = [], moment.prompt
    runs = [moment.shown[e.start // block] for e in context.entries if e.level == 0 and e.end > context.history - left]
    tail = [run[: min(block, context.tail - i * block)] for i, run in enumerate(moment.tail)]
    for run in reversed([*runs, *tail]):
        if left <= 0:
            break
        take = run[max(len(run) - left, 0) :]
        pieces.append(moment.arena.values[:, 0, :, take.start : take.stop])
        left -= len(take)
    return torch.cat(pieces[::-1], 2)


class MixScorer(Scorer):
    """The default: words first, meaning for what words leave open, attention for what may stay.

    While text flows the lexical votes decide, plus `attention` times the mass that a page in view receives. At a
    prompt's end the best lexical score says how sure the words are; the semantic scores weigh what is left to 1.
    """

    def __init__(
        self, lexical: Scorer, semantic: Scorer, attending: Scorer | None = None, attention: float = 0.0
    ) -> None:
        self.lexical, self.semantic, self.attending, self.attention = lexical, semantic, attending, attention
        self.wants_attention = attending is not None and attention > 0

    def observe(self, tokens: Sequence[int]) -> None:
        self.lexical.observe(tokens)
        self.semantic.observe(tokens)

    def seal(self, block: int, page: Page) -> None:
        self.lexical.seal(block, page)
        self.semantic.seal(block, page)

    def score(self, moment: Moment) -> Scores:
        words = self.lexical.score(moment)
        if moment.prompt:
            return _sum(words, self.semantic.score(moment), 1.0 - max(words.values(), default=0.0))
        if self.attending is not None and self.wants_attention:
            return _sum(words, self.attending.score(moment), self.attention)
        return words

    @property
    def nbytes(self) -> int:
        return self.lexical.nbytes + self.semantic.nbytes

    def copy(self) -> MixScorer:
        return MixScorer(self.lexical.copy(), self.semantic.copy(), self.attending, self.attention)


def _sum(scores: Scores, others: Scores, weight: float) -> Scores:
    total = dict(scores)
    for block, score in others.items():
        total[block] = total.get(block, 0.0) + weight * score
    return total


def make_scorer(name: str, spec: ModelSpec, *, block: int, seed: int = 0, attention: float = 0.0) -> Scorer:
    """The scorer called `name`; attention: its weight in the mix. Raises ValueError, naming those there are."""
    if name == "recency":
        return RecencyScorer()
    if name == "random":
        return RandomScorer(seed)
    if name == "lexical":
        return LexicalScorer(block)
    if name == "semantic":
        return SemanticScorer(spec)
    if name == "attention":
        return AttentionScorer(block)
    if name == "mix":
        return MixScorer(LexicalScorer(block), SemanticScorer(spec), AttentionScorer(block), attention)
    raise ValueError(f"no scorer {name!r}; there are mix, lexical, semantic, attention, recency, random")
