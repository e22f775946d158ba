"""What all memories do that evict by attention, when rows have left already."""

from __future__ import annotations

import pytest
import torch
from plain_loops import places

from megacontext.baselines.limits import Limits
from megacontext.baselines.registry import METHODS, TRIALS
from megacontext.testing.toy import cached_logits, ids, run, toy_model, toy_tokens

NAMES = ("streaming_llm", "h2o", "tova", "snapkv", "snapkv_aware", "pyramidkv")
LIMITS = Limits(64, chunk=16, spare=8)
SMALL = {"snapkv": {"window": 8}, "snapkv_aware": {"window": 8}}


@pytest.fixture
def model():
    return toy_model("G4", n_layer=4, sequence_len=512, window_pattern="SL")


def made(name, model, **changes):
    return METHODS[name].make(model.spec, LIMITS, {**SMALL.get(name, {}), **changes}, None)


def kept(model, cache):
    return [places(cache, layer) for layer in model.spec.memory_layers]


def score(model, cache, tokens):
    """A candidate is scored and forgotten."""
    mark = cache.mark()
    run(model, cache, ids(model, tokens))
    cache.rollback(mark)


@pytest.mark.parametrize("name", NAMES)
def test_scored_candidates_leave_no_trace(model, name):
    caches = [made(name, model) for _ in range(2)]
    for cache in caches:
        cached_logits(model, cache, toy_tokens(200), [16] * 12)
        run(model, cache, ids(model, [7]))  # makes room for eight
        cache.maintain(model)
    for seed in range(1, 4):
        score(model, caches[1], toy_tokens(6, seed=seed))
    assert kept(model, caches[0]) == kept(model, caches[1])
    rest = toy_tokens(80, seed=9)
    logits = [cached_logits(model, cache, rest, [16, 3, 1, 16]) for cache in caches]
    assert torch.equal(*logits)
    assert kept(model, caches[0]) == kept(model, caches[1])


@pytest.mark.parametrize("name", NAMES)
def test_it_does_not_matter_what_was_scored_where_room_had_to_be_made(model, name):
    caches = [made(name, model) for _ in range(2)]
    for seed, cache in enumerate(caches):
        cached_logits(model, cache, toy_tokens(200), [16] * 13)
        score(model, cache, toy_tokens(14, seed=seed + 1))
    rest = toy_tokens(60, seed=9)
    assert torch.equal(*(cached_logits(model, cache, rest, [16]) for cache in caches))
    assert kept(model, caches[0]) == kept(model, caches[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_fork_that_goes_on_leaves_its_origin_as_it_was(model, name):
    origin, untouched = (made(name, model) for _ in range(2))
    for cache in (origin, untouched):
        cached_logits(model, cache, toy_tokens(200), [16] * 13)
    twin = origin.fork()
    assert kept(model, twin) == kept(model, origin)
    cached_logits(model, twin, toy_tokens(90, seed=5), [16] * 4)
    twin.maintain(model, prompt=90)
    rest = toy_tokens(60, seed=9)
    assert torch.equal(*(cached_logits(model, cache, rest, [16]) for cache in (origin, untouched)))
    assert kept(model, origin) == kept(model, untouched)


@pytest.mark.parametrize("name", NAMES)
def test_choosing_costs_are_counted_and_a_reset_forgets_them(model, name):
    cache = made(name, model)
    cached_logits(model, cache, toy_tokens(150), [16] * 9)
    cache.maintain(model, prompt=150)
    assert (cache.selection_flops > 0) == (name != "streaming_llm")
    cache.reset()
    assert cache.selection_flops == 0


@pytest.mark.parametrize("positions", ["text", "cache"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "streaming_llm"])
def test_rows_stand_where_they_stood_or_side_by_side(model, name, positions):
    cache = made(name, model, positions=positions)
    cached_logits(model, cache, toy_tokens(200), [16] * 13)
    cache.maintain(model, prompt=200)
    layer = model.spec.memory_layers[0]
    slots = cache.slots[layer]
    assert (slots.raw is None) == (positions == "text")
    if slots.raw is not None:
        at = model.spec.rotation.at(torch.arange(slots.count))
        expected = model.spec.rotation.rotate(slots.raw[:, :, : slots.count], at)
        torch.testing.assert_close(slots.keys[:, :, : slots.count], expected)


@pytest.mark.parametrize("name", NAMES)
def test_each_has_four_trials_that_begin_with_the_papers_own(name):
    trials = METHODS[name].trials
    assert len(trials) == TRIALS
    assert trials[0] == {}
    spec = toy_model("G0", sequence_len=512).spec
    assert all(METHODS[name].make(spec, Limits(256), trial, None).length == 0 for trial in trials)
