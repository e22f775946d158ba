"""ContextCache: the conformance suite, the laws while it reads and answers, and attention against brute force."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
import torch
from memory_toys import VOCAB, NoisyScorer, check_laws, converse, small_config, small_llama, small_model
from torch import Tensor

from megacontext.arena import Slots
from megacontext.cache import ContextCache, build_cache
from megacontext.errors import BudgetError, ConfigError
from megacontext.focus.scorers import OracleScorer, RecencyScorer
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.storage import held_bytes
from megacontext.testing.toy import cached_logits, full_logits, ids, run, toy_model, toy_tokens
from megacontext.view_pass import ViewPass
from nanochat.attention import attention
from nanochat.engine import decode, prefill
from nanochat.hook import BaseModel, KVCache, KVView, ModelSpec, Stream
from nanochat.kv_cache import DenseCache, NoCache

# --- the suite, over models, gists and modes ---


class ContextCacheTests(KVCacheTests):
    bounded = True
    gist_slots: tuple[int, ...] = (0, 0, 0, 0)
    mode = "frozen"
    slack_bytes = 131_072  # the lexical index: an estimate for Python's dictionaries

    def make_model(self) -> BaseModel:
        return toy_model("G4", sequence_len=512, n_layer=2)

    def make_cache(self, spec: ModelSpec, budget_slots: int) -> ContextCache:
        settings = {
            "budget": budget_slots,
            "block": 8,
            "recent_tokens": 8,
            "read_chunk": 8,
            "gist_slots": self.gist_slots,
        }
        return ContextCache(spec, small_config(**settings, mode=self.mode, gist_budget=12))


class TestOnLlama(ContextCacheTests):
    def make_model(self) -> BaseModel:
        return small_llama()


class TestOnLlamaWithGists(TestOnLlama):
    gist_slots = (1, 0)
    budget = 104
    history = 140


class TestOnLlamaExact(TestOnLlama):
    mode = "exact"


class TestOnTheNewestNanochat(ContextCacheTests):
    pass


class TestOnTheNewestNanochatWithGists(ContextCacheTests):
    gist_slots = (1, 1)
    budget = 168
    history = 180


class TestOnTheNewestNanochatExact(ContextCacheTests):
    """No layer may have a window then."""

    mode = "exact"

    def make_model(self) -> BaseModel:
        return toy_model("G4", sequence_len=512, window_pattern="L", n_layer=2)


class TestOnWindows(ContextCacheTests):
    """Short windows of 64 over 96 tokens."""

    ample = 128

    def make_model(self) -> BaseModel:
        return toy_model("G2", sequence_len=128, n_layer=2)


# --- what the tests below share ---


def check_pages(cache: ContextCache) -> None:
    """L4: what is shown is what the tree holds, byte for byte."""
    check_laws(cache)
    assert cache.view.pages.keys() == {e.start // 4 for e in cache.context.entries if e.level == 0}
    for number, frame in cache.view.pages.items():
        page, shown = cache.tree.page(cache.grid.page(number)), cache.view.arena.contents(frame)
        assert torch.equal(shown.keys, page.keys)
        assert torch.equal(shown.values, page.values)


# --- L9: an ample budget ---


@pytest.mark.parametrize("make", [small_llama, lambda: small_model("G4"), lambda: small_model("G2", sequence_len=128)])
@pytest.mark.parametrize("reread", [0, 8])
def test_an_ample_budget_equals_the_plain_cache_bit_for_bit(make, reread):
    model = make()
    cache = ContextCache(model.spec, small_config(budget=128, read_chunk=8, reread_tokens=reread))
    plain, text = DenseCache(model.spec), toy_tokens(100, vocab=VOCAB)
    at = 0
    for turn in (1, 30, 2, 20):
        for rows in [8] * ((turn - 1) // 8) + [(turn - 1) % 8] * ((turn - 1) % 8 > 0):
            feed = ids(model, text[at : at + rows])
            assert torch.equal(run(model, cache, feed), run(model, plain, feed))
            cache.maintain(model)
            at += rows
        cache.maintain(model, prompt=turn)
        for _ in range(8):
            feed = ids(model, text[at : at + 1])
            assert torch.equal(run(model, cache, feed), run(model, plain, feed))
            cache.maintain(model)
            at += 1
    assert cache.context.lod_counts().keys() <= {0}


# --- budget, positions, pages ---

MODELS = {
    "llama": lambda tiny: small_llama(max_position=48 if tiny else 512),
    "G4": lambda tiny: small_model("G4", sequence_len=48 if tiny else 512),
    "G2": lambda tiny: small_model("G2", sequence_len=48 if tiny else 512),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("tiny", [False, True], ids=["", "hardly any positions"])
@pytest.mark.parametrize("name", MODELS)
def test_the_laws_hold_and_pages_are_the_trees_after_every_pass(name, tiny, seed):
    model = MODELS[name](tiny)
    cache = ContextCache(model.spec, small_config(position_slack=0 if seed else 64), NoisyScorer(seed))
    converse(model, cache, seed, turns=8, check=check_pages)


@pytest.mark.parametrize("gist_slots", [(0, 0, 0, 0), (2, 1, 1, 0)])
@pytest.mark.parametrize("scorer", ["mix", "lexical", "semantic", "attention", "recency", "random"])
def test_every_scorer_keeps_the_laws(scorer, gist_slots):
    model = small_llama()
    budget = 48 if not any(gist_slots) else 300
    cache = ContextCache(model.spec, small_config(scorer=scorer, gist_slots=gist_slots, budget=budget, gist_budget=9))
    converse(model, cache, seed=1, turns=6)


def test_a_prompt_longer_than_the_budget_is_read_and_answered_far_past_it():
    model = small_llama(max_position=48)
    cache = ContextCache(model.spec, small_config())
    logits = prefill(model, cache, toy_tokens(200, vocab=VOCAB))
    answer = decode(model, cache, logits, lambda row: int(row.argmax()))
    for _, token in zip(range(5 * 48), answer, strict=False):
        assert 0 <= token < VOCAB
        check_pages(cache)
    assert cache.length >= 200 + 5 * 48 - 1


def test_what_an_edit_took_away_comes_back_byte_for_byte():
    """L7."""
    model, oracle = small_llama(), OracleScorer(4)
    cache = ContextCache(model.spec, small_config(reread_tokens=0), oracle)
    cached_logits(model, cache, toy_tokens(24, vocab=VOCAB), [6] * 4)
    before = cache.view.arena.contents(cache.view.pages[2])
    cached_logits(model, cache, toy_tokens(120, vocab=VOCAB), [6] * 20)
    assert 2 not in cache.view.pages
    oracle.hint([(8, 12)])
    cache.maintain(model, prompt=6)
    after = cache.view.arena.contents(cache.view.pages[2])
    assert torch.equal(after.keys, before.keys)
    assert torch.equal(after.values, before.values)


# --- attention against brute force over the tokens in view ---


class SpyPass(ViewPass):
    """Compares each layer's attention with one over the K/V that this class wrote down for the tokens in view."""

    def watch(self, cache: ContextCache) -> SpyPass:
        self.cache, self.compared = cache, 0
        self.known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # (layer, token) -> key (Hk, d), value
        return self

    def tokens_in_view(self) -> dict[int, int]:
        """token -> slot, of entries and tail."""
        block, context = self.cache.config.block, self.cache.context
        slots = {n * block + i: s for n, frame in self.view.pages.items() for i, s in enumerate(frame)}
        runs = [slot for run in self.view.tail_runs(0, context.tail) for slot in run]
        return {**slots, **{context.sealed + i: slot for i, slot in enumerate(runs)}}

    def open(self, runs: Sequence[Slots]) -> Tensor:
        positions = super().open(runs)
        where, slots = self.tokens_in_view(), [slot for run in runs for slot in run]
        tokens = {slot: token for token, slot in where.items()}
        self.rows = [tokens[slot] for slot in slots]
        # New rows are the newest. While text is read again, what comes after it is not there yet.
        self.seen = {t: s for t, s in where.items() if t <= self.rows[-1]}
        assert positions.tolist() == [self.view.arena.position[slots].tolist()]
        return positions

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        view = super().update(layer, q, k, v)
        for i, token in enumerate(self.rows):
            self.known[layer, token] = k[0, :, i].clone(), v[0, :, i].clone()
        if layer not in self.rings:
            torch.testing.assert_close(attention(view), self.brute_force(layer, q), atol=1e-5, rtol=1e-4)
            self.compared += 1
        return view

    def brute_force(self, layer: int, q: Tensor) -> Tensor:
        rotation, out = self.spec.rotation, []
        for i, row in enumerate(self.rows):
            tokens = sorted(t for t in self.seen if t <= row)
            where = torch.tensor([self.view.arena.position[[self.seen[t] for t in tokens]].tolist()])
            keys, values = (
                torch.stack(each, 1)[None] for each in zip(*(self.known[layer, t] for t in tokens), strict=True)
            )
            keys = rotation.rotate(keys, rotation.at(where))[0]
            query = rotation.rotate(q[:, :, i : i + 1], rotation.at(where[:, [tokens.index(row)]]))[0, :, 0]
            group = self.spec.heads // self.spec.kv_heads
            keys, values = keys.repeat_interleave(group, 0), values[0].repeat_interleave(group, 0)
            weights = (torch.einsum("hsd,hd->hs", keys, query) * self.spec.head_dim**-0.5).softmax(-1)
            out.append(torch.einsum("hs,hsd->hd", weights, values).flatten())
        return torch.stack(out)[None]


