"""Quest: every row is kept; each query reads the pages whose keys could match it best.

Tang, Zhao, Zhu, Xiao, Kasikci, Han: Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference (ICML 2024,
arXiv 2406.10774), section 3.3: pages of 16 tokens, of each the channel-wise minimum and maximum of its rotated keys;
`sum_j max(q_j * min_j, q_j * max_j)` bounds q.k from above, the pages with the largest bounds are read up to a budget
of tokens, and the first two layers, which are not sparse, read everything (section 3.2, figure 3).

Other than in the paper:
- It reads text under the budget too, in passes of a few rows: the pages are then those of the largest bound over all
  rows of the pass. The paper reads a prompt with full attention and chooses only while it answers.
- All query heads of a KV head choose together, by their largest bound, so that a KV head reads no more than the budget.
  The paper's models have a KV head for each query head.
- The first two layers count: what they read beyond the budget the others read less, so that the mean over layers is the
  budget. They read at most half of all there is to read; the bounds choose what, once history is longer than that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megacontext.baselines.keeping import KeepingCache, Rows
from megacontext.baselines.limits import Limits, TextSide
from nanochat.hook import KVView, ModelSpec

LEAST_PAGES = 3  # that a layer can choose, as in the authors' code


@dataclass(frozen=True)
class QuestConfig:
    """page: tokens of a page. dense_layers: first layers of the model that read all of history, as far as they may."""

    page: int = 16
    dense_layers: int = 2


class Quest(KeepingCache):
    """Everything stays in memory; the budget is what a row reads, in the mean over the memory layers."""

    def __init__(
        self, spec: ModelSpec, limits: Limits, config: QuestConfig = QuestConfig(), text: TextSide | None = None
    ) -> None:
        """Raises BudgetError if not even a few pages fit beside a pass, ValueError for a page without tokens."""
        if config.page < 1:
            raise ValueError(f"a page of {config.page} tokens; it takes at least 1")
        least = 2 * (LEAST_PAGES + 1) * config.page  # the dense layers take half
        limits.demand(least, "quest", f"twice {LEAST_PAGES} pages and the newest one, of {config.page} tokens")
        self.config = config
        self.dense = [layer for layer in spec.memory_layers if layer < config.dense_layers]
        super().__init__(spec, limits)

    def reset(self) -> None:
        super().reset()
        self.bounds = {layer: Rows(self.spec, self.spec.kv_heads) for layer in self.rows}  # maxima, minima
        self.chosen: dict[int, Tensor] = {}  # of the last pass: (Hk, pages) ascending, where not everything was read

    def share(self, layer: int, total: int) -> int:
        """Most slots that `layer` reads when there are `total` rows, those of the pass included."""
        layers, dense, slots = len(self.rows), len(self.dense), self.limits.slots
        if dense in (0, layers):
            return slots
        each = min(total, max(slots, slots * layers // (2 * dense)))
        if layer in self.dense:
            return each
        return (slots * layers - each * dense) // (layers - dense)

    def pages_read(self, layer: int, first: int, rows: int) -> int | None:
        """Pages that a pass of `rows` rows after `first` others reads in `layer`; None: everything."""
        share = self.share(layer, first + rows)
        if first + rows <= share:
            return None
        return max((share - first % self.config.page - rows) // self.config.page, 0)

    def read_slots(self, rows: int) -> int:
        """Mean over the memory layers, rounded up."""
        read = 0
        for layer in self.rows:
            pages = self.pages_read(layer, self.length, rows)
            read += self.length if pages is None else pages * self.config.page + self.length % self.config.page
        return -(-read // len(self.rows))

    def read(self, layer: int, q: Tensor) -> KVView:
        rows, turned, first = self.rows[layer], self.rotate(q), self._first
        self._bound(layer)
        self.chosen.pop(layer, None)
        pages = self.pages_read(layer, first, q.shape[2])
        if pages is None:
            return KVView(turned, rows.first, rows.second)
        self.chosen[layer] = self.choose(layer, turned, pages)
        whole = first // self.config.page
        keys, values = (self._gather(x, self.chosen[layer], whole) for x in (rows.first, rows.second))
        return KVView(turned, keys, values)

    def _bound(self, layer: int) -> None:
        """Bounds of the pages that are whole by now; a page of this pass's rows is not yet one."""
        bounds, page = self.bounds[layer], self.config.page
        new = self.rows[layer].first[:, :, bounds.count * page : self._first // page * page]
        if new.shape[2]:
            by_page = new.unflatten(2, (-1, page))
            bounds.append(by_page.amax(3), by_page.amin(3))

    def choose(self, layer: int, turned: Tensor, pages: int) -> Tensor:
        """(Hk, pages) the pages with the largest bound over all rows and heads of a KV head, ascending."""
        bounds = upper_bounds(turned, self.bounds[layer].first[0], self.bounds[layer].second[0])
        self.selection_flops += 4 * turned.shape[1] * turned.shape[2] * bounds.shape[1] * turned.shape[3]
        return bounds.topk(min(pages, bounds.shape[1]), dim=1).indices.sort(dim=1).values

    def _gather(self, rows: Tensor, chosen: Tensor, whole: int) -> Tensor:
        """(1, Hk, S, d): the chosen pages, then all that stands after the last whole page."""
        cut = whole * self.config.page
        by_page = rows[0, :, :cut].unflatten(1, (-1, self.config.page))
        heads = torch.arange(by_page.shape[0], device=rows.device)[:, None]
        return torch.cat([by_page[heads, chosen].flatten(1, 2)[None], rows[:, :, cut:]], 2)

    def forget(self) -> None:
        for bounds in self.bounds.values():
            bounds.truncate(self.length // self.config.page)


def upper_bounds(turned: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """(Hk, P): no q.k of a page is larger. turned: (1, H, T, d) rotated queries; high, low: (Hk, P, d) of the keys."""
    queries = turned[0].unflatten(0, (high.shape[0], -1)).flatten(1, 2)
    bounds = queries.clamp(min=0) @ high.transpose(1, 2) + queries.clamp(max=0) @ low.transpose(1, 2)
    return bounds.amax(1)
