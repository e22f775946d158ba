"""ContextCache over a model with learned positions: keys cannot move, and there is a last position."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from memory_toys import VOCAB, NoisyScorer, check_laws, converse, small_config, small_gpt2

from megacontext.cache import ContextCache
from megacontext.delta_nll import DeltaNll
from megacontext.errors import BudgetError
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, full_logits, ids, run, toy_tokens
from nanochat.hook import BaseModel, ModelSpec
from nanochat.kv_cache import DenseCache


class TestOnGPT2(KVCacheTests):
    bounded = True
    mode = "frozen"
    slack_bytes = 131_072

    def make_model(self) -> BaseModel:
        return small_gpt2()

    def make_cache(self, spec: ModelSpec, budget_slots: int) -> ContextCache:
        settings = {"budget": budget_slots, "block": 8, "recent_tokens": 8, "read_chunk": 8}
        return ContextCache(spec, small_config(**settings, mode=self.mode))


class TestOnGPT2Exact(TestOnGPT2):
    mode = "exact"


def test_an_ample_budget_equals_the_plain_cache_bit_for_bit():
    model, tokens = small_gpt2(), toy_tokens(200, vocab=VOCAB)
    cache, plain = ContextCache(model.spec, small_config(budget=300), NoisyScorer()), DenseCache(model.spec)
    chunks = [6, 5, 1, 6] * 20
    assert torch.equal(cached_logits(model, cache, tokens, chunks), cached_logits(model, plain, tokens, chunks))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", ["frozen", "exact"])
def test_a_conversation_goes_on_far_past_the_last_position(mode, seed):
    model = small_gpt2(max_position=56)
    cache = ContextCache(model.spec, small_config(mode=mode), NoisyScorer(seed))
    converse(model, cache, seed, turns=12, check=check_laws)
    assert cache.length > 3 * 56


def test_recent_text_is_read_again_where_positions_begin_anew():
    """With nothing but recent text in view, what is said is one pass over that text, from position 0."""
    model, rng = small_gpt2(max_position=63), Random(0)
    settings: dict[str, Any] = {"protect_first": 0, "far_blocks": 0, "prompt_blocks": 0, "recent_tokens": 24}
    settings |= {"budget": 31, "plan_ahead": False}  # a plan after each pass leaves nothing else in view
    cache = ContextCache(model.spec, small_config(**settings, read_chunk=1))
    anew = 0
    for _ in range(400):
        before = cache.view.next_position
        run(model, cache, ids(model, [rng.randrange(VOCAB)]))
        cache.maintain(model)
        check_laws(cache)
        start = next((e.start for e in cache.context.entries if e.level == 0), 0)
        if cache.view.next_position >= before or start < cache.allocator.recent_start(cache.context):
            continue
        anew += 1
        text = cache.tree.tokens(start, cache.length)
        twin, token = cache.fork(), rng.randrange(VOCAB)
        torch.testing.assert_close(
            run(model, twin, ids(model, [token]))[0, -1], full_logits(model, [*text, token])[-1], atol=1e-4, rtol=0
        )
        for number, frame in cache.view.pages.items():
            page = cache.tree.page(cache.grid.page(number))
            assert torch.equal(page.keys, cache.view.arena.contents(frame).keys)
    assert anew >= 3


def test_a_page_that_comes_back_keeps_the_keys_it_was_computed_with():
    model = small_gpt2(max_position=200)
    cache = ContextCache(model.spec, small_config(reread_tokens=0), NoisyScorer(1))
    cached_logits(model, cache, toy_tokens(150, vocab=VOCAB), [6] * 25)
    for number, frame in cache.view.pages.items():
        page, shown = cache.tree.page(cache.grid.page(number)), cache.view.arena.contents(frame)
        assert torch.equal(page.keys, shown.keys)
        at = slice(frame.start, frame.stop)
        assert torch.equal(cache.view.arena.keys[:, 0, :, at], page.keys)  # attention reads what was computed


def test_a_budget_without_room_for_a_chunk_behind_it_is_refused_with_the_number():
    spec = small_gpt2(max_position=100).spec
    with pytest.raises(BudgetError, match="set it to 94 or less"):
        ContextCache(spec, small_config(budget=95))
    ContextCache(spec, small_config(budget=94))


def test_passes_without_maintain_end_with_a_clear_error_and_not_with_wrong_positions():
    model = small_gpt2(max_position=60)
    cache = ContextCache(model.spec, small_config(budget=54))
    for _ in range(25):
        run(model, cache, ids(model, [1, 2]))
        cache.maintain(model)
    run(model, cache, ids(model, [1, 2]))
    while cache.view.next_position < 59:
        run(model, cache, ids(model, [1]))
    with pytest.raises(ValueError, match="call `maintain` after each"):
        run(model, cache, ids(model, [1, 2]))


@pytest.mark.parametrize("reference", ["exact", "full"])
def test_delta_nll_is_measured_here_too(reference):
    model, found = small_gpt2(max_position=400), []

    class Sink:
        def emit(self, event):
            if getattr(event, "delta_nll", None) is not None:
                found.append(event.delta_nll)

        def close(self):
            pass

    cache = ContextCache(model.spec, small_config(budget=300), sink=Sink(), probe=DeltaNll(reference, 4, 9))
    cached_logits(model, cache, toy_tokens(150, vocab=VOCAB), [6] * 12)
    assert len(found) > 8
    assert max(map(abs, found)) < 1e-3
