"""The memory over a store of pages: where a page comes from changes nothing, and resident memory is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from memory_toys import VOCAB, NoisyScorer, check_laws, converse, small_config, small_gpt2, small_llama, small_model

from megacontext.cache import ContextCache
from megacontext.config import PagesConfig
from megacontext.focus.scorers import RecencyScorer
from megacontext.recompute import recompute_page
from megacontext.telemetry.events import Tick
from megacontext.testing.toy import cached_logits, ids, run, toy_tokens
from megacontext.tree.memory_files import MemoryFiles
from megacontext.tree.page_codec import PageCodec, PageShape
from nanochat.hook import BaseModel

MODELS = {
    "llama": small_llama,
    "G4": lambda: small_model("G4", window_pattern="L"),
    "windows": lambda: small_model("G2", n_layer=3, window_pattern="SSL", sequence_len=48),
    "gpt2": small_gpt2,
}
BLOCK = 4


def files(model: BaseModel, folder: Path | None, pages: int = 6, kind: str = "model") -> MemoryFiles:
    """At most `pages` pages in memory, the others in a file."""
    spec = model.spec
    shape = PageShape(len(spec.memory_layers), spec.kv_heads, BLOCK, spec.head_dim)
    return MemoryFiles(
        folder, spec, BLOCK, PagesConfig(dtype=kind, ram_bytes=pages * PageCodec(shape, spec.dtype).nbytes)
    )


@pytest.mark.parametrize("name", MODELS)
def test_pages_on_disk_are_as_good_as_pages_in_memory(name, tmp_path):
    model, tokens = MODELS[name](), toy_tokens(300, vocab=VOCAB)
    plain = ContextCache(model.spec, small_config(), NoisyScorer())
    stored = ContextCache(model.spec, small_config(), NoisyScorer(), files=files(model, tmp_path))
    expected, logits = (cached_logits(model, cache, tokens, [6] * 40) for cache in (plain, stored))
    stored.tree.pages.flush()
    assert torch.equal(logits, expected)
    assert stored.tree.pages.nbytes <= 6 * plain.tree.page(plain.grid.page(0)).nbytes
    for number in range(len(tokens) // BLOCK):
        span = plain.grid.page(number)
        assert torch.equal(stored.tree.page(span).keys, plain.tree.page(span).keys)
    stored.files.close()


def test_a_conversation_keeps_the_laws_with_a_store_of_two_pages(tmp_path):
    model = small_llama()
    cache = ContextCache(model.spec, small_config(), NoisyScorer(), files=files(model, tmp_path, pages=2))
    converse(model, cache, seed=4, turns=8, check=check_laws)
    cache.files.close()


def test_faults_are_pages_that_were_not_in_memory(tmp_path):
    model, ticks = small_llama(), []

    class Sink:
        def emit(self, event):
            ticks.append(event)

        def close(self):
            pass

    cache = ContextCache(model.spec, small_config(), NoisyScorer(), sink=Sink(), files=files(model, tmp_path, pages=2))
    cached_logits(model, cache, toy_tokens(300, vocab=VOCAB), [6] * 40)
    found = [tick for tick in ticks if isinstance(tick, Tick)]
    assert 0 < sum(tick.faults for tick in found) <= sum(tick.pages_moved for tick in found)
    assert found[-1].disk_bytes > 0
    assert sum(tick.recomputed_blocks for tick in found) == 0
    cache.files.close()


@pytest.mark.parametrize("name", ["llama", "G4", "gpt2"])
def test_a_lost_page_is_computed_again_as_it_was_where_nothing_was_out_of_view(name):
    """All of history in view: the page of a block near the start is what a pass over the text gives."""
    model = MODELS[name]()
    cache = ContextCache(model.spec, small_config(budget=200), RecencyScorer())
    cached_logits(model, cache, toy_tokens(60, vocab=VOCAB), [6] * 10)
    for number in range(15):
        page, again = cache.tree.page(cache.grid.page(number)), recompute_page(model, cache.tree, cache.grid, number)
        torch.testing.assert_close(again.keys, page.keys, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(again.values, page.values, atol=1e-4, rtol=1e-3)


def test_pages_that_memory_cannot_hold_and_no_disk_has_are_computed_again():
    model = small_llama()
    size = 2 * 2 * 2 * BLOCK * 8 * 4
    cache = ContextCache(model.spec, small_config(), NoisyScorer(), files=files(model, None, pages=3))
    tokens = toy_tokens(300, vocab=VOCAB)
    logits = cached_logits(model, cache, tokens, [6] * 40)
    assert logits.isfinite().all()
    check_laws(cache)
    assert cache.tree.pages.nbytes <= 3 * size
    fork = cache.fork()
    assert run(model, fork, ids(model, [1])).isfinite().all()


def test_quantised_pages_change_what_is_said_a_little(tmp_path):
    model, tokens = small_llama(), toy_tokens(300, vocab=VOCAB)
    exact = ContextCache(model.spec, small_config(reread_tokens=0), NoisyScorer())
    expected = cached_logits(model, exact, tokens, [6] * 40)
    far = []
    for kind in ("int8", "int4"):
        folder = tmp_path / kind
        folder.mkdir()
        kept = files(model, folder, pages=1, kind=kind)
        cache = ContextCache(model.spec, small_config(reread_tokens=0), NoisyScorer(), files=kept)
        far.append((cached_logits(model, cache, tokens, [6] * 40) - expected).abs().mean())
        kept.close()
    assert 0 < far[0] < far[1] / 4
    assert far[0] < 0.02


def test_a_reset_forgets_the_store_too(tmp_path):
    model = small_llama()
    cache = ContextCache(model.spec, small_config(), NoisyScorer(), files=files(model, tmp_path))
    cached_logits(model, cache, toy_tokens(100, vocab=VOCAB), [6] * 10)
    cache.reset()
    assert cache.tree.pages.count == 0
    other = toy_tokens(200, vocab=VOCAB, seed=9)
    plain = ContextCache(model.spec, small_config(), NoisyScorer())
    expected = cached_logits(model, plain, other, [6] * 30)
    assert torch.equal(cached_logits(model, cache, other, [6] * 30), expected)
    cache.files.close()


def test_a_limited_disk_gives_pages_up_that_are_computed_again(tmp_path):
    """The least that the configuration admits: 256 pages of one file system block each."""
    model, tokens = small_llama(), toy_tokens(1500, vocab=VOCAB)
    kept = MemoryFiles(tmp_path, model.spec, BLOCK, PagesConfig(disk_bytes=1 << 20, ram_bytes=150_000))
    cache = ContextCache(model.spec, small_config(), NoisyScorer(), files=kept)
    assert cached_logits(model, cache, tokens, [30] * 50).isfinite().all()
    kept.flush()
    assert (1 << 20) - 8192 < cache.tree.pages.disk <= 1 << 20
    for number in range(0, len(tokens) // BLOCK, 29):
        cache.tree.page(cache.grid.page(number))
    traffic = cache.tree.traffic()
    assert traffic.recomputed > 0
    assert traffic.lost == cache.losses.count == 0  # given up, not lost
    kept.close()
