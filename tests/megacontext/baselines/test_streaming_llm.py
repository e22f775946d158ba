"""StreamingLLM behind the hook, and its paper's small published behaviour."""

from __future__ import annotations

import torch

from megacontext.baselines.limits import Limits
from megacontext.baselines.streaming_llm import StreamingLLM, StreamingLLMConfig
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, full_logits, toy_model, toy_tokens


class TestStreamingLLM(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        return StreamingLLM(spec, Limits(budget_slots, chunk=16, spare=4))


def test_it_keeps_the_sinks_and_the_newest_tokens():
    model = toy_model("G4", sequence_len=512)
    cache = StreamingLLM(model.spec, Limits(64, chunk=16, spare=4), StreamingLLMConfig(sinks=3))
    cached_logits(model, cache, toy_tokens(200), [16] * 20)
    for layer in model.spec.memory_layers:
        slots = cache.slots[layer]
        kept = slots.place[0, : slots.count].tolist()
        assert kept[:3] == [0, 1, 2]
        assert kept[3:] == list(range(200 - len(kept) + 3, 200))


def test_a_row_that_sees_only_the_window_equals_a_pass_over_the_window_alone():
    """One layer, so that what a row computed depends on nothing that has left."""
    model = toy_model("G0", n_layer=1, sequence_len=512, window_pattern="L")
    tokens = toy_tokens(120)
    cache = StreamingLLM(model.spec, Limits(40, chunk=8, spare=8), StreamingLLMConfig(sinks=0))
    last = cached_logits(model, cache, tokens, [8] * 15)[-1]
    kept = cache.usage.resident_slots
    torch.testing.assert_close(last, full_logits(model, tokens[-kept:])[-1], atol=1e-4, rtol=0)
