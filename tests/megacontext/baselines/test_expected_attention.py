"""Expected Attention behind the hook, against plain loops and against queries that are really drawn."""

from __future__ import annotations

import math

import pytest
import torch

from megacontext.baselines.expected_attention import ExpectedAttention, ExpectedAttentionConfig, expected_attention
from megacontext.baselines.limits import Limits
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, ids, run, toy_model, toy_tokens

LIMITS = {"chunk": 16, "spare": 4}


class TestExpectedAttention(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        return ExpectedAttention(spec, Limits(budget_slots, **LIMITS))


class TestExpectedAttentionCountedInsideTheCache(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        config = ExpectedAttentionConfig(positions="cache", covariance=False, recent=8)
        return ExpectedAttention(spec, Limits(budget_slots, **LIMITS), config)


def one_layer():
    return toy_model("G4", n_layer=1, sequence_len=512, window_pattern="L")


def gaussian(seed=0, heads=4, width=6):
    """A mean (H, d) and a covariance (H, d, d)."""
    rng = torch.Generator().manual_seed(seed)
    root = torch.randn(heads, width, width, generator=rng) * 0.5
    return torch.randn(heads, width, generator=rng), root @ root.mT


def test_expectations_are_the_papers_formula():
    rng = torch.Generator().manual_seed(2)
    keys = torch.randn(2, 7, 6, generator=rng)
    mean, covariance = gaussian()
    got = expected_attention(keys, mean, covariance, sinks=2)
    for kv_head in range(2):
        expected = [0.0] * 7
        for head in (2 * kv_head, 2 * kv_head + 1):  # the two query heads of this KV head
            logits = []
            for row in range(2, 7):
                k = keys[kv_head, row].double()
                m, c = mean[head].double(), covariance[head].double()
                logits.append(float(k @ m) / math.sqrt(6) + float(k @ c @ k) / 12)
            total = sum(map(math.exp, logits))
            for row in range(2, 7):
                expected[row] += math.exp(logits[row - 2]) / total / 2
        assert got[kv_head].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_closed_form_is_the_mean_over_queries_that_are_drawn():
    """Of the unnormalised attention exp(q.k / sqrt(d)), up to a factor that all rows share."""
    keys = torch.randn(1, 8, 6, generator=torch.Generator().manual_seed(3)) * 0.7
    mean, covariance = gaussian(heads=1)
    torch.manual_seed(0)
    queries = torch.distributions.MultivariateNormal(mean[0], covariance[0]).sample((400_000,))
    drawn = (queries @ keys[0].T / math.sqrt(6)).exp().mean(0)
    torch.testing.assert_close(expected_attention(keys, mean, covariance, 0)[0], drawn / drawn.sum(), atol=0.01, rtol=0)


def asked_queries(model, tokens):
    """(H, T, d) of the only layer, not rotated."""
    seen = []

    class Listening(ExpectedAttention):
        def note(self, layer, raw_q, view):
            seen.append(raw_q[0].clone())

    cached_logits(model, Listening(model.spec, Limits(512, **LIMITS)), tokens, [16] * 9)
    return torch.cat(seen, 1)


def test_mean_and_covariance_are_those_of_all_queries_but_the_sinks():
    model, tokens = one_layer(), toy_tokens(70)
    cache = ExpectedAttention(model.spec, Limits(64, **LIMITS))
    cached_logits(model, cache, tokens, [16, 5, 1, 9])
    queries = asked_queries(model, tokens)[:, 4:]
    mean, covariance = cache.query_statistics(0)
    torch.testing.assert_close(mean, queries.mean(1), atol=1e-5, rtol=0)
    for head in range(model.spec.heads):
        torch.testing.assert_close(covariance[head], queries[head].T.cov(correction=0), atol=1e-4, rtol=0)


def test_the_mean_rotation_is_the_mean_of_rotated_vectors():
    model = one_layer()
    cache = ExpectedAttention(model.spec, Limits(64, **LIMITS), ExpectedAttentionConfig(future=20))
    cached_logits(model, cache, toy_tokens(30), [16, 14])
    x = torch.randn(model.spec.head_dim, generator=torch.Generator().manual_seed(4))
    rotation = model.spec.rotation
    turned = [rotation.rotate(x.view(1, 1, 1, -1), rotation.at(torch.tensor([p]))).flatten() for p in range(30, 50)]
    torch.testing.assert_close(cache.mean_rotation(0) @ x, torch.stack(turned).mean(0), atol=1e-5, rtol=0)


def test_what_stays_is_what_is_expected_to_be_looked_at():
    """The first eviction of one layer, told from a memory that kept everything."""
    model, tokens = one_layer(), toy_tokens(49)
    cache, full = (ExpectedAttention(model.spec, Limits(slots, **LIMITS)) for slots in (48, 512))
    for memory in (cache, full):
        cached_logits(model, memory, tokens[:48], [16] * 3)
    worth = full.worth(0)
    run(model, cache, ids(model, tokens[48:]))
    for head in range(model.spec.kv_heads):
        best = sorted(range(4, 48), key=lambda row: -worth[head, row])[:40]
        assert cache.slots[0].place[head, : cache.slots[0].count].tolist() == [0, 1, 2, 3, *sorted(best), 48]


def test_rows_rolled_back_leave_no_trace_in_the_statistics():
    model, tokens = one_layer(), toy_tokens(40)
    plain, tried = (ExpectedAttention(model.spec, Limits(64, **LIMITS)) for _ in range(2))
    for memory in (plain, tried):
        cached_logits(model, memory, tokens[:16], [16])
        run(model, memory, ids(model, tokens[16:20]))
    mark = tried.mark()
    run(model, tried, ids(model, tokens[30:38]))
    tried.rollback(mark)
    for memory in (plain, tried):
        run(model, memory, ids(model, tokens[20:24]))
        memory.maintain(model)
    assert plain.seen == tried.seen == 20
    for got, expected in zip(tried.query_statistics(0), plain.query_statistics(0), strict=True):
        assert torch.equal(got, expected)


def test_a_fork_counts_its_own_queries():
    model, tokens = one_layer(), toy_tokens(60)
    cache = ExpectedAttention(model.spec, Limits(64, **LIMITS))
    cached_logits(model, cache, tokens[:30], [16, 14])
    before = [part.clone() for part in cache.query_statistics(0)]
    twin = cache.fork()
    cached_logits(model, twin, tokens[30:], [16, 14])
    assert twin.seen == 56
    assert cache.seen == 26
    for got, expected in zip(cache.query_statistics(0), before, strict=True):
        assert torch.equal(got, expected)