class SpyCache(ContextCache):
    """A memory whose passes are watched, and whose rows are those of its tokens."""

    def reset(self) -> None:
        super().reset()
        self.spy = SpyPass(self.spec, self.view, self.rings, self.mass).watch(self)
        self._pass = self.spy

    def begin(self, stream: Stream) -> Tensor:
        positions = super().begin(stream)
        assert stream.tokens is not None
        assert stream.tokens[0].tolist() == self.tree.tokens(self.length - stream.rows, self.length)
        return positions


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", MODELS)
def test_attention_equals_brute_force_over_the_tokens_in_view(name, seed):
    model = MODELS[name](seed == 0)
    cache = SpyCache(model.spec, small_config(), NoisyScorer(seed))
    converse(model, cache, seed, turns=5)
    assert cache.spy.compared > 50


# --- windows ---


def test_layers_with_a_window_see_the_last_rows_whatever_the_focus_does():
    """Only the last layer is a memory layer, and all before it have windows: their outputs are the plain cache's."""
    model = small_model("G2", n_layer=3, window_pattern="S", sequence_len=48)
    cache, plain = ContextCache(model.spec, small_config(), NoisyScorer()), DenseCache(model.spec)
    seen: dict[int, list[Tensor]] = {id(cache): [], id(plain): []}

    def spy_on(each: KVCache) -> None:
        update = each.update

        def spy(layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
            view = update(layer, q, k, v)
            if layer == 1:
                seen[id(each)].append(attention(view))
            return view

        each.update = spy

    spy_on(cache)
    spy_on(plain)
    for at, token in enumerate(toy_tokens(160, vocab=VOCAB)):
        for each in (cache, plain):
            run(model, each, ids(model, [token]))
        cache.maintain(model)
        if at % 40 == 39:
            cache.maintain(model, prompt=20)
            del seen[id(cache)][at + 1 :]
    torch.testing.assert_close(torch.cat(seen[id(cache)], 1), torch.cat(seen[id(plain)], 1), atol=2e-3, rtol=0)


# --- the end of a prompt ---


class GivenCache(NoCache):
    """K/V of some slots, given with their positions, and rows that come after them: a view that was there all along."""

    def __init__(self, spec: ModelSpec, keys: Tensor, values: Tensor, at: Tensor, rows_at: Tensor) -> None:
        """keys (not rotated), values: (L, Hk, n, d); at (n,), rows_at (T,): positions."""
        super().__init__(spec)
        self.given, self.values, self.rows_at = spec.rotation.rotate(keys, spec.rotation.at(at)), values, rows_at
        self.made: dict[int, tuple[Tensor, Tensor]] = {}

    def begin(self, stream: Stream) -> Tensor:
        return self.rows_at[None]

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        rotation = self.spec.rotation
        angles = rotation.at(self.rows_at)
        self.made[layer] = k[0], v[0]
        keys = torch.cat([self.given[layer][None], rotation.rotate(k, angles)], 2)
        return KVView(rotation.rotate(q, angles), keys, torch.cat([self.values[layer][None], v], 2))


@pytest.mark.parametrize("reread", [5, 8, 16])
@pytest.mark.parametrize("make", [small_llama, lambda: small_model("G4", window_pattern="L")], ids=["llama", "G4"])
def test_a_prompt_is_read_again_as_if_the_sharp_view_had_been_there_from_the_start(make, reread):
    model, oracle = make(), OracleScorer(4)
    cache = ContextCache(model.spec, small_config(reread_tokens=reread, recent_tokens=20), oracle)
    text = toy_tokens(131, vocab=VOCAB)
    cached_logits(model, cache, text, [6] * 30)
    oracle.hint([(40, 44), (80, 81)])
    cache.maintain(model, prompt=30)
    block, arena, context = 4, cache.view.arena, cache.context
    assert {10, 20} <= cache.view.pages.keys()
    first = context.history - reread
    first -= (first % block) if first < context.sealed else 0
    slots = {n * block + i: s for n, frame in cache.view.pages.items() for i, s in enumerate(frame)}
    tail = [slot for run in cache.view.tail_runs(0, context.tail) for slot in run]
    slots |= {context.sealed + i: slot for i, slot in enumerate(tail)}
    old, new = [slots[t] for t in sorted(slots) if t < first], [slots[t] for t in range(first, context.history)]
    at = torch.from_numpy(arena.position)
    given = GivenCache(model.spec, arena.raw[:, 0, :, old], arena.values[:, 0, :, old], at[old], at[new])
    given.carry = model.embed(ids(model, text[first - 1 : first])).x
    with torch.no_grad():
        model.forward(model.embed(ids(model, text[first:])), given)
    for layer, (keys, values) in given.made.items():
        torch.testing.assert_close(arena.raw[layer, 0, :, new], keys, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(arena.values[layer, 0, :, new], values, atol=1e-5, rtol=1e-4)
    check_pages(cache)


def test_the_carry_survives_reading_again():
    model = small_model("G4")
    cache, text = ContextCache(model.spec, small_config(), NoisyScorer()), toy_tokens(101, vocab=VOCAB)
    cached_logits(model, cache, text, [6] * 20)
    cache.maintain(model, prompt=20)
    assert torch.equal(cache.carry, model.embed(ids(model, text[-1:])).x)


@pytest.mark.parametrize("settings", [{}, {"prompt_fill": True}])
def test_the_pages_that_a_prompt_asked_for_stay_in_view_while_it_is_answered(settings):
    model, oracle = small_llama(), OracleScorer(4)
    cache = ContextCache(model.spec, small_config(**settings), oracle)
    oracle.hint([(40, 44), (60, 64)])
    logits = prefill(model, cache, toy_tokens(140, vocab=VOCAB))
    oracle.hint([(4, 8)])
    for _, _ in zip(range(100), decode(model, cache, logits, lambda row: int(row.argmax())), strict=False):
        assert {40, 60} <= {page.start for page in cache.far_pages}
    prefill(model, cache, toy_tokens(10, vocab=VOCAB))
    assert 4 in {page.start for page in cache.far_pages}
    assert settings or len(cache.far_pages) == 1


def test_an_answer_that_grows_past_the_budget_keeps_what_its_prompt_asked_for():
    model, oracle = small_llama(), OracleScorer(4)
    cache = ContextCache(model.spec, small_config(), oracle)
    oracle.hint([(8, 12)])
    logits = prefill(model, cache, toy_tokens(36, vocab=VOCAB))
    assert cache.context.lod_counts() == {0: 9}
    for _, _ in zip(range(60), decode(model, cache, logits, lambda row: int(row.argmax())), strict=False):
        assert cache.grid.page(2) in cache.context.entries


@pytest.mark.parametrize("scorer", ["mix", "lexical", "semantic"])
@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_prompt_of_hardly_any_tokens_is_a_prompt(scorer, turn):
    model = small_llama()
    cache = ContextCache(model.spec, small_config(scorer=scorer))
    for _ in range(4):
        logits = prefill(model, cache, toy_tokens(turn, vocab=VOCAB))
        assert logits.isfinite().all()
        prefill(model, cache, toy_tokens(70, vocab=VOCAB), answer=False)
        check_pages(cache)


# --- fork and rollback ---


@pytest.mark.parametrize(("scorer", "gist_slots"), [("mix", (0, 0)), ("random", (0, 0)), ("attention", (1, 1))])
@pytest.mark.parametrize("name", MODELS)
def test_forks_past_the_budget_go_on_as_if_there_were_no_other(name, gist_slots, scorer):
    model = MODELS[name](False)
    config = small_config(scorer=scorer, gist_slots=gist_slots, budget=174 if any(gist_slots) else 48)
    head, tails = toy_tokens(150, vocab=VOCAB), [toy_tokens(60, vocab=VOCAB, seed=s) for s in (1, 2)]
    origin = ContextCache(model.spec, config)
    prefill(model, origin, head)
    twins = [origin, origin.fork()]
    together: list[list[Tensor]] = [[], []]
    for at in range(0, 60, 5):
        for each, tail, log in zip(twins, tails, together, strict=True):
            log.append(cached_logits(model, each, tail[at : at + 5], [5]))
    for each, tail, log in zip(twins, tails, together, strict=True):
        alone = ContextCache(model.spec, config)
        prefill(model, alone, head)
        assert torch.equal(cached_logits(model, alone, tail, [5] * 12), torch.cat(log))
        assert alone.context == each.context
        assert alone.tree.tokens(0, 210) == each.tree.tokens(0, 210) == head + tail
        check_laws(each)


class Interrupted(Exception):
    """Somebody presses Ctrl-C."""


def test_an_interrupt_while_a_prompt_is_read_again_leaves_a_whole_memory():
    model = small_llama()
    cache = ContextCache(model.spec, small_config(reread_tokens=16), NoisyScorer())
    cached_logits(model, cache, toy_tokens(101, vocab=VOCAB), [6] * 20)
    forward, calls = model.forward, iter((None, Interrupted))

    def interrupted(stream, cache):
        if next(calls) is Interrupted:
            raise Interrupted
        return forward(stream, cache)

    model.forward = interrupted
    with pytest.raises(Interrupted):
        cache.maintain(model, prompt=30)
    model.forward = forward
    check_laws(cache)
    assert run(model, cache, ids(model, [1, 2, 3])).isfinite().all()
    cache.maintain(model)
    check_laws(cache)
    assert cache.length == 104


@pytest.mark.parametrize("name", MODELS)
def test_rows_that_are_rolled_back_are_seen_by_nobody(name):
    model, rng = MODELS[name](True), Random(0)
    cache = SpyCache(model.spec, small_config(), NoisyScorer())
    for at in range(0, 120, 4):
        mark = cache.mark()
        for _ in range(rng.choice((0, 1, 2))):
            run(model, cache, ids(model, toy_tokens(rng.randint(1, 3), vocab=VOCAB, seed=at + 1000)))
        cache.rollback(mark)
        check_laws(cache)
        for _ in range(2):
            run(model, cache, ids(model, toy_tokens(2, vocab=VOCAB, seed=at)))
        cache.maintain(model)
        check_pages(cache)
    assert cache.spy.compared > 50


def test_a_stale_mark_raises():
    model = small_llama()
    cache = ContextCache(model.spec, small_config())
    start = cache.mark()
    run(model, cache, ids(model, [1, 2, 3]))
    later = cache.mark()
    cache.rollback(start)
    with pytest.raises(ValueError, match="cannot"):
        cache.rollback(later)
    cached_logits(model, cache, [1, 2, 3])
    with pytest.raises(ValueError, match="cannot"):
        cache.rollback(start)


# --- what is refused ---


@pytest.mark.parametrize("seed", range(14))
def test_the_budget_that_an_error_names_holds_whatever_comes(seed):
    rng = Random(seed)
    gists = rng.choice(((0, 0, 0, 0), (0, 0, 0, 0), (1, 1, 1, 1), (2, 1, 1, 0)))
    settings = {
        "block": rng.choice((2, 4, 7)),
        "recent_tokens": rng.randint(0, 20),
        "read_chunk": rng.randint(1, 9),
        "protect_first": rng.randint(0, 3),
        "mode": "frozen" if any(gists) else rng.choice(("frozen", "exact")),
        "gist_slots": gists,
        "gist_budget": rng.choice((0, 20, 256)),
        "prompt_fill": rng.random() < 0.5,
    }
    model = small_llama()
    with pytest.raises(BudgetError, match=r"memory\.budget") as error:
        ContextCache(model.spec, small_config(**settings, budget=1))
    least = int(re.search(r"set it to (\d+) or more", str(error.value))[1])
    cache = ContextCache(model.spec, small_config(**settings, budget=least), NoisyScorer(seed))
    converse(model, cache, seed, turns=4)
    with pytest.raises(BudgetError):
        ContextCache(model.spec, small_config(**settings, budget=least - 1))


def test_a_budget_beyond_the_trained_positions_is_refused():
    with pytest.raises(BudgetError, match="set it to 512 or less"):
        ContextCache(small_llama().spec, small_config(budget=513))


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "exact", "gist_slots": (1, 0, 0, 0)},
        {"gist_slots": ()},
        {"gist_slots": (5, 1, 1, 1)},
        {"gist_slots": (0, 1, 0, 0)},
        {"gist_slots": (1, -1, 0, 0)},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigError, match=r"gist_slots"):
        ContextCache(small_llama().spec, small_config(**settings, budget=400))


