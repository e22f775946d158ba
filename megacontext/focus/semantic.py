"""SemanticScorer: finds what was said in other words, when a prompt ends.

Values of the middle-to-late layers carry what a token means; less than half the depth carries its form. Two stages:
blocks whose mean is most like the words' mean (mean_store), then the best are ranked by late interaction: for each
word of the prompt its best match among the block's tokens, in standard deviations over the candidates, so that a word
that matches everywhere counts for little (the idea of ColBERT's MaxSim, arXiv 2004.12832, section 3.3).
The measurements behind layers and stages are in dev/LOG.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from megacontext.arena import Page
from megacontext.focus.base import Moment, Scorer, Scores
from megacontext.focus.mean_store import MeanStore
from megacontext.tree.memory_files import MemoryFiles
from megacontext.tree.memory_tree import MemoryTree
from nanochat.hook import ModelSpec

SHORT_LIST = 64  # blocks that the second stage looks at


class SemanticScorer(Scorer):
    """depths: from where to where in the model the layers are taken, every second one. (n layers, w = Hk * d wide.)

    Answers only at a prompt's end: while text flows it would repeat what the last tokens are about.
    """

    def __init__(
        self, spec: ModelSpec, depths: tuple[float, float] = (0.5, 0.84), files: MemoryFiles | None = None
    ) -> None:
        self.layers = layers_of(spec, depths)
        shape = len(self.layers), spec.kv_heads * spec.head_dim
        self.means = MeanStore(*shape, None if files is None else files.means(MeanStore.geometry(*shape)))

    def _rows(self, values: Tensor) -> Tensor:
        """(L, Hk, t, d) values -> (n, t, w) float32."""
        return values[self.layers].float().transpose(1, 2).flatten(2).cpu()

    def seal(self, block: int, page: Page) -> None:
        self.means.append(self._rows(page.values).mean(1).numpy())

    def score(self, moment: Moment) -> Scores:
        known = min(self.means.count, moment.far_end)
        if not moment.words or not known:
            return {}
        centre = torch.from_numpy(self.means.centre)[:, None]  # (n, 1, w)
        words = self._rows(word_values(moment)) - centre
        if not words.shape[1]:
            return {}
        blocks = self.means.likest(normalize(words.mean(1), dim=-1).numpy(), known, SHORT_LIST)
        self.flops += self.means.flops(known)
        if not blocks:
            return {}
        scores = self._late_interaction(moment, blocks, centre, words)
        return dict(zip(blocks, torch.tanh(scores / 2).tolist(), strict=True))

    def _late_interaction(self, moment: Moment, blocks: list[int], centre: Tensor, words: Tensor) -> Tensor:
        """(blocks,) mean over words and layers of the best match, in standard deviations over these blocks."""
        pages = [self._rows(moment.tree.page(moment.context.grid.page(block)).values) for block in blocks]
        tokens = normalize(torch.stack(pages, 1) - centre[:, None], dim=-1)  # (n, blocks, t, w)
        matches = torch.einsum("nqw,nbtw->nbqt", normalize(words, dim=-1), tokens).amax(-1)  # (n, blocks, q)
        self.flops += 2 * tokens.numel() * words.shape[1]
        if len(blocks) > 1:
            matches = (matches - matches.mean(1, keepdim=True)) / (matches.std(1, keepdim=True) + 1e-3)
        return matches.mean((0, 2))

    def state(self) -> dict[str, Any]:
        return self.means.state()

    def restore(self, state: dict[str, Any], tree: MemoryTree) -> None:
        self.means.restore(state)

    @property
    def nbytes(self) -> int:
        return self.means.nbytes

    def copy(self) -> SemanticScorer:
        twin = SemanticScorer.__new__(SemanticScorer)
        twin.__dict__ = {**self.__dict__, "means": self.means.copy()}
        return twin


def layers_of(spec: ModelSpec, depths: tuple[float, float]) -> list[int]:
    """Every second memory layer from one depth to the other; at least one."""
    layers = len(spec.memory_layers)
    return list(range(int(depths[0] * layers), max(int(depths[1] * layers + 1), 1), 2)) or [layers - 1]


def word_values(moment: Moment) -> Tensor:
    """(L, Hk, n, d): values of the prompt's words, as far as they stand in view."""
    context, block = moment.context, moment.context.grid.block
    slots: list[int] = []
    for at in range(*(moment.words or (0, 0))):
        number, row = divmod(at, block)
        frame: Sequence[int] | None = moment.shown.get(number)
        if at >= context.sealed:
            frame = moment.tail[number - context.sealed // block]
        if frame is not None:
            slots.append(frame[row])
    return moment.arena.values[:, 0, :, slots]
