"""Upstream's KVCache as code outside uses it: its constructor, attributes and methods."""

import pytest
import torch

from megacontext.testing.toy import full_logits, ids, run, toy_model, toy_tokens
from nanochat.engine import KVCache
from nanochat.flash_attention import HAS_FA3, USE_FA3, flash_attn
from nanochat.hook import Mark

SIZES = {"num_heads": 2, "head_dim": 16, "num_layers": 4, "device": "cpu", "dtype": torch.float32}


def make(batch_size=1, seq_len=64):
    return KVCache(batch_size=batch_size, seq_len=seq_len, **SIZES)


def filled(length=5, seq_len=8):
    cache = make(seq_len=seq_len)
    cache.k_cache[:, :, :length] = 1.0
    cache.v_cache[:, :, :length] = 2.0
    cache.advance(length)
    cache.prev_embedding = torch.ones(1, 1, 3)
    return cache


def test_a_new_cache_has_upstreams_shape():
    cache = make(3)
    assert (cache.batch_size, cache.max_seq_len, cache.n_layers, cache.n_heads, cache.head_dim) == (3, 64, 4, 2, 16)
    assert cache.k_cache.shape == cache.v_cache.shape == (4, 3, 64, 2, 16)
    assert cache.cache_seqlens.tolist() == [0, 0, 0]
    assert cache.cache_seqlens.dtype == torch.int32
    assert cache.prev_embedding is None


def test_a_layers_cache_is_a_view():
    cache = make()
    keys, values = cache.get_layer_cache(1)
    keys[0, 3] = 7.0
    values[0, 3] = 8.0
    assert (cache.k_cache[1, 0, 3] == 7).all()
    assert (cache.v_cache[1, 0, 3] == 8).all()


def test_advance_and_reset_move_the_position():
    cache = filled()
    assert cache.get_pos() == cache.length == 5
    cache.reset()
    assert cache.get_pos() == 0
    assert cache.prev_embedding is None


def test_prefill_broadcasts_one_row():
    cache = make(3, seq_len=8)
    cache.prefill(filled())
    assert cache.cache_seqlens.tolist() == [5, 5, 5]
    assert (cache.k_cache[:, :, :5] == 1).all()
    assert not cache.v_cache[:, :, 5:].any()
    assert cache.prev_embedding.shape == (3, 1, 3)


@pytest.mark.parametrize(
    ("target", "reason"),
    [(filled(), "5 rows already"), (make(seq_len=4), "4 slots"), (KVCache(1, 3, 64, 16, 4), r"\(4, 3, 16\)")],
)
def test_prefill_of_a_misfit_says_why(target, reason):
    with pytest.raises(AssertionError, match=reason):
        target.prefill(filled())


def test_a_full_cache_grows():
    model, tokens = toy_model(), toy_tokens(40)
    cache = make(seq_len=7)
    parts = [model(ids(model, tokens[:30]), kv_cache=cache)]
    parts += [model(ids(model, [token]), kv_cache=cache) for token in tokens[30:]]
    torch.testing.assert_close(torch.cat(parts, 1)[0], full_logits(model, tokens), atol=1e-4, rtol=0)
    assert cache.max_seq_len >= 40


def test_a_cache_of_half_the_precision_serves_a_model():
    model, tokens = toy_model(), toy_tokens(30)
    cache = KVCache(1, 2, 30, 16, 4, "cpu", torch.bfloat16)
    logits = model(ids(model, tokens), kv_cache=cache)[0]
    assert (logits - full_logits(model, tokens)).abs().mean() < 0.1


def test_a_cache_without_a_model_says_so():
    model = toy_model()
    with pytest.raises(ValueError, match="bind"):
        run(model, make(), ids(model, [1]))


def test_a_model_of_other_sizes_is_refused():
    with pytest.raises(ValueError, match=r"\(5, 2, 16\)"):
        toy_model(n_layer=5)(torch.tensor([[1]]), kv_cache=make())


def test_a_pass_of_another_batch_is_refused():
    with pytest.raises(ValueError, match="batch_size is 2"):
        toy_model()(torch.tensor([[1]]), kv_cache=make(2))


def test_forks_and_marks_are_checked():
    with pytest.raises(ValueError, match="2 rows to 3"):
        make(2).fork(3)
    with pytest.raises(ValueError, match="stale"):
        make().rollback(Mark(1, None))


@pytest.mark.parametrize("window", [-1, 0, 3])
def test_upstreams_attention_with_a_cache_equals_attention_without(window):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 9, 4, 8), torch.randn(2, 9, 2, 8), torch.randn(2, 9, 2, 8)
    full = flash_attn.flash_attn_func(q, k, v, causal=True, window_size=(window, 0))
    k_cache, v_cache = torch.zeros(2, 12, 2, 8), torch.zeros(2, 12, 2, 8)
    for a, b in ((0, 4), (4, 5), (5, 9)):
        lengths = torch.full((2,), a, dtype=torch.int32)
        part = flash_attn.flash_attn_with_kvcache(
            q[:, a:b], k_cache, v_cache, k[:, a:b], v[:, a:b], lengths, True, (window, 0)
        )
        torch.testing.assert_close(part, full[:, a:b])
    assert (HAS_FA3, USE_FA3) == (False, False)


def test_upstreams_attention_refuses_what_it_cannot_do():
    q, cache = torch.randn(1, 3, 2, 8), torch.zeros(1, 2, 2, 8)
    with pytest.raises(ValueError, match="causal"):
        flash_attn.flash_attn_func(q, q, q, causal=False)
    with pytest.raises(ValueError, match="2 slots"):
        flash_attn.flash_attn_with_kvcache(q, cache, cache, q, q)