def test_windows_cannot_be_exact():
    with pytest.raises(ConfigError, match="exact"):
        ContextCache(small_model("G2").spec, small_config(mode="exact"))


def test_a_refused_pass_changes_nothing():
    model = small_llama()
    cache = ContextCache(model.spec, small_config())
    cached_logits(model, cache, toy_tokens(70, vocab=VOCAB), [6] * 12)
    before = cache.context
    with pytest.raises(ValueError, match="batch of 2"):
        run(model, cache, ids(model, [1, 2], [3, 4]))
    with pytest.raises(ValueError, match="tokens"):
        cache.begin(Stream(model.embed(ids(model, [1])).x))
    with pytest.raises((ValueError, BudgetError)):
        run(model, cache, ids(model, toy_tokens(49, vocab=VOCAB)))
    with pytest.raises(ValueError, match="one conversation"):
        cache.fork(2)
    assert (cache.context, cache.length) == (before, 70)
    check_pages(cache)


# --- bytes, and the factory ---


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scorer", ["recency", "attention"])
@pytest.mark.parametrize("gist_slots", [(0, 0, 0, 0), (1, 1)])
def test_usage_counts_every_byte(name, scorer, gist_slots):
    """Scorers without an index, so that nothing is estimated: tensors and arrays, and 4 bytes a token."""
    model = MODELS[name](False)
    cache = ContextCache(model.spec, small_config(scorer=scorer, gist_slots=gist_slots, budget=180))
    for seed in range(3):
        converse(model, cache, seed, turns=1)
        held = held_bytes(cache, apart=[model.spec.rotation]) + 4 * cache.length
        assert cache.usage.nbytes == held


