"""Scorers on a conversation of random rows, and attention mass against a brute-force softmax."""

from __future__ import annotations

import math

import pytest
import torch
from scorer_scene import BLOCK, MODEL, SPEC, Scene

from megacontext.arena import Arena, Page
from megacontext.cache import ContextCache
from megacontext.config import MemoryConfig
from megacontext.focus.attention_mass import ROWS, AttentionMass
from megacontext.focus.base import Moment, Scorer, Scores
from megacontext.focus.scorers import (
    CANDIDATES,
    AttentionScorer,
    MixScorer,
    OracleScorer,
    RandomScorer,
    RecencyScorer,
    make_scorer,
)
from megacontext.testing.toy import ids, run, toy_tokens
from nanochat.engine import prefill
from nanochat.rotary import Rotary

NAMES = ["mix", "lexical", "semantic", "attention", "recency", "random"]


@pytest.mark.parametrize("words", [None, (250, 259), (0, 259), (259, 259)])
@pytest.mark.parametrize("name", NAMES)
def test_a_scorer_names_blocks_that_are_there_in_a_bounded_number(name, words):
    scorer = make_scorer(name, SPEC, block=BLOCK, attention=0.5)
    scores = scorer.score(Scene(scorer, 64).moment(words, far_end=60))
    assert len(scores) <= 2 * CANDIDATES
    for block, score in scores.items():
        assert isinstance(block, int)
        recent = words is not None and name in ("lexical", "mix")  # blocks before the prompt count as well
        assert 0 <= block < (64 if name == "random" else max(60, words[0] // BLOCK) if recent else 60)
        assert math.isfinite(score)
        assert -1 <= score <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_scorer_has_nothing_to_say_of_no_history(name):
    scorer = make_scorer(name, SPEC, block=BLOCK, attention=0.5)
    assert scorer.score(Scene(scorer, 0, tail=2).moment()) == {}
    assert scorer.score(Scene(scorer, 0, tail=2).moment((0, 2))) == {}


@pytest.mark.parametrize("words", [None, (100, 110)])
@pytest.mark.parametrize("name", ["mix", "lexical", "semantic", "random"])
def test_a_copy_answers_alike_and_goes_its_own_way(name, words):
    scorer = make_scorer(name, SPEC, block=BLOCK)
    moment = Scene(scorer, 30).moment(words)
    twin = scorer.copy()
    assert twin.nbytes == scorer.nbytes
    twin.observe(toy_tokens(40, vocab=64, seed=0))
    twin.seal(30, Page(torch.ones(4, 2, 4, 8), torch.ones(4, 2, 4, 8)))
    other = scorer.copy()
    assert other.score(moment) == scorer.score(moment)


@pytest.mark.parametrize("wanted", [0, 17, 58])
def test_the_semantic_scorer_finds_the_block_with_the_prompts_values(wanted):
    scorer = make_scorer("semantic", SPEC, block=BLOCK)
    scene = Scene(scorer, 64)
    scene.values[:, :, 252:256] = scene.values[:, :, wanted * BLOCK : (wanted + 1) * BLOCK]
    scores = scorer.score(scene.moment((252, 256), far_end=60))
    assert max(scores, key=scores.__getitem__) == wanted


def test_the_semantic_scorer_looks_at_the_words_alone():
    scorer = make_scorer("semantic", SPEC, block=BLOCK)
    scene = Scene(scorer, 64)
    scene.values[:, :, 248:252] = scene.values[:, :, 80:84]
    scene.values[:, :, 252:256] = scene.values[:, :, 40:44]
    moment = scene.moment((252, 256), far_end=60)
    scores = scorer.score(moment)
    assert max(scores, key=scores.__getitem__) == 10
    scores = scorer.score(moment._replace(words=(248, 252)))
    assert max(scores, key=scores.__getitem__) == 20


def test_the_semantic_scorer_is_silent_while_text_flows():
    scorer = make_scorer("semantic", SPEC, block=BLOCK)
    assert scorer.score(Scene(scorer, 20).moment()) == {}


def test_a_word_that_is_not_in_view_is_left_out():
    scorer = make_scorer("semantic", SPEC, block=BLOCK)
    moment = Scene(scorer, 20).moment((60, 80))
    shown = {number: frame for number, frame in moment.shown.items() if number < 15}
    assert scorer.score(moment._replace(shown=shown)) == {}


def test_the_random_scorer_is_fixed_by_its_seed_and_changes_now_and_then():
    moment = Scene(RecencyScorer(), 50).moment()
    one, two, other = RandomScorer(1, hold=4), RandomScorer(1, hold=4), RandomScorer(2, hold=4)
    drawn = [one.score(moment) for _ in range(8)]
    assert drawn == [two.score(moment) for _ in range(8)]
    assert drawn[0] == drawn[3] != drawn[4] == drawn[7]
    assert other.score(moment) != drawn[0]


def test_the_oracle_wants_the_blocks_that_it_was_told_of():
    oracle = OracleScorer(BLOCK)
    oracle.hint([(3, 9), (40, 41), (44, 48)])
    assert oracle.score(Scene(RecencyScorer(), 50).moment()) == {0: 1.0, 1: 1.0, 2: 1.0, 10: 1.0, 11: 1.0}
    oracle.hint([])
    assert oracle.score(Scene(RecencyScorer(), 50).moment()) == {}


def test_recency_names_nothing():
    assert RecencyScorer().score(Scene(RecencyScorer(), 9).moment((4, 8))) == {}


class Fixed(Scorer):
    def __init__(self, scores: Scores) -> None:
        self.scores = scores

    def score(self, moment: Moment) -> Scores:
        return self.scores

    def copy(self) -> Fixed:
        return self


def test_the_mix_gives_meaning_what_words_leave_open_and_attention_its_weight():
    words, meaning, attending = Fixed({1: 0.6, 2: 0.2}), Fixed({2: 0.5, 3: -1.0}), Fixed({1: 0.1, 9: 1.0})
    mix = MixScorer(words, meaning, attending, attention=0.5)
    scene = Scene(RecencyScorer(), 12)
    assert mix.score(scene.moment()) == pytest.approx({1: 0.65, 2: 0.2, 9: 0.5})
    assert mix.score(scene.moment((40, 44))) == pytest.approx({1: 0.6, 2: 0.4, 3: -0.4})
    assert MixScorer(words, meaning).score(scene.moment()) == words.scores
    assert MixScorer(Fixed({}), meaning).score(scene.moment((40, 44))) == pytest.approx(meaning.scores)
    assert (mix.wants_attention, MixScorer(words, meaning, attending).wants_attention) == (True, False)


def test_an_unknown_scorer_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="no scorer 'best'; there are mix, lexical"):
        make_scorer("best", SPEC, block=BLOCK)


# --- attention mass ---


def brute_force_mass(arena: Arena, queries: list[torch.Tensor]) -> torch.Tensor:
    """(L, H, C): mean over the newest rows of each head's softmax over all that is in view."""
    layers, heads = len(SPEC.memory_layers), SPEC.heads
    out = torch.zeros(layers, heads, arena.capacity)
    seen = arena.visible.nonzero()[0].tolist()
    for layer in range(layers):
        rows = queries[layer][0, :, -ROWS:]
        for head in range(heads):
            keys = arena.keys[layer, 0, head // (heads // SPEC.kv_heads)]
            for row in rows[head]:
                scores = torch.tensor([float(keys[slot] @ row) * SPEC.head_dim**-0.5 for slot in seen])
                out[layer, head, seen] += scores.softmax(0) / rows.shape[1]
    return out


@pytest.mark.parametrize("rows", [1, 3, 11])
def test_masses_equal_a_brute_force_softmax_over_the_view(rows):
    moment = Scene(RecencyScorer(), 8).moment(far_end=6)
    arena, mass = moment.arena, moment.mass
    arena.hide(moment.shown[3])
    recent, total = torch.zeros(len(SPEC.memory_layers), SPEC.heads, arena.capacity), 0.0
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        queries = [torch.randn(1, SPEC.heads, rows, SPEC.head_dim, generator=rng) for _ in SPEC.memory_layers]
        for layer, q in enumerate(queries):
            mass.note(layer, q)
        mass.measure(arena)
        once = brute_force_mass(arena, queries)
        recent = recent * 0.8 + once
        total = total + once.view(len(SPEC.memory_layers), SPEC.kv_heads, -1, arena.capacity).sum(2)
    torch.testing.assert_close(mass.recent, recent, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mass.total, total, atol=1e-5, rtol=1e-4)
    scores = AttentionScorer(BLOCK).score(moment)
    expected = {n: recent[:, :, list(f)].sum(-1).max().item() for n, f in moment.shown.items() if n < 6}
    assert scores == pytest.approx(expected, abs=1e-5)


def test_without_a_pass_there_is_nothing_to_measure():
    moment = Scene(RecencyScorer(), 4).moment()
    moment.mass.measure(moment.arena)
    assert set(AttentionScorer(BLOCK).score(moment).values()) == {0.0}


@pytest.mark.parametrize("gist_slots", [(0,), (1, 1)])
def test_what_comes_into_view_has_received_no_attention_yet(gist_slots):
    budget = 180 if any(gist_slots) else 48
    config = MemoryConfig(
        budget=budget, block=4, recent_tokens=12, read_chunk=6, far_blocks=4, scorer="random", gist_slots=gist_slots
    )
    scorer = RandomScorer(0, hold=2)
    scorer.wants_attention = True
    cache = ContextCache(SPEC, config, scorer)
    cache.scorer.wants_attention = True
    cache.mass = AttentionMass(SPEC, cache.view.arena.capacity)
    newcomers = 0
    for token in toy_tokens(260, vocab=64):
        before, sealed = {**cache.view.pages, **cache.view.gists}, cache.context.sealed // 4
        run(MODEL, cache, ids(MODEL, [token]))
        for what, frame in {**cache.view.pages, **cache.view.gists}.items():
            if what not in before and (not isinstance(what, int) or what < sealed):
                newcomers += 1
                assert not cache.mass.recent[:, :, list(frame)].any()
                assert not cache.mass.total[:, :, list(frame)].any()
        cache.maintain(MODEL)
    assert newcomers > 20


def test_rotary_tables_are_shared_not_counted():
    assert isinstance(SPEC.rotation, Rotary)
    scorer = make_scorer("semantic", SPEC, block=BLOCK)
    assert scorer.nbytes == scorer.means.nbytes  # arrays of its own alone


def test_what_choosing_costs_is_counted_and_goes_with_a_copy():
    cache = ContextCache(SPEC, MemoryConfig(budget=48, block=4, recent_tokens=12, read_chunk=6, far_blocks=4))
    assert cache.selection_flops == 0
    prefill(MODEL, cache, [token % 9 for token in toy_tokens(200)], answer=False)
    text = cache.selection_flops
    assert text > 0
    twin = cache.fork()
    prefill(MODEL, twin, [1, 2, 3, 4, 5])
    layers, wide = len(cache.scorer.semantic.layers), SPEC.kv_heads * SPEC.head_dim
    blocks, words = min(64, twin.allocator.recent_start(twin.context, True) // 4), 4
    assert twin.selection_flops - text >= 2 * layers * blocks * 4 * wide * words  # each word against each token
    assert cache.selection_flops == text
