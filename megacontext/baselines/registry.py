"""All baselines by name. Values alone: a class is imported when one is made, so that names cost no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megacontext.baselines.limits import Limits, TextSide
    from nanochat.hook import KVCache, ModelSpec

TRIALS = 4  # settings that are tried for each method on the development split, the paper's own among them
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """where: module:Class; the module has Class + "Config", a dataclass. trials: what differs from the paper, in each.

    keeps_all: it holds all of history and reads a part, so its slots in memory are not bounded. stride: tokens of one
    scored pass, where the choice depends on each query; 0 where it does not. paper: authors, year.
    """

    where: str
    paper: str
    trials: tuple[Settings, ...] = field(default=({},))
    keeps_all: bool = False
    stride: int = 0

    def make(self, spec: ModelSpec, limits: Limits, settings: Settings, text: TextSide | None) -> KVCache:
        """An empty memory. Raises BudgetError for too few slots, TypeError for a setting that is not there."""
        module, _, name = self.where.partition(":")
        found = importlib.import_module(f"megacontext.baselines.{module}")
        made: KVCache = getattr(found, name)(spec, limits, getattr(found, f"{name}Config")(**settings), text)
        return made


METHODS: dict[str, Method] = {
    "streaming_llm": Method(
        "streaming_llm:StreamingLLM",
        "Xiao et al. 2024",
        ({}, {"sinks": 1}, {"sinks": 16}, {"sinks": 32}),
    ),
    "h2o": Method(
        "h2o:H2O",
        "Zhang et al. 2023",
        ({}, {"positions": "cache"}, {"positions": "cache", "recent": 0.25}, {"positions": "cache", "recent": 0.75}),
    ),
    "tova": Method(
        "tova:TOVA",
        "Oren et al. 2024",
        ({}, {"positions": "cache"}, {"positions": "cache", "sinks": 4}, {"positions": "cache", "per_head": True}),
    ),
    "snapkv": Method(
        "snapkv:SnapKV",
        "Li et al. 2024",
        (
            {},
            {"positions": "cache"},
            {"positions": "cache", "group": "max"},
            {"positions": "cache", "window": 64, "kernel": 5, "pooling": "mean"},
        ),
    ),
    "snapkv_aware": Method(
        "snapkv:SnapKVAware",
        "Li et al. 2024",
        (
            {},
            {"positions": "cache"},
            {"window": 16, "kernel": 5},
            {"window": 64, "kernel": 5, "pooling": "mean"},
        ),
        keeps_all=True,
    ),
    "pyramidkv": Method(
        "pyramidkv:PyramidKV",
        "Cai et al. 2024",
        ({}, {"positions": "cache"}, {"positions": "cache", "beta": 2.0}, {"positions": "cache", "window": 32}),
    ),
    "keydiff": Method(
        "keydiff:KeyDiff",
        "Park et al. 2025",
        ({}, {"recent": 64}, {"positions": "cache", "recent": 64}, {"positions": "cache", "recent": 256}),
    ),
    "expected_attention": Method(
        "expected_attention:ExpectedAttention",
        "Devoto et al. 2025",
        ({}, {"recent": 64}, {"positions": "cache", "recent": 64}, {"positions": "cache", "recent": 256}),
    ),
    "quest": Method(
        "quest:Quest",
        "Tang et al. 2024",
        ({}, {"dense_layers": 0}, {"dense_layers": 0, "page": 8}, {"dense_layers": 0, "page": 32}),
        keeps_all=True,
        stride=1,
    ),
    "infllm": Method(
        "infllm:InfLLM",
        "Xiao et al. 2024",
        ({}, {"local": 2048}, {"block": 64, "blocks": 32}, {"block": 32, "blocks": 64}),
        keeps_all=True,
        stride=1,
    ),
    "bm25_reread": Method(
        "bm25_reread:BM25Reread",
        "Ram et al. 2023",
        ({}, {"share": 0.25}, {"passage": 128}, {"passage": 32, "share": 0.25}),
    ),
    "recursive_summary": Method(
        "recursive_summary:RecursiveSummary",
        "Wang et al. 2023",
        ({}, {"summary": 64}, {"summary": 256}, {"evict": 0.25}),
    ),
    "kvzip": Method(
        "kvzip:KVzip",
        "Kim et al. 2025",
        ({}, {"free": 0.5}, {"positions": "cache"}, {"positions": "cache", "recent": 64}),
    ),
    "attention_matching": Method(
        "attention_matching:AttentionMatching",
        "Zweiger et al. 2026",
        ({}, {"keys": "omp"}, {"positions": "cache"}, {"keys": "omp", "positions": "cache"}),
    ),
}
