"""PyramidKV behind the hook: SnapKV's choice under a budget that falls from layer to layer."""

from __future__ import annotations

from itertools import pairwise

import pytest
from plain_loops import Recorder, assert_the_best_stayed, places

from megacontext.baselines.limits import Limits
from megacontext.baselines.pyramidkv import PyramidKV, PyramidKVConfig, pyramid
from megacontext.baselines.snapkv import SnapKV, SnapKVConfig
from megacontext.errors import ConfigError
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, toy_model, toy_tokens

LAYERS = 4


def deep_model():
    return toy_model("G0", n_layer=LAYERS, sequence_len=512, window_pattern="L")


class TestPyramidKV(KVCacheTests):
    bounded = True
    ample = 1200  # the last layer keeps little of it

    def make_model(self):
        return deep_model()

    def make_cache(self, spec, budget_slots):
        return PyramidKV(spec, Limits(budget_slots, chunk=16, spare=4), PyramidKVConfig(beta=10))


class TestPyramidKVInTheCache(TestPyramidKV):
    def make_cache(self, spec, budget_slots):
        return PyramidKV(spec, Limits(budget_slots, chunk=16, spare=4), PyramidKVConfig(beta=10, positions="cache"))


@pytest.mark.parametrize(("mean", "layers", "beta"), [(984, 30, 20.0), (100, 4, 2.5), (7, 5, 20.0), (50, 1, 20.0)])
def test_the_layers_budgets_fall_on_a_line_and_their_mean_is_the_budget(mean, layers, beta):
    shares = pyramid(mean, layers, beta)
    assert len(shares) == layers
    assert sum(shares) == mean * layers
    if layers > 1:
        assert shares[-1] == pytest.approx(mean / beta, abs=1)
        assert shares[0] == pytest.approx(2 * mean - mean / beta, abs=1)
        steps = [a - b for a, b in pairwise(shares)]
        assert max(steps) - min(steps) <= 2


def test_each_layer_holds_its_share_and_all_together_the_budget():
    model = deep_model()
    cache = PyramidKV(model.spec, Limits(64, chunk=16, spare=4))
    cached_logits(model, cache, toy_tokens(300), [16] * 19)
    held = [len(places(cache, layer)[0]) for layer in model.spec.memory_layers]
    assert held == sorted(held, reverse=True)
    assert held[0] > 2 * held[-1]
    assert cache.usage.resident_slots <= 64
    assert sum(cache.layer_slots(layer) for layer in range(LAYERS)) == 64 * LAYERS
    snap = SnapKV(model.spec, Limits(64, chunk=16, spare=4), SnapKVConfig(window=8))
    keys = [sum(slots.keys.nbytes for slots in one.slots.values()) for one in (cache, snap)]
    assert keys[0] == keys[1], "the bytes of a flat budget"


def test_within_a_layer_it_chooses_as_snapkv_does():
    model, config = deep_model(), PyramidKVConfig(window=4, kernel=3, beta=4)
    cache = PyramidKV(model.spec, Limits(32, chunk=8, spare=4), config)
    recorder = Recorder(model, cache)
    recorder.read(toy_tokens(90), [8] * 10)
    assert {layer for layer, *_ in recorder.choices} == set(model.spec.memory_layers)
    assert_the_best_stayed(model, recorder, config)


def test_a_beta_of_one_is_snapkv():
    model, tokens = deep_model(), toy_tokens(150)
    steep = PyramidKV(model.spec, Limits(48, chunk=16, spare=4), PyramidKVConfig(beta=1))
    flat = SnapKV(model.spec, Limits(48, chunk=16, spare=4), SnapKVConfig(window=8))
    for cache in (steep, flat):
        cached_logits(model, cache, tokens, [16] * 10)
    assert [places(steep, layer) for layer in range(LAYERS)] == [places(flat, layer) for layer in range(LAYERS)]


def test_a_pyramid_that_stands_on_its_head_is_refused():
    with pytest.raises(ConfigError, match=r"beta is 0\.5"):
        PyramidKVConfig(beta=0.5)