def test_the_factory_makes_what_the_configuration_names():
    spec = small_llama().spec
    kinds = {
        name: type(build_cache(spec, small_config(cache=name))) for name in ("full", "none", "megacontext", "recency")
    }
    assert kinds == {"full": DenseCache, "none": NoCache, "megacontext": ContextCache, "recency": ContextCache}


def test_recency_is_a_window_with_a_first_block():
    model = small_llama()
    cache = build_cache(model.spec, small_config(cache="recency"))
    for token in toy_tokens(150, vocab=VOCAB):
        run(model, cache, ids(model, [token]))
        cache.maintain(model)
        starts = [entry.start for entry in cache.context.entries if entry.level == 0]
        assert starts[:1] in ([], [0])
        assert starts[1:] == list(range(cache.context.sealed - 4 * len(starts[1:]), cache.context.sealed, 4))
        assert cache.context.slots >= min(cache.length, 48 - 2 * 4 - 6)


def test_a_new_history_after_reset_knows_nothing_of_the_old_one():
    model = small_llama()
    cache = ContextCache(model.spec, small_config())
    converse(model, cache, seed=3)
    cache.reset()
    text = toy_tokens(40, vocab=VOCAB, seed=5)
    torch.testing.assert_close(cached_logits(model, cache, text, [6] * 7), full_logits(model, text), atol=1e-4, rtol=0)
    assert cache.tree.tokens(0, 40) == text


