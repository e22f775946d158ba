"""ΔNLL telemetry against losses computed without any memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from memory_toys import VOCAB, NoisyScorer, converse, small_config, small_llama, small_model
from torch import Tensor

from megacontext.cache import ContextCache, build_cache
from megacontext.config import MemoryConfig, TelemetryConfig
from megacontext.delta_nll import DeltaNll
from megacontext.telemetry.events import Event, Tick, Warning_
from megacontext.testing.toy import cached_logits, full_logits, toy_tokens
from nanochat.hook import BaseModel

MODELS = {"llama": small_llama, "G4": lambda: small_model("G4", window_pattern="L")}
TEXT = toy_tokens(200, vocab=VOCAB)


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass

    @property
    def measured(self) -> list[Tick]:
        return [event for event in self.events if isinstance(event, Tick) and event.delta_nll is not None]


def read(model: BaseModel, probe: DeltaNll | None, tokens: list[int] = TEXT, **settings) -> tuple[Kept, Tensor]:
    """A text read in chunks of 6, then row by row -> events, logits."""
    sink = Kept()
    cache = ContextCache(model.spec, small_config(**settings), NoisyScorer(), sink=sink, probe=probe)
    return sink, cached_logits(model, cache, tokens, [6] * (len(tokens) // 7))


def loss(model: BaseModel, text: list[int], newest: int) -> float:
    """The oracle: one pass over `text` without a memory, mean loss of its newest tokens."""
    logits = full_logits(model, text)
    return float(F.cross_entropy(logits[-newest - 1 : -1], torch.tensor(text[-newest:])))


@pytest.mark.parametrize("reference", ["exact", "full"])
@pytest.mark.parametrize("name", MODELS)
def test_a_view_of_everything_costs_nothing(name, reference):
    sink, _ = read(MODELS[name](), DeltaNll(reference, 2, 7), budget=300)
    assert len(sink.measured) > 20
    assert {tick.delta_nll_baseline for tick in sink.measured} == {reference}
    assert max(abs(tick.delta_nll) for tick in sink.measured) < 1e-3


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("name", MODELS)
def test_the_full_reference_is_a_pass_over_all_of_history(name, every, monkeypatch):
    """Each token is computed once, however the measurements fall."""
    model, found = MODELS[name](), []
    monkeypatch.setattr("megacontext.delta_nll._loss_in_view", lambda *_: 0.0)
    sink, _ = read(model, DeltaNll("full", every, 9))
    for tick in sink.measured:
        found.append(tick.history_tokens)
        expected = loss(model, TEXT[: tick.history_tokens], 9)
        assert -tick.delta_nll == pytest.approx(expected, abs=2e-4), tick.history_tokens
    assert len(found) > 8


@pytest.mark.parametrize("name", MODELS)
def test_the_view_and_its_exact_reference_agree_where_everything_in_view_is_exact(name, monkeypatch):
    """In `exact` mode without far pages the view is the first block and the newest text, computed as one text."""
    model = MODELS[name]()
    seen: list[tuple[float, list[int]]] = []
    spied = "megacontext.delta_nll._loss_in_view"
    from megacontext import delta_nll

    in_view = delta_nll._loss_in_view

    def spy(model, memory, first, tokens):
        value = in_view(model, memory, first, tokens)
        shown = [e for e in memory.context.entries if e.level == 0]
        text = [token for e in shown for token in memory.tree.tokens(e.start, e.end)]
        seen.append((value, text + memory.tree.tokens(memory.context.sealed, memory.context.history)))
        return value

    monkeypatch.setattr(spied, spy)
    sink, _ = read(model, DeltaNll("exact", 3, 7), mode="exact", far_blocks=0, prompt_blocks=0)
    for tick, (value, text) in zip(sink.measured, seen, strict=True):
        assert value == pytest.approx(loss(model, text, 7), abs=2e-4)
        assert abs(tick.delta_nll) < 1e-3
    assert any(len(text) < 100 for _, text in seen)


@pytest.mark.parametrize("reference", ["exact", "full"])
@pytest.mark.parametrize("name", [*MODELS, "windows"])
def test_measuring_changes_no_logit(name, reference):
    model = MODELS.get(name, lambda: small_model("G2", n_layer=3, window_pattern="SSL", sequence_len=48))()
    _, plain = read(model, None)
    sink, measured = read(model, DeltaNll(reference, 3, 7))
    assert torch.equal(plain, measured)
    assert reference == "full" or sink.measured


def test_a_conversation_with_prompts_is_measured_too():
    model, sink = small_llama(), Kept()
    cache = ContextCache(model.spec, small_config(), NoisyScorer(), sink=sink, probe=DeltaNll("exact", 4, 7))
    converse(model, cache, seed=3, turns=6)
    at = [tick.tick for tick in sink.measured]
    assert all(later - earlier >= 4 for earlier, later in pairwise(at))
    assert len(at) > 10


def test_the_price_is_in_the_tick_and_not_in_its_latency():
    sink, _ = read(small_llama(), DeltaNll("exact", 5, 7))
    for tick in sink.measured:
        assert tick.delta_nll_ms > 0
        assert tick.baseline_ms > 0
        assert set(tick.latency_ms) == {"score", "plan", "page", "assemble", "forward", "total"}
    others = [e for e in sink.events if isinstance(e, Tick) and e not in sink.measured]
    assert all(tick.delta_nll is tick.delta_nll_ms is tick.baseline_ms is None for tick in others)


def test_too_little_history_is_not_measured():
    sink, _ = read(small_llama(), DeltaNll("full", 1, 50), TEXT[:50])
    assert not sink.measured
    sink, _ = read(small_llama(), DeltaNll("full", 1, 40), TEXT[:50], recent_tokens=40, budget=64)
    assert sink.measured[0].history_tokens > 40


def test_the_full_reference_ends_with_one_word_where_the_trained_positions_end():
    model = small_llama(max_position=100)
    probe = DeltaNll("full", 1, 7)
    sink, _ = read(model, probe)
    assert max(tick.history_tokens for tick in sink.measured) <= 100
    warnings = [event for event in sink.events if isinstance(event, Warning_)]
    assert len(warnings) == 1
    assert "100 trained positions" in warnings[0].message
    assert probe.nbytes == 0


def test_what_a_reference_keeps_is_counted_and_goes_with_a_reset():
    model, probe = small_llama(), DeltaNll("full", 1, 7)
    cache = ContextCache(model.spec, small_config(), NoisyScorer(), probe=probe)
    cached_logits(model, cache, TEXT, [6] * 20)
    kept = probe.nbytes
    assert kept > 200 * model.spec.layers * model.spec.kv_heads * model.spec.head_dim * 4
    with_probe = cache.usage.nbytes
    cache.probe = None
    assert with_probe - cache.usage.nbytes == kept
    cache.probe = probe
    cache.reset()
    assert probe.nbytes == 0


def test_a_fork_measures_nothing():
    model = small_llama()
    cache = ContextCache(model.spec, small_config(), NoisyScorer(), probe=DeltaNll("full", 1, 7))
    assert cache.fork().probe is None


def test_settings_choose_the_probe():
    assert DeltaNll.of(TelemetryConfig()) is None
    probe = DeltaNll.of(TelemetryConfig(delta_nll="exact", delta_nll_every=3, delta_nll_tokens=9))
    assert probe is not None
    assert (probe.every, probe.tokens) == (3, 9)


@pytest.mark.parametrize("kind", ["full", "none"])
def test_a_plain_cache_warns_that_it_has_no_view_to_measure(kind):
    sink = Kept()
    build_cache(small_llama().spec, MemoryConfig(cache=kind), sink=sink, probe=DeltaNll("exact", 1, 7))
    assert [type(event) for event in sink.events] == [Warning_]


def test_the_view_of_a_prompts_end_is_not_scored_on_the_text_before_it():
    model, sink = small_llama(), Kept()
    cache = ContextCache(model.spec, small_config(), NoisyScorer(), sink=sink, probe=DeltaNll("exact", 1, 7))
    converse(model, cache, seed=2, turns=8)
    assert {tick.reason for tick in sink.measured} == {"text", "budget"}
