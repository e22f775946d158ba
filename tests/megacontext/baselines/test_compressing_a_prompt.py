"""Small published behaviour of the methods that compress, on the demo model: once, after a prompt, as their papers do.

The figures that these print with `-s` are those of docs/baselines.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from megacontext.baselines import attention_matching
from megacontext.baselines.attention_matching import AttentionMatching, AttentionMatchingConfig
from megacontext.baselines.evicting import EvictingCache
from megacontext.baselines.expected_attention import ExpectedAttention
from megacontext.baselines.keydiff import KeyDiff
from megacontext.baselines.kvzip import KVzip
from megacontext.baselines.limits import Limits
from megacontext.baselines.matching import Node
from megacontext.baselines.snapkv import SnapKV
from megacontext.config import ModelConfig
from megacontext.evaluation.corpus import load_corpus
from megacontext.evaluation.episodes.run import run_episode
from megacontext.evaluation.tasks.base import Library
from megacontext.evaluation.tasks.recall import LateRecall
from megacontext.evaluation.tasks.text import PlainText
from megacontext.models import load_model
from nanochat.engine import prefill

ROOT = Path(__file__).parents[3]
MODEL, CORPUS = ROOT / ModelConfig().path, ROOT / "artifacts/corpus/sample.txt"
pytestmark = [
    pytest.mark.needs_model,
    pytest.mark.minutes,
    pytest.mark.skipif(not (MODEL.exists() and CORPUS.exists()), reason="python tools/bootstrap_env.py brings both"),
]
TEXT = PlainText(tokens=1280, scored=256)
RECALL = LateRecall(tokens=1000, facts=5, questions=5, choices=5)
LIMITS = Limits(1344, 32)  # room for all of the prompt, and what comes after its compression


class RandomRows(EvictingCache):
    """The floor: any rows leave, the first four apart."""

    def __init__(self, spec, limits):
        self.rng = torch.Generator().manual_seed(0)
        super().__init__(spec, limits, positions="text", sinks=4, recent=0)

    def worth(self, layer):
        return torch.rand(self.spec.kv_heads, self.slots[layer].count, generator=self.rng)


@pytest.fixture(scope="module")
def loaded():
    return load_model(ModelConfig(path=str(MODEL), dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def library(loaded):
    return Library(loaded.text, load_corpus(CORPUS).documents)


def read(model, cache: EvictingCache, tokens: Sequence[int]):
    """Logits (1, V) of the last row."""
    with torch.inference_mode():
        return prefill(model, cache, list(tokens), answer=False)


@torch.inference_mode()
def compress(model, cache: EvictingCache, keep: int) -> EvictingCache:
    """A copy of `cache` with `keep` rows a head."""
    twin = cache.fork()
    if isinstance(twin, KVzip):
        twin.keep = keep
        twin.compress(model)
        return twin
    for layer in model.spec.memory_layers:
        twin.shrink(layer, keep)
    return twin


@torch.inference_mode()
def loss(model, cache: EvictingCache, last, tokens: list[int]) -> float:
    """Mean nats a token of `tokens`, which come after the row whose logits are `last`."""
    logits = [last]
    for start in range(0, len(tokens), 32):
        rows = torch.tensor([tokens[start : start + 32]])
        logits.append(model.logits(model.forward(model.embed(rows), cache))[0])
        cache.maintain(model)
    return float(torch.nn.functional.cross_entropy(torch.cat(logits)[:-1], torch.tensor(tokens)))


def losses_after_one_compression(loaded, library, kind, keeps, seed=0):
    prompt, rest = TEXT.steps(library, seed)
    cache = kind(loaded.model.spec, LIMITS)
    last = read(loaded.model, cache, prompt.tokens)
    found = [loss(loaded.model, compress(loaded.model, cache, keep), last, rest.tokens) for keep in keeps]
    print(f"\n{kind.__name__}: {len(prompt.tokens)} rows to {keeps}: NLL {[round(nats, 3) for nats in found]}")
    return found


def test_keydiff_and_expected_attention_lose_less_than_random_rows(loaded, library):
    keeps = (512, 256)
    floor = losses_after_one_compression(loaded, library, RandomRows, keeps)
    for kind in (KeyDiff, ExpectedAttention):
        assert all(
            a < b for a, b in zip(losses_after_one_compression(loaded, library, kind, keeps), floor, strict=True)
        )


def test_kvzip_keeps_answers_to_questions_that_nobody_had_asked(loaded, library):
    """Against SnapKV, which keeps what the end of the text looked at; a quarter of 1,000 rows stays."""
    told, *questions = RECALL.steps(library, 0)
    found = {}
    for kind in (KVzip, SnapKV):
        cache = kind(loaded.model.spec, LIMITS, text=loaded.text)
        read(loaded.model, cache, told.tokens)
        for keep in (1000, 256):
            outcome = run_episode(loaded.model, compress(loaded.model, cache, keep), questions)
            found[kind, keep] = outcome.mean_nll
            print(f"\n{kind.__name__}: {keep} of 1000: {outcome.right} of {outcome.asked}, NLL {outcome.mean_nll:.2f}")
    assert found[KVzip, 256] < found[KVzip, 1000] + 0.1
    assert found[SnapKV, 256] > found[SnapKV, 1000] + 1


def test_a_fitted_node_loses_less_than_the_same_keys_as_they_were(loaded, library, monkeypatch):
    """920 of 1,024 rows become 92 or 46 slots; bias and values fitted, or the rows of most attention left alone."""
    prompt, rest = TEXT.steps(library, 0)

    def as_they_were(logits, values, chosen, moved, bounds, **_):
        own = values.float().gather(1, chosen[..., None].expand(-1, -1, values.shape[2]))
        return Node(torch.zeros(chosen.shape), own)

    config = AttentionMatchingConfig(width=920, node=92, queries=256)
    cache = AttentionMatching(loaded.model.spec, Limits(2048, 32), config)
    last = read(loaded.model, cache, prompt.tokens)
    for cache.node in (92, 46):
        slots = 1024 - 920 + cache.node
        fitted = loss(loaded.model, compress(loaded.model, cache, slots), last, rest.tokens)
        with monkeypatch.context() as patch:
            patch.setattr(attention_matching, "fit_node", as_they_were)
            dropped = loss(loaded.model, compress(loaded.model, cache, slots), last, rest.tokens)
        print(f"\nattention matching: 920 rows to {cache.node}: NLL {fitted:.3f}, not fitted {dropped:.3f}")
        assert fitted < dropped