# --- ticks before a pass ---


class BlockThree(RecencyScorer):
    """Token 63 asks for block 3."""

    def __init__(self):
        self.asked = False

    def observe(self, tokens):
        self.asked = 63 in tokens

    def expect(self, tokens):
        self.asked = 63 in tokens

    def score(self, moment):
        return {3: 1.0} if self.asked else {}


@pytest.mark.parametrize("ahead", [True, False])
def test_a_row_sees_what_its_own_token_asks_for(ahead):
    model = small_llama()
    cache = ContextCache(model.spec, small_config(plan_ahead=ahead, far_blocks=1), BlockThree())
    cached_logits(model, cache, [token % 50 for token in toy_tokens(150)])
    assert 3 not in cache.view.pages
    run(model, cache, ids(model, [63]))
    assert (3 in cache.view.pages) == ahead
    cache.maintain(model)
    assert 3 in cache.view.pages


def test_rows_that_may_be_taken_back_move_nothing():
    model, text = small_llama(), toy_tokens(150, vocab=VOCAB)
    cache = ContextCache(model.spec, small_config(scorer="lexical", expand_above=0.0))
    cached_logits(model, cache, text)
    before, tick, mark = set(cache.view.pages), cache.tick, cache.mark()
    expected = cached_logits(model, cache.fork(), text[:9])
    for _ in range(3):
        run(model, cache, ids(model, text[40:41]))
        cache.rollback(mark)
    assert (set(cache.view.pages), cache.tick) == (before, tick)
    assert torch.equal(cached_logits(model, cache, text[:9]), expected)


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("every", [1, 3, 5])
def test_a_tick_every_so_many_tokens_whether_planned_ahead_or_behind(every, ahead):
    model = small_llama()
    cache = ContextCache(model.spec, small_config(budget=400, plan_ahead=ahead, tick_tokens=every))
    ticks = []
    for token in toy_tokens(60, vocab=VOCAB):
        run(model, cache, ids(model, [token]))
        cache.maintain(model)
        ticks.append(cache.tick)
    assert ticks[-1] == 60 // every
    assert np.bincount(ticks)[1:-1].tolist() == [every] * (60 // every - 1)


def test_one_tick_a_chunk_while_text_is_read():
    model = small_llama()
    cache = ContextCache(model.spec, small_config())
    prefill(model, cache, toy_tokens(240, vocab=VOCAB), answer=False)
    assert cache.tick == 240 // 6
