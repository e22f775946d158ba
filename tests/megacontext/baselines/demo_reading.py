"""Baselines on the demo model and real text: short texts, small budgets, bf16, a minute or two in all."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from megacontext.baselines.evicting import EvictingCache
from megacontext.baselines.limits import Limits
from megacontext.baselines.registry import METHODS
from megacontext.config import ModelConfig
from megacontext.evaluation.caches import split_name
from megacontext.evaluation.corpus import load_corpus
from megacontext.evaluation.episodes.run import run_episode
from megacontext.evaluation.episodes.steps import Continue, Read
from megacontext.evaluation.tasks.base import Library
from megacontext.models import load_model
from nanochat.hook import KVCache, ModelSpec
from nanochat.kv_cache import DenseCache

ARTIFACTS = Path(__file__).parents[3] / "artifacts"
MODEL = ARTIFACTS / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
SAMPLE = ARTIFACTS / "corpus" / "sample.txt"


class RandomRows(EvictingCache):
    """A floor: four first rows, a share of the last ones, and between them whatever a hash prefers."""

    def __init__(self, spec: ModelSpec, limits: Limits) -> None:
        super().__init__(spec, limits, positions="text", sinks=4, recent=limits.slots // 2)

    def worth(self, layer: int) -> Tensor:
        place = self.slots[layer].place[:, : self.slots[layer].count]
        salt = torch.arange(len(place))[:, None] * 7919 + layer * 104729
        return ((place * 2654435761 + salt * 40503) % 1000003).float()


@cache
def demo():
    """The model and its text side, loaded once."""
    return load_model(ModelConfig(path=str(MODEL), dtype="bfloat16", device="cpu"))


@cache
def library() -> Library:
    return Library(demo().text, load_corpus(SAMPLE).documents)


def made(name: str, slots: int) -> KVCache:
    """A memory by its name and changes; besides them `full` and `random`."""
    base, changes = split_name(name)
    spec, limits = demo().model.spec, Limits(slots)
    if base == "full":
        return DenseCache(spec)
    return RandomRows(spec, limits) if base == "random" else METHODS[base].make(spec, limits, changes, None)


@cache
def text_nll(name: str, documents: tuple[int, ...], *, slots: int = 128, tokens: int = 896, scored: int = 256) -> float:
    """Mean nats a token of the last `scored` of `tokens` tokens, from the 5,000th of each document on."""
    nats = []
    for document in documents:
        ids = library().ids(library().documents[document])[5_000 : 5_000 + tokens]
        steps = [Read(ids[:-scored]), Continue(ids[-scored:])]
        nats += run_episode(demo().model, made(name, slots), steps, stride=16).nll
    print(f"{slots} slots: {name} {sum(nats) / len(nats):.3f}")
    return sum(nats) / len(nats)
