"""KeyDiff behind the hook, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from megacontext.baselines.keydiff import KeyDiff, KeyDiffConfig, key_difference
from megacontext.baselines.limits import Limits
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, ids, run, toy_model, toy_tokens


class TestKeyDiff(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        return KeyDiff(spec, Limits(budget_slots, chunk=16, spare=4))


class TestKeyDiffCountedInsideTheCache(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        config = KeyDiffConfig(sinks=2, recent=8, positions="cache")
        return KeyDiff(spec, Limits(budget_slots, chunk=16, spare=4), config)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def test_a_key_is_worth_its_distance_from_the_mean_direction():
    keys = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(1))
    for head in range(2):
        rows = keys[head].tolist()
        lengths = [math.sqrt(sum(x * x for x in row)) for row in rows]
        anchor = [sum(row[i] / size for row, size in zip(rows, lengths, strict=True)) / 9 for i in range(6)]
        expected = [-cosine(row, anchor) for row in rows]
        assert key_difference(keys)[head].tolist() == pytest.approx(expected, abs=1e-6)


def test_what_stays_is_what_points_elsewhere():
    """The first eviction of one layer, told from all keys of the text."""
    model = toy_model("G0", n_layer=1, sequence_len=512, window_pattern="L")
    tokens = toy_tokens(49)
    cache, full = (KeyDiff(model.spec, Limits(slots, chunk=16, spare=4)) for slots in (48, 512))
    for memory in (cache, full):
        cached_logits(model, memory, tokens[:48], [16] * 3)
        run(model, memory, ids(model, tokens[48:]))
    worth = key_difference(full.slots[0].keys[0, :, :48])
    for head in range(model.spec.kv_heads):
        best = sorted(sorted(range(48), key=lambda row: -worth[head, row])[:44])
        assert cache.slots[0].place[head, : cache.slots[0].count].tolist() == [*best, 48]


def test_it_pays_for_choosing_only_when_something_leaves():
    model = toy_model("G4", sequence_len=512)
    cache = KeyDiff(model.spec, Limits(64, chunk=16, spare=4))
    cached_logits(model, cache, toy_tokens(60), [16] * 4)
    assert cache.selection_flops == 0
    cached_logits(model, cache, toy_tokens(8))
    layers = len(model.spec.memory_layers)
    assert cache.selection_flops > layers * model.spec.kv_heads * 60 * model.spec.head_dim
