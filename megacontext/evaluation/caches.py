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

from megacontext.config import MemoryConfig, PagesConfig
from megacontext.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from megacontext.evaluation.episode import Hint
    from megacontext.tree.memory_files import MemoryFiles
    from nanochat.hook import KVCache, ModelSpec

FULL, RECENCY, MEGACONTEXT, ORACLE = "full", "recency", "megacontext", "oracle"
SCORERS: tuple[str, ...] = get_args(MemoryConfig.model_fields["scorer"].annotation)
CACHES = (FULL, RECENCY, MEGACONTEXT, ORACLE, *(name for name in SCORERS if name != RECENCY))
FULL_STRIDE = 128  # tokens of a plain cache's scored pass: it decides nothing between passes


@dataclass(frozen=True)
class Contender:
    """A fresh memory. stride: tokens of one scored pass. budget: most slots it may show, None for any number.

    files: what `close` lets go of.
    """

    cache: KVCache
    stride: int
    budget: int | None
    hint: Hint | None = None
    files: MemoryFiles | None = None

    def close(self) -> None:
        """The memory is not used any more."""
        if self.files is not None:
            self.files.close()


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


def make_contender(
    name: str,
    spec: ModelSpec,
    memory: MemoryConfig,
    *,
    pages: PagesConfig | None = None,
    folder: Path | None = None,
) -> Contender:
    """An empty memory called `name`. folder: an empty one for its pages, kept as `pages` says; None: all in memory.

    Raises BudgetError for too small a budget, ConfigError for a scorer not there.
    """
    from megacontext.cache import ContextCache
    from megacontext.focus.scorers import OracleScorer
    from megacontext.tree.memory_files import MemoryFiles
    from nanochat.kv_cache import DenseCache

    config = settings(name, memory)
    if config is None:
        return Contender(DenseCache(spec), FULL_STRIDE, None)
    oracle = OracleScorer(config.block) if name == ORACLE else None
    files = None if folder is None else MemoryFiles(folder, spec, config.block, pages or PagesConfig())
    try:
        cache = ContextCache(spec, config, oracle, files=files)
    except ValueError as error:  # a scorer that is not there
        raise ConfigError(f"cache {name}: {error}") from error
    return Contender(cache, config.tick_tokens, config.budget, oracle.hint if oracle else None, files)
