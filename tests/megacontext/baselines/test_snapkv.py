"""SnapKV behind the hook, question-agnostic and question-aware, against votes counted and pooled by plain loops."""

from __future__ import annotations

import pytest
import torch
from plain_loops import Recorder, assert_the_best_stayed, places

from megacontext.baselines.limits import Limits
from megacontext.baselines.snapkv import SnapKV, SnapKVAware, SnapKVConfig
from megacontext.errors import BudgetError, ConfigError
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, full_logits, toy_model, toy_tokens
from nanochat.engine import prefill


class TestSnapKV(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        return SnapKV(spec, Limits(budget_slots, chunk=16, spare=4), SnapKVConfig(window=8))


class TestSnapKVInTheCache(TestSnapKV):
    def make_cache(self, spec, budget_slots):
        return SnapKV(spec, Limits(budget_slots, chunk=16, spare=4), SnapKVConfig(window=8, positions="cache"))


class TestSnapKVAware(KVCacheTests):
    def make_cache(self, spec, budget_slots):
        return SnapKVAware(spec, Limits(budget_slots, chunk=16, spare=4), SnapKVConfig(window=8))


class TestSnapKVAwareInTheCache(KVCacheTests):
    def make_cache(self, spec, budget_slots):
        config = SnapKVConfig(window=8, positions="cache")
        return SnapKVAware(spec, Limits(budget_slots, chunk=16, spare=4), config)


CONFIGS = [
    SnapKVConfig(window=5, kernel=3),
    SnapKVConfig(window=5, kernel=5, pooling="mean", positions="cache"),
    SnapKVConfig(window=3, kernel=1, group="max", positions="cache"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_it_keeps_the_best_pooled_votes_of_the_last_window_and_the_window(config):
    model = toy_model("G0", n_layer=2, sequence_len=512, window_pattern="L")
    cache = SnapKV(model.spec, Limits(24, chunk=8, spare=4), config)
    recorder = Recorder(model, cache)
    recorder.read(toy_tokens(70), [8, 8, 7, 8, 2, 8, 8])
    assert len(recorder.choices) >= 10
    assert_the_best_stayed(model, recorder, config)


def test_the_aware_one_keeps_everything_until_a_prompt_ends():
    model = toy_model("G0", n_layer=2, sequence_len=512, window_pattern="L")
    tokens = toy_tokens(200)
    cache = SnapKVAware(model.spec, Limits(48, chunk=16, spare=4), SnapKVConfig(window=8))
    logits = cached_logits(model, cache, tokens, [16] * 20)
    torch.testing.assert_close(logits, full_logits(model, tokens), atol=1e-4, rtol=0)
    assert cache.usage.resident_slots == cache.usage.read_slots == 200


def test_the_aware_one_chooses_with_the_prompts_queries_and_says_what_it_held():
    model = toy_model("G0", n_layer=2, sequence_len=512, window_pattern="L")
    config = SnapKVConfig(window=8)
    cache = SnapKVAware(model.spec, Limits(48, chunk=16, spare=4), config)
    recorder = Recorder(model, cache)
    recorder.read(toy_tokens(120), [16] * 20)
    held = cache.usage.nbytes
    assert not recorder.choices
    cache.maintain(model, prompt=120)
    assert len(recorder.choices) == 2, "one a layer"
    assert_the_best_stayed(model, recorder, config)
    assert cache.usage.read_slots == 32, "the budget less a pass"
    assert cache.usage.resident_slots == 120
    assert cache.usage.nbytes == held, "what it needed is not called free because it is not read"
    assert cache.selection_flops == 2 * 2 * model.spec.heads * 8 * 120 * model.spec.head_dim


def test_what_the_aware_one_dropped_is_gone_and_new_text_stays_until_the_next_prompt_ends():
    model = toy_model("G0", n_layer=2, sequence_len=512, window_pattern="L")
    cache = SnapKVAware(model.spec, Limits(48, chunk=16, spare=4), SnapKVConfig(window=8))
    prefill(model, cache, toy_tokens(120))
    kept = [set(head) for head in places(cache, 0)]
    assert all(len(head) == 33 for head in kept), "32 chosen, and the prompt's last row"
    prefill(model, cache, toy_tokens(40, seed=1), answer=False)
    assert all(len(head) == 73 for head in places(cache, 0))
    prefill(model, cache, toy_tokens(10, seed=2))
    assert all({row for row in new if row < 120} < old for new, old in zip(places(cache, 0), kept, strict=True))
    assert cache.usage.read_slots == 33


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="kernel 4"):
        SnapKVConfig(kernel=4)
    with pytest.raises(ConfigError, match="median"):
        SnapKVConfig(pooling="median")
    with pytest.raises(BudgetError, match="32 last rows"):
        SnapKV(toy_model().spec, Limits(48, chunk=32))
    with pytest.raises(ConfigError, match="sideways"):
        SnapKV(toy_model().spec, Limits(96, chunk=32), SnapKVConfig(positions="sideways"))
