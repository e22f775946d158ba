"""The public suite, on this project's plain caches."""

import pytest

from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import toy_model
from nanochat.kv_cache import DenseCache
from nanochat.upstream_cache import KVCache


class TestDenseCache(KVCacheTests):
    slack_bytes = 0

    def make_cache(self, spec, budget_slots):
        return DenseCache(spec, capacity=8)


class TestDenseCacheWithALimit(TestDenseCache):
    def make_cache(self, spec, budget_slots):
        return DenseCache(spec, limit=budget_slots)


class TestDenseCacheWithWindows(TestDenseCache):
    """Short windows of 16, long ones of 32, over 96 tokens."""

    def make_model(self):
        return toy_model("G2", sequence_len=32, window_pattern="SSL", n_layer=5)


class TestUpstreamCache(KVCacheTests):
    slack_bytes = 0

    def make_cache(self, spec, budget_slots):
        cache = KVCache(1, spec.kv_heads, 8, spec.head_dim, spec.layers)
        cache.bind(spec)
        return cache


@pytest.mark.parametrize("suite", [KVCacheTests])
def test_the_suite_asks_for_a_cache(suite):
    with pytest.raises(NotImplementedError, match="make_cache"):
        suite().make_cache(None, 1)
