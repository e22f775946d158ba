"""KVzip behind the hook, against a pass over the text and its repetition without any memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from megacontext.baselines.kvzip import FIRST, LATER, KVzip, KVzipConfig
from megacontext.baselines.limits import Limits
from megacontext.errors import BudgetError, ConfigError
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, ids, run, toy_model, toy_tokens
from nanochat.hook import Stream
from nanochat.kv_cache import NoCache

LIMITS = {"chunk": 16, "spare": 4}


class TestKVzip(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        return KVzip(spec, Limits(budget_slots, **LIMITS))


class TestKVzipInChunksCountedInsideTheCache(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        config = KVzipConfig(chunk=20, free=0.5, heads="even", recent=4, positions="cache")
        return KVzip(spec, Limits(budget_slots, **LIMITS), config)


class Turns:
    """A text side whose request is a few tokens."""

    stop_ids: frozenset[int] = frozenset()

    def __init__(self):
        self.said = []

    @property
    def chat(self):
        return self

    def user(self, text, *, reply=True):
        self.said.append(text)
        return [7, 8, 9]

    def close(self):
        return []

    def encode(self, text):
        return []

    def decode(self, ids):
        return f" {ids}"


@pytest.fixture
def model():
    return toy_model("G4", n_layer=2, sequence_len=512, window_pattern="L")


def attention_without_a_memory(model, tokens):
    """By layer, (H, T, T) softmax of plain causal attention."""
    found = {}

    class Watching(NoCache):
        def update(self, layer, q, k, v):
            view = super().update(layer, q, k, v)
            found[layer] = view
            return view

    model.forward(model.embed(ids(model, tokens)), Watching(model.spec))
    weights = {}
    for layer, view in found.items():
        group = model.spec.heads // model.spec.kv_heads
        keys = view.keys[0].repeat_interleave(group, 0)
        scores = view.q[0] @ keys.mT * model.spec.head_dim**-0.5
        weights[layer] = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), float("-inf")).softmax(-1)
    return weights


def test_a_row_is_worth_the_most_that_any_row_of_the_repetition_pays_it(model):
    """The whole text in one chunk, so that nothing but the text and its repetition competes."""
    tokens = toy_tokens(50)
    cache = KVzip(model.spec, Limits(512, **LIMITS), text=Turns())
    cached_logits(model, cache, tokens, [16, 16, 16, 2])
    cache._repeat(model, 0, cache.unread)
    weights = attention_without_a_memory(model, [*tokens, 7, 8, 9, *tokens])
    group = model.spec.heads // model.spec.kv_heads
    for layer, full in weights.items():
        for kv_head in range(model.spec.kv_heads):
            own = full[kv_head * group : (kv_head + 1) * group, 50:, :50]
            expected = [max(float(own[h, t, row]) for h in range(group) for t in range(53)) for row in range(50)]
            assert cache.slots[layer].tracks["worth"][kv_head, :50].tolist() == pytest.approx(expected, abs=1e-4)


def seen_places(cache, layer, head):
    """Of the slots that are no padding."""
    slots = cache.slots[layer]
    hidden = slots.tracks["hidden"][head, : slots.count].tolist()
    return [place for place, bias in zip(slots.place[head].tolist(), hidden, strict=False) if bias == 0]


def two_memories(model, tokens, **settings):
    """One that has just compressed 50 tokens to 32 rows, and the worth of all 50, by (layer, head)."""
    cache, full = (KVzip(model.spec, Limits(slots, **LIMITS), KVzipConfig(**settings)) for slots in (64, 512))
    for memory in (cache, full):
        cached_logits(model, memory, tokens[:50], [16, 16, 16, 2])
    full._repeat(model, 0, full.unread)
    heads = [(layer, head) for layer in model.spec.memory_layers for head in range(model.spec.kv_heads)]
    assert cache.keep == cache.usage.resident_slots == 32
    assert len(cache.unread) == 0
    return cache, {pair: full.worth(pair[0])[pair[1]].tolist() for pair in heads}


def test_even_heads_keep_their_own_best_rows(model):
    cache, worth = two_memories(model, toy_tokens(50), heads="even")
    for (layer, head), values in worth.items():
        best = sorted(range(4, 50), key=lambda row: -values[row])[:28]
        assert seen_places(cache, layer, head) == [0, 1, 2, 3, *sorted(best)]
        assert cache.slots[layer].count == 32


def test_uneven_heads_compete_for_the_budget(model):
    cache, worth = two_memories(model, toy_tokens(50))
    rows = [(layer, head, row) for layer, head in worth for row in range(50)]
    best = sorted(rows, key=lambda place: -worth[place[:2]][place[2]])[: 32 * len(worth)]
    for layer, head in worth:
        assert seen_places(cache, layer, head) == sorted(row for *pair, row in best if (layer, head) == tuple(pair))
    assert len({len(seen_places(cache, *pair)) for pair in worth}) > 1


@pytest.mark.parametrize("positions", ["text", "cache"])
def test_padding_is_never_seen(model, positions):
    """What lies in padded slots makes no difference, to what is read or to what is worth keeping later."""
    tokens = toy_tokens(100)
    cache, _ = two_memories(model, tokens, positions=positions)
    twin = cache.fork()
    for slots in twin.slots.values():
        padding = slots.tracks["hidden"] < 0
        slots.keys[0][padding], slots.values[0][padding] = 5.0, 100.0
        if slots.raw is not None:
            slots.raw[0][padding] = 5.0
    rest = [cached_logits(model, memory, tokens[50:], [16, 8, 1, 16]) for memory in (cache, twin)]
    torch.testing.assert_close(*rest, atol=1e-5, rtol=0)


def test_rows_that_stay_keep_their_worth_when_more_text_comes(model):
    tokens = toy_tokens(70)
    cache, _ = two_memories(model, tokens)
    before = worth_by_place(cache, 0) | worth_by_place(cache, 1)
    cached_logits(model, cache, tokens[50:], [16, 4])
    assert len(cache.unread) == 0
    for head in range(model.spec.kv_heads):
        assert all(before[place] == worth for place, worth in worth_by_place(cache, head).items() if place[1] < 50)


def worth_by_place(cache, head):
    """(head, place in the text) -> worth, in layer 0."""
    worth = zip(cache.slots[0].place[head].tolist(), cache.slots[0].tracks["worth"][head].tolist(), strict=True)
    seen = set(seen_places(cache, 0, head))
    return {(head, place): value for place, value in list(worth)[: cache.slots[0].count] if place in seen}


def test_it_asks_for_the_text_and_later_for_what_follows_some_words(model):
    tokens, text = toy_tokens(90), Turns()
    cache = KVzip(model.spec, Limits(64, **LIMITS), KVzipConfig(chunk=40), text)
    cached_logits(model, cache, tokens, [16, 16, 16, 2, 16, 16, 8])
    assert text.said == [FIRST, f"{LATER} {tokens[32:40]}", f"{LATER} {tokens[42:50]}"]


def test_repeating_leaves_the_memory_as_it_is(model):
    tokens = toy_tokens(60)
    cache = KVzip(model.spec, Limits(512, **LIMITS))
    cached_logits(model, cache, tokens[:40], [16, 16, 8])
    twin = cache.fork()
    cache._repeat(model, 0, cache.unread)
    assert cache.usage == twin.usage
    assert torch.equal(cached_logits(model, cache, tokens[40:], [9]), cached_logits(model, twin, tokens[40:], [9]))


def test_rows_rolled_back_are_not_repeated(model):
    tokens = toy_tokens(100)
    plain, tried = (KVzip(model.spec, Limits(64, **LIMITS)) for _ in range(2))
    for memory in (plain, tried):
        cached_logits(model, memory, tokens[:40], [16, 16, 8])
    mark = tried.mark()
    run(model, tried, ids(model, tokens[90:100]))
    tried.rollback(mark)
    assert tried.unread.tolist() == tokens[:40]
    rest = [cached_logits(model, memory, tokens[40:90], [16, 16, 16]) for memory in (plain, tried)]
    assert torch.equal(*rest)


def test_a_fork_compresses_for_itself(model):
    tokens = toy_tokens(60)
    cache = KVzip(model.spec, Limits(64, **LIMITS))
    cached_logits(model, cache, tokens[:40], [16, 16, 8])
    twin = cache.fork()
    cached_logits(model, twin, tokens[40:], [16, 4])
    assert twin.usage.resident_slots < 60
    assert cache.slots[0].place[0, :40].tolist() == list(range(40))
    assert cache.unread.tolist() == tokens[:40]


def test_the_pass_of_the_model_is_paid_for(model):
    cache = KVzip(model.spec, Limits(64, **LIMITS))
    cached_logits(model, cache, toy_tokens(40), [16, 16, 8])
    assert cache.selection_flops == 0
    cached_logits(model, cache, toy_tokens(16), [16])
    spec = model.spec
    assert cache.selection_flops > 2 * 56 * 12 * spec.width**2 * spec.layers


def test_what_it_cannot_do_is_refused(model):
    with pytest.raises(ConfigError, match="no positions"):
        KVzip(replace(model.spec, relocatable=False), Limits(64, **LIMITS))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        KVzipConfig(free=1.0)
    with pytest.raises(ConfigError, match="uneven, even"):
        KVzipConfig(heads="best")
    with pytest.raises(BudgetError, match="give it more"):
        KVzip(model.spec, Limits(64, **LIMITS), KVzipConfig(free=0.95))
    with pytest.raises(ValueError, match="tokens of every row"):
        KVzip(model.spec, Limits(64, **LIMITS)).begin(Stream(torch.zeros(1, 2, model.spec.width)))
    cache = KVzip(model.spec, Limits(64, **LIMITS))
    for _ in range(4):
        run(model, cache, ids(model, toy_tokens(16)))
    with pytest.raises(ValueError, match="call it after a pass"):
        run(model, cache, ids(model, toy_tokens(16)))
