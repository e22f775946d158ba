"""H2O behind the hook, against attention summed one weight at a time."""

from __future__ import annotations

import pytest
from plain_loops import PlainLoops, Recorder, places

from megacontext.baselines.h2o import H2O, H2OConfig
from megacontext.baselines.limits import Limits
from megacontext.errors import ConfigError
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, toy_model, toy_tokens


class TestH2O(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        return H2O(spec, Limits(budget_slots, chunk=16, spare=4))


class TestH2OInTheCache(TestH2O):
    def make_cache(self, spec, budget_slots):
        return H2O(spec, Limits(budget_slots, chunk=16, spare=4), H2OConfig(positions="cache"))


class SummedAttention(PlainLoops):
    """Every weight that a row ever got is added up."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.total = {}

    def saw(self, head, kept, rows):
        for place in kept[-rows:]:
            for query_head in self.group(head):
                for row, weight in self.attention(query_head, place, kept).items():
                    self.total[head, row] = self.total.get((head, row), 0.0) + weight

    def worth(self, head, kept):
        return [self.total[head, row] for row in kept]


@pytest.mark.parametrize("positions", ["text", "cache"])
def test_it_keeps_the_rows_that_got_most_attention_and_the_newest(positions):
    model = toy_model("G0", n_layer=2, sequence_len=512, window_pattern="L")
    cache = H2O(model.spec, Limits(24, chunk=8, spare=4), H2OConfig(positions=positions))
    recorder = Recorder(model, cache)
    recorder.read(toy_tokens(60), [8, 8, 5, 8, 8, 1, 1, 1])
    for layer in model.spec.memory_layers:
        expected = SummedAttention(model.spec, recorder, layer, positions=positions).replay(24, 4, recent=8)
        assert places(cache, layer) == expected
        assert expected[0] != expected[1], "heads choose for themselves"


def test_half_of_what_stays_is_the_newest():
    model = toy_model("G0", n_layer=1, sequence_len=512, window_pattern="L")
    cache = H2O(model.spec, Limits(48, chunk=16, spare=4))
    cached_logits(model, cache, toy_tokens(64), [16] * 4)
    for kept in places(cache, 0):
        assert kept[-32:] == list(range(32, 64))  # 16 spared by the last choice, 16 that came since
        assert len(kept) == 48


def test_a_share_is_between_none_and_all():
    with pytest.raises(ConfigError, match=r"1\.5"):
        H2OConfig(recent=1.5)
