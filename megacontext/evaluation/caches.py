"""The memories that are compared, by name: `make_contender` is the factory. All but `full` have the same slots.

full         a plain cache: everything, for ever
recency      the first block and the last tokens: a sliding window of all the slots there are
megacontext  the memory section of the configuration, as it stands
oracle       the same, told from outside which blocks are the right ones: the ceiling of any scorer
lexical ...  the same, with that scorer alone
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from megacontext.config import MemoryConfig
from megacontext.errors import ConfigError

if TYPE_CHECKING:
    from megacontext.evaluation.episode import Hint
    from nanochat.hook import KVCache, ModelSpec

FULL, RECENCY, MEGACONTEXT, ORACLE = "full", "recency", "megacontext", "oracle"
SCORERS: tuple[str, ...] = get_args(MemoryConfig.model_fields["scorer"].annotation)
CACHES = (FULL, RECENCY, MEGACONTEXT, ORACLE, *(name for name in SCORERS if name != RECENCY))
FULL_STRIDE = 128  # tokens of a plain cache's scored pass: it decides nothing between passes


@dataclass(frozen=True)
class Contender:
    """A fresh memory. stride: tokens of one scored pass. budget: most slots it may show, None for any number."""

    cache: KVCache
    stride: int
    budget: int | None
    hint: Hint | None = None


def settings(name: str, memory: MemoryConfig) -> MemoryConfig | None:
    """The configuration that contender `name` runs with: None for the plain cache."""
    if name == FULL:
        return None
    changes: dict[str, Any] = {"cache": MEGACONTEXT}
    if name == RECENCY:
        memory = memory.recency_only()
    elif name in SCORERS:
        changes |= {"scorer": name}
    return memory.model_copy(update=changes)


def make_contender(name: str, spec: ModelSpec, memory: MemoryConfig) -> Contender:
    """An empty memory called `name`. Raises BudgetError for too small a budget, ConfigError for a scorer not there."""
    from megacontext.cache import ContextCache
    from megacontext.focus.scorers import OracleScorer
    from nanochat.kv_cache import DenseCache

    config = settings(name, memory)
    if config is None:
        return Contender(DenseCache(spec), FULL_STRIDE, None)
    oracle = OracleScorer(config.block) if name == ORACLE else None
    try:
        cache = ContextCache(spec, config, oracle)
    except ValueError as error:  # a scorer that is not there
        raise ConfigError(f"cache {name}: {error}") from error
    return Contender(cache, config.tick_tokens, config.budget, oracle.hint if oracle else None)
