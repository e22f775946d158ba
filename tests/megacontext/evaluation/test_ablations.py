"""The memory without compact positions."""

from __future__ import annotations

import pytest
import torch

from megacontext.config import MemoryConfig
from megacontext.evaluation.ablations import AbsoluteCache
from megacontext.evaluation.caches import make_contender
from megacontext.testing.toy import cached_logits, full_logits, toy_model, toy_tokens
from nanochat.engine import prefill

MEMORY = MemoryConfig(budget=96, block=8, recent_tokens=32, far_blocks=4, read_chunk=8, reread_tokens=16)


@pytest.fixture(scope="module")
def model():
    return toy_model(window_pattern="L", n_layer=2, sequence_len=512)


def positions_in_view(cache) -> dict[int, int]:
    """token -> position, of entries and tail."""
    view, block, context = cache.view, cache.config.block, cache.context
    slots = {n * block + i: slot for n, frame in view.pages.items() for i, slot in enumerate(frame)}
    tail = [slot for run in view.tail_runs(0, context.tail) for slot in run]
    slots |= {context.sealed + i: slot for i, slot in enumerate(tail)}
    return {token: int(view.arena.position[slot]) for token, slot in slots.items()}


@pytest.mark.parametrize("scorer", ["lexical", "random"])
def test_every_token_stands_where_it_stood_in_the_text(model, scorer):
    cache = AbsoluteCache(model.spec, MEMORY.model_copy(update={"scorer": scorer, "expand_above": -1.0}))
    text, came_back = [token % 40 for token in toy_tokens(400)], 0
    for start in range(0, 400, 8):
        prefill(model, cache, text[start : start + 8], answer=start % 80 == 72)
        where = positions_in_view(cache)
        assert where == {token: token for token in where}
        came_back += len(cache.far_pages) > 1
    assert came_back > 10


def test_while_all_of_history_is_in_view_it_is_the_plain_cache(model):
    cache, tokens = AbsoluteCache(model.spec, MEMORY), toy_tokens(80)
    torch.testing.assert_close(
        cached_logits(model, cache, tokens, [8] * 10), full_logits(model, tokens), atol=1e-4, rtol=0
    )


def test_it_goes_on_past_the_trained_length(model):
    cache = make_contender("absolute", model.spec, MEMORY).cache
    logits = prefill(model, cache, toy_tokens(700), answer=False)
    assert logits.isfinite().all()
    assert max(positions_in_view(cache).values()) == 699
