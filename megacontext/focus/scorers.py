"""The scorers that need no training. Each is one idea; `make_scorer` is the factory, MixScorer the default.

Where the numbers come from is in dev/LOG.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from megacontext.arena import Page
from megacontext.errors import StoreError
from megacontext.focus.base import Moment, Scorer, Scores
from megacontext.focus.lexical_scorer import CANDIDATES, LexicalScorer
from megacontext.focus.semantic import SemanticScorer
from megacontext.models.text import TextModel
from megacontext.models.vocabulary import vocabulary_of
from megacontext.tree.memory_files import MemoryFiles
from megacontext.tree.memory_tree import MemoryTree
from nanochat.hook import ModelSpec


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

    def state(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def restore(self, state: dict[str, Any], tree: MemoryTree) -> None:
        self.asked = int(state["asked"])

    def copy(self) -> RandomScorer:
        twin = RandomScorer(self.seed, self.hold)
        twin.asked = self.asked
        return twin


class OracleScorer(Scorer):
    """Told from outside which blocks are the right ones. For evaluation only: the ceiling of any scorer."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.wanted: list[int] = []

    def hint(self, places: Sequence[tuple[int, int]], ahead: Sequence[int] = ()) -> None:
        """The token ranges [start, end) that matter next. ahead: the tokens to come, not needed here."""
        blocks = (range(start // self.block, (end - 1) // self.block + 1) for start, end in places)
        self.wanted = sorted({block for run in blocks for block in run})

    def score(self, moment: Moment) -> Scores:
        return dict.fromkeys(self.wanted, 1.0)

    def copy(self) -> OracleScorer:
        return self


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

    def expect(self, tokens: Sequence[int]) -> None:
        self.lexical.expect(tokens)
        self.semantic.expect(tokens)

    def seal(self, block: int, page: Page) -> None:
        self.lexical.seal(block, page)
        self.semantic.seal(block, page)

    def score(self, moment: Moment) -> Scores:
        words = self.lexical.score(moment)
        if moment.words:
            return _sum(words, self.semantic.score(moment), 1.0 - max(words.values(), default=0.0))
        if self.attending is not None and self.wants_attention:
            return _sum(words, self.attending.score(moment), self.attention)
        return words

    def follow(self, moment: Moment, scores: Scores) -> Scores:
        return self.lexical.follow(moment, scores)

    @property
    def failure(self) -> StoreError | None:
        return self.lexical.failure or self.semantic.failure

    @property
    def flops(self) -> int:  # type: ignore[override]
        return self.lexical.flops + self.semantic.flops + (self.attending.flops if self.attending else 0)

    def state(self) -> dict[str, Any]:
        return {"lexical": self.lexical.state(), "semantic": self.semantic.state()}

    def restore(self, state: dict[str, Any], tree: MemoryTree) -> None:
        self.lexical.restore(state["lexical"], tree)
        self.semantic.restore(state["semantic"], tree)

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


def _lexical(
    spec: ModelSpec, block: int, files: MemoryFiles | None, text: TextModel | None, follows: int, nearness: int
) -> LexicalScorer:
    vocabulary = None if text is None else vocabulary_of(text)
    folder = None if files is None or files.folder is None else files.folder / "lexical"
    return LexicalScorer(
        block,
        nearness=nearness,
        folder=folder,
        fingerprint=spec.fingerprint,
        vocabulary=vocabulary,
        follows=follows,
    )


def make_scorer(
    name: str,
    spec: ModelSpec,
    *,
    block: int,
    seed: int = 0,
    attention: float = 0.0,
    files: MemoryFiles | None = None,
    text: TextModel | None = None,
    follows: int = 0,
    nearness: int = 0,
) -> Scorer:
    """The scorer called `name`; attention: its weight in the mix. files: where indexes may be kept.

    text: says which ids are the same word, for looking up; None: each is its own.
    follows: further look-ups at a prompt's end. nearness: what being near is worth to words while text flows.

    Raises ValueError, naming those there are.
    """
    if name == "recency":
        return RecencyScorer()
    if name == "random":
        return RandomScorer(seed)
    if name == "lexical":
        return _lexical(spec, block, files, text, follows, nearness)
    if name == "semantic":
        return SemanticScorer(spec, files=files)
    if name == "attention":
        return AttentionScorer(block)
    if name == "mix":
        words = _lexical(spec, block, files, text, follows, nearness)
        return MixScorer(words, SemanticScorer(spec, files=files), AttentionScorer(block), attention)
    raise ValueError(f"no scorer {name!r}; there are mix, lexical, semantic, attention, recency, random")
