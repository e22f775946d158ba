"""TOVA behind the hook, against one query's attention worked out one weight at a time."""

from __future__ import annotations

import pytest
from plain_loops import PlainLoops, Recorder, places

from megacontext.baselines.limits import Limits
from megacontext.baselines.tova import TOVA, TOVAConfig
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import toy_model, toy_tokens


class TestTOVA(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        return TOVA(spec, Limits(budget_slots, chunk=16, spare=4))


class TestTOVAInTheCache(TestTOVA):
    def make_cache(self, spec, budget_slots):
        return TOVA(spec, Limits(budget_slots, chunk=16, spare=4), TOVAConfig(positions="cache"))


class LastQuery(PlainLoops):
    """The mean over all heads of what the last query gives; or over those of one group."""

    per_head = False

    def worth(self, head, kept):
        heads = self.group(head) if self.per_head else range(self.spec.heads)
        given = [self.attention(query_head, self.seen - 1, kept) for query_head in heads]
        return [sum(weights[row] for weights in given) / len(given) for row in kept]


class LastQueryPerHead(LastQuery):
    per_head = True


@pytest.mark.parametrize("positions", ["text", "cache"])
@pytest.mark.parametrize("oracle", [LastQuery, LastQueryPerHead])
def test_it_keeps_what_the_last_query_attends_to(positions, oracle):
    model = toy_model("G0", n_layer=2, sequence_len=512, window_pattern="L")
    config = TOVAConfig(positions=positions, per_head=oracle.per_head, sinks=1 if oracle.per_head else 0)
    cache = TOVA(model.spec, Limits(20, chunk=6, spare=2), config)
    recorder = Recorder(model, cache)
    recorder.read(toy_tokens(70), [6, 6, 5, 6, 6, 6])
    for layer in model.spec.memory_layers:
        replayed = oracle(model.spec, recorder, layer, positions=positions)
        expected = replayed.replay(20, 2, sinks=config.sinks)
        assert places(cache, layer) == expected
        assert (expected[0] == expected[1]) == (not oracle.per_head)


def test_no_row_is_safe_by_its_age():
    model = toy_model("G0", n_layer=2, sequence_len=512, window_pattern="L")
    cache = TOVA(model.spec, Limits(20, chunk=4, spare=2))
    Recorder(model, cache).read(toy_tokens(120), [4] * 10)
    kept = [head for layer in model.spec.memory_layers for head in places(cache, layer)]
    assert any(head[0] != 0 for head in kept), "a first row left"
    assert any(head != list(range(head[-1] - len(head) + 1, head[-1] + 1)) for head in kept), "it is no window"
