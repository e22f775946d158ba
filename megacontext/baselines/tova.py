"""TOVA: the row that the last query attends to least leaves, in all heads of a layer alike.

Oren, Hassid, Yarden, Adi, Schwartz: Transformers are Multi-State RNNs (EMNLP 2024, arXiv 2401.06104), section 3.2:
attention of the current query, averaged over the heads of a layer. No row is safe by its age: neither the first nor
the newest, not even the query's own. The paper's appendix also tries fixed first tokens and a choice head by head.

Grouped heads: the mean over all query heads of the layer; head by head, over those that share a KV head.
Positions: where a row stood in the text, as in the authors' code unless told otherwise; their compression of gaps
between rows for text beyond the trained length is not built here: "cache" closes the gaps altogether.
Different here: text is read in passes, so several rows leave at once, by the last query before the pass that needs
their slots; the paper drops one row a token while answering, and a whole prompt's surplus at its end.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from megacontext.baselines.evicting import Positions
from megacontext.baselines.limits import Limits, TextSide
from megacontext.baselines.observing import ObservingCache
from nanochat.hook import ModelSpec


@dataclass(frozen=True)
class TOVAConfig:
    """sinks: first tokens that stay. per_head: every KV head chooses for itself. positions: see EvictingCache."""

    sinks: int = 0
    per_head: bool = False
    positions: Positions = "text"


class TOVA(ObservingCache):
    """Asks one query."""

    def __init__(
        self, spec: ModelSpec, limits: Limits, config: TOVAConfig = TOVAConfig(), text: TextSide | None = None
    ) -> None:
        self.config = config
        super().__init__(spec, limits, window=1, positions=config.positions, sinks=config.sinks, recent=0)

    def worth(self, layer: int) -> Tensor:
        heads = self.observed(layer)[:, 0]  # (H, n)
        groups = self.spec.kv_heads if self.config.per_head else 1
        mean = heads.view(groups, -1, heads.shape[1]).mean(1).expand(self.spec.kv_heads, -1)
        return pad(mean, (0, self._unsettled))
