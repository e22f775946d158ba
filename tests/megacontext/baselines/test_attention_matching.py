"""Attention matching behind the hook: what stands where, what a pass sees, what is left alone."""

from __future__ import annotations

import pytest
import torch

from megacontext.baselines.attention_matching import AttentionMatching, AttentionMatchingConfig
from megacontext.baselines.limits import Limits
from megacontext.errors import BudgetError, ConfigError
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, ids, run, toy_model, toy_tokens
from nanochat.attention import attention

LIMITS = {"chunk": 8, "spare": 4}
SMALL = {"sinks": 2, "recent": 6, "queries": 32}


def small(slots=64, spec=None, **settings):
    spec = spec or toy_model("G4", sequence_len=512).spec
    return AttentionMatching(spec, Limits(slots, **LIMITS), AttentionMatchingConfig(**{**SMALL, **settings}))


class TestAttentionMatching(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        return small(budget_slots, spec)


class TestAttentionMatchingByPursuitCountedInsideTheCache(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        return small(budget_slots, spec, keys="omp", pick=2, positions="cache")


@pytest.fixture
def model():
    return toy_model("G0", n_layer=1, sequence_len=512, window_pattern="L")


def test_sinks_then_nodes_then_exact_rows(model):
    cache = small(spec=model.spec, node=128)
    cached_logits(model, cache, toy_tokens(90), [8] * 12)
    slots, nodes = cache.slots[0], cache.nodes[0]
    assert nodes > 0
    assert nodes % cache.node == 0
    for head in range(model.spec.kv_heads):
        place = slots.place[head, : slots.count].tolist()
        exact = place[2 + nodes :]
        assert place[:2] == [0, 1]
        assert place == sorted(set(place))
        assert exact == list(range(90 - len(exact), 90))
        bias = slots.tracks["bias"][head, : slots.count]
        assert not bias[:2].any()
        assert not bias[2 + nodes :].any()
        assert bias[2 : 2 + nodes].all()


def test_a_row_sees_the_bias_of_every_slot(model):
    """Against a loop over rows, heads and slots."""
    cache = small(spec=model.spec)
    cached_logits(model, cache, toy_tokens(80), [8] * 10)
    cache.begin(model.embed(ids(model, [1, 2, 3])))
    spec, rng = model.spec, torch.Generator().manual_seed(0)
    q = torch.randn(1, spec.heads, 3, spec.head_dim, generator=rng)
    k, v = (torch.randn(1, spec.kv_heads, 3, spec.head_dim, generator=rng) for _ in range(2))
    view = cache.update(0, q, k, v)
    out = attention(view)[0].view(3, spec.heads, spec.head_dim)
    slots, count = cache.slots[0], cache.slots[0].count
    for row in range(3):
        for head in range(spec.heads):
            kv_head = head // (spec.heads // spec.kv_heads)
            seen = count - 2 + row
            logits = slots.keys[0, kv_head, :seen] @ view.q[0, head, row] * spec.head_dim**-0.5
            weights = (logits + slots.tracks["bias"][kv_head, :seen]).softmax(0)
            torch.testing.assert_close(out[row, head], weights @ slots.values[0, kv_head, :seen], atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["text", "cache"])
def test_a_compaction_changes_what_its_reference_queries_get_less_than_dropping_does(model, positions):
    """Output over all slots, before and after."""
    cache = small(spec=model.spec, node=192, positions=positions, ridge=1e-4)
    cached_logits(model, cache, toy_tokens(64), [8] * 8)

    def outputs(bias=True):
        slots = cache.slots[0]
        queries = cache.reference(0, cache._end(slots.count))
        logits = queries @ slots.keys[0, :, : slots.count].mT * model.spec.head_dim**-0.5
        if bias:
            logits = logits + slots.tracks["bias"][:, None, : slots.count]
        return logits.softmax(-1) @ slots.values[0, :, : slots.count]

    before = outputs()
    own = cache.slots[0].values.clone()
    cache.shrink(0, 60)
    fitted = (outputs() - before).norm() / before.norm()
    place = cache.slots[0].place[:, : cache.slots[0].count]
    cache.slots[0].values[0, :, : cache.slots[0].count] = own[0].gather(
        1, place[..., None].expand(-1, -1, own.shape[-1])
    )
    dropped = (outputs(bias=False) - before).norm() / before.norm()
    assert fitted < dropped / 1.4


def test_nodes_are_compacted_again_when_they_leave_no_room(model):
    cache = small(spec=model.spec, node=256)
    cached_logits(model, cache, toy_tokens(400), [8] * 60)
    slots = cache.slots[0]
    assert cache.nodes[0] <= cache.most_nodes
    assert slots.count <= 64
    assert 2 <= int(slots.place[0, 2]) < 100  # something of the beginning is left


def test_rows_rolled_back_leave_no_trace(model):
    tokens = toy_tokens(120)
    plain, tried = (small(spec=model.spec) for _ in range(2))
    for memory in (plain, tried):
        cached_logits(model, memory, tokens[:61], [8] * 8)
        run(model, memory, ids(model, tokens[61:62]))
    mark = tried.mark()
    run(model, tried, ids(model, tokens[100:102]))
    tried.rollback(mark)
    rest = [cached_logits(model, memory, tokens[62:], [8] * 9) for memory in (plain, tried)]
    assert torch.equal(*rest)
    assert torch.equal(plain._queries[0], tried._queries[0])


def test_a_fork_compacts_for_itself(model):
    tokens = toy_tokens(120)
    cache = small(spec=model.spec)
    cached_logits(model, cache, tokens[:60], [8] * 8)
    twin = cache.fork()
    before = cache.slots[0].values.clone()
    cached_logits(model, twin, tokens[60:], [8] * 8)
    assert twin.nodes[0] > 0
    assert cache.nodes[0] == 0
    assert torch.equal(cache.slots[0].values, before)


def test_reference_queries_are_spread_over_as_many_tokens_as_there_are_slots(model):
    cache = small(spec=model.spec, queries=16)
    cached_logits(model, cache, toy_tokens(100), [3, 8, 5, 8, 1] * 4)
    assert cache.every == 4
    assert cache._queries[0].shape[1] == 16
    assert cache.reference(0, 100).shape == (model.spec.kv_heads, 32, model.spec.head_dim)


def test_it_pays_for_choosing_only_when_something_is_compacted(model):
    cache = small(spec=model.spec)
    cached_logits(model, cache, toy_tokens(60), [8] * 8)
    assert cache.selection_flops == 0
    cached_logits(model, cache, toy_tokens(8), [8])
    assert cache.selection_flops > 0


def test_numbers_that_do_not_go_together_are_refused(model):
    with pytest.raises(ConfigError, match="half of width"):
        small(spec=model.spec, width=64, node=40)
    with pytest.raises(ConfigError, match="highest, omp"):
        small(spec=model.spec, keys="best")
    with pytest.raises(BudgetError, match="40 slots"):
        small(40, model.spec)
