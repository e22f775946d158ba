"""A disk that fails under gists and means ends no turn: what it does not take goes on in memory, what it loses is made
again from tokens.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_toys import VOCAB, NoisyScorer, small_config, small_gpt2, small_llama, small_model

from megacontext.arena import Page
from megacontext.cache import ContextCache
from megacontext.config import PagesConfig
from megacontext.focus.mean_store import MeanStore
from megacontext.focus.sketch import GROUP
from megacontext.gist.top_token import TopTokenGist
from megacontext.recompute import measure_attention, recompute_page
from megacontext.span import Grid, Span
from megacontext.telemetry.events import Event, Tick, Warning_
from megacontext.testing.toy import cached_logits, ids, toy_tokens
from megacontext.tick_report import Losses
from megacontext.tree import frame_file
from megacontext.tree.frame_file import FrameFile
from megacontext.tree.memory_files import MemoryFiles
from megacontext.tree.memory_tree import MemoryTree
from nanochat.hook import BaseModel, KVView
from nanochat.kv_cache import NoCache

CONFIG = small_config(gist_slots=(1, 1), gist_budget=8, budget=180)
GRID = Grid(CONFIG.block)
MODEL = small_llama()
TEXT, MORE = toy_tokens(600, vocab=VOCAB), toy_tokens(200, vocab=VOCAB, seed=1)


class Events:
    """A sink that keeps them."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        """Nothing to do."""

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Warning_)]

    @property
    def recomputed(self) -> int:
        return sum(event.recomputed_blocks or 0 for event in self.events if isinstance(event, Tick))


def with_gists(folder: Path) -> ContextCache:
    files = MemoryFiles(folder, MODEL.spec, CONFIG.block, PagesConfig())
    return ContextCache(MODEL.spec, CONFIG, NoisyScorer(), files=files, sink=Events())


def fail(*_: object) -> int:
    raise OSError(28, "No space left on device")


def flip_frames(path: Path) -> None:
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[4096 + 40 :: 4096] ^= 1
    path.write_bytes(data.tobytes())


def blank_frames(path: Path) -> None:
    """As a power cut leaves them that came before any sync."""
    path.write_bytes(path.read_bytes()[:4096])


# --- the turn goes on, and says so ---


def test_a_full_disk_does_not_end_a_turn_of_a_memory_with_gists(tmp_path, monkeypatch):
    cache = with_gists(tmp_path)
    monkeypatch.setattr(frame_file, "_pwrite", fail)
    assert cached_logits(MODEL, cache, TEXT, [6] * 100).isfinite().all()
    assert "No space left" in str(cache.tree.gists.failure)
    assert cache.failure is not None
    cache.files.close()


def test_a_disk_that_reads_no_gist_ends_no_turn(tmp_path, monkeypatch):
    monkeypatch.setattr("megacontext.tree.gist_store.IN_MEMORY", 0)
    cache = with_gists(tmp_path)
    cached_logits(MODEL, cache, TEXT, [6] * 100)
    cache.files.flush()
    monkeypatch.setattr(frame_file, "_pread", fail)
    assert cached_logits(MODEL, cache, MORE[:36], [6] * 6).isfinite().all()
    assert "cannot be read" in str(cache.failure)  # which the conversation tells
    assert cache.sink.recomputed > 0
    cache.files.close()


@pytest.mark.parametrize("harm", [flip_frames, blank_frames])
def test_a_gist_that_is_lost_is_made_again_and_told(tmp_path, monkeypatch, harm):
    monkeypatch.setattr("megacontext.tree.gist_store.IN_MEMORY", 0)
    cache = with_gists(tmp_path)
    cached_logits(MODEL, cache, TEXT, [6] * 100)
    cache.files.flush()
    assert not cache.sink.warnings
    assert cache.sink.recomputed == 0
    harm(tmp_path / "gists-1.ctx")
    assert cached_logits(MODEL, cache, MORE, [6] * 40).isfinite().all()
    assert "made again from their tokens" in cache.sink.warnings[0]
    assert cache.sink.recomputed == cache.losses.count > 1
    assert len(cache.sink.warnings) < 4
    cache.files.close()


def test_losses_are_told_when_there_are_ten_times_as_many():
    losses, events = Losses(), Events()
    for lost in (0, 2, 1, 0, 16, 1, 0, 300):
        losses.add(lost, events)
    assert [int(message.split(": ")[1].split()[0]) for message in events.warnings] == [2, 20, 320]


# --- what is made again ---


@pytest.mark.parametrize("model", [small_llama(), small_gpt2(), small_model("G4", window_pattern="L")])
def test_the_attention_that_a_block_received_is_measured_as_a_pass_over_the_text_has_it(model):
    tree = MemoryTree(GRID, TopTokenGist())
    tree.append(TEXT[:120])
    for number in (0, 3, 29):
        start, end = number * GRID.block, (number + 1) * GRID.block
        after = range(end, min(end + 64, 120)) if end < 120 else range(start, end)
        expected = attention(model, TEXT[: max(after) + 1], after)[:, :, start:end]
        torch.testing.assert_close(measure_attention(model, tree, GRID, number), expected, atol=1e-5, rtol=1e-4)


def attention(model: BaseModel, tokens: list[int], rows: range) -> torch.Tensor:
    """Of `rows`, by a full pass, a query head at a time: (L, Hk, tokens)."""

    class Door(NoCache):
        def update(self, layer, q, k, v) -> KVView:
            view = super().update(layer, q, k, v)
            group = self.spec.heads // self.spec.kv_heads
            mass = torch.zeros(self.spec.kv_heads, len(tokens))
            for head in range(self.spec.heads):
                for row in rows:
                    scores = view.keys[0, head // group, : row + 1] @ view.q[0, head, row] / self.spec.head_dim**0.5
                    mass[head // group, : row + 1] += scores.softmax(0) / group
            found.append(mass)
            return view

    found: list[torch.Tensor] = []
    with torch.no_grad():
        model.forward(model.embed(ids(model, tokens)), Door(model.spec))
    return torch.stack(found)


def test_a_text_that_just_fits_the_model_is_measured_too():
    model, tree = small_llama(max_position=40), MemoryTree(GRID, TopTokenGist())
    tree.append(TEXT[:200])
    for number in (0, 5, 40, 49):
        mass = measure_attention(model, tree, GRID, number)
        assert mass.shape == (2, 2, GRID.block)
        assert (mass > 0).all()


# --- gists and pages of tokens that are no more ---


def grown_again(cache: ContextCache, keep: int, other: list[int]) -> MemoryTree:
    """The tree of a log that lost its end after `keep` tokens, and grew again with others, over the same files."""
    tree = MemoryTree(GRID, TopTokenGist(), (1, 1), cache.tree.pages, cache.tree.gists)
    tree.restore([*cache.tree.tokens(0, keep), *other], (keep + len(other)) // GRID.block)
    return tree


def of_first_layer(model: BaseModel, tokens: list[int]) -> torch.Tensor:
    """The keys (Hk, tokens, d) of the first layer, which depend on the tokens alone."""
    tree = MemoryTree(Grid(len(tokens)), TopTokenGist())
    tree.append(tokens)
    return recompute_page(model, tree, Grid(len(tokens)), 0).keys[0]


def test_what_is_on_disk_of_other_tokens_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("megacontext.tree.gist_store.IN_MEMORY", 0)
    cache = with_gists(tmp_path)
    cached_logits(MODEL, cache, TEXT, [6] * 100)
    cache.files.flush()
    cache.tree.pages.clear()
    cache.tree.pages.count = len(TEXT) // GRID.block
    keep, other = 200, toy_tokens(400, vocab=VOCAB, seed=7)
    tree = grown_again(cache, keep, other)
    tree.pages.recompute = lambda number: recompute_page(MODEL, tree, GRID, number)
    tree.measure = lambda number: measure_attention(MODEL, tree, GRID, number)
    for number in (3, 49, 50, 80, 99):
        page, gist = tree.page(GRID.page(number)), tree.gist(Span(number * 4, number * 4 + 4, 1))
        mine = of_first_layer(MODEL, tree.tokens(number * 4, number * 4 + 4))
        torch.testing.assert_close(page.keys[0], mine)
        assert (gist.keys[0] - mine).abs().amax(-1).amin(-1).max() < 1e-5  # the key of one of its tokens
    found = tree.traffic()
    assert found.recomputed == 6
    assert found.lost == 6
    cache.files.close()


def test_a_block_is_folded_anew_where_the_file_has_the_gist_of_other_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr("megacontext.tree.gist_store.IN_MEMORY", 0)
    cache = with_gists(tmp_path)
    cached_logits(MODEL, cache, TEXT, [6] * 100)
    tree = grown_again(cache, 0, toy_tokens(600, vocab=VOCAB, seed=8))
    page = Page(torch.full((2, 2, 4, 8), 3.0), torch.full((2, 2, 4, 8), 3.0))
    tree.pages.put(2, page)
    tree.fold(2, torch.ones(2, 2, 4))
    assert (tree.gist(Span(8, 12, 1)).keys == 3).all()
    assert tree.traffic().lost == 0
    cache.files.close()


def test_means_that_cannot_be_read_are_left_out(tmp_path, monkeypatch):
    with contextlib.closing(FrameFile.open(tmp_path / "means.ctx", MeanStore.geometry(1, 4), fingerprint="f")) as file:
        means = MeanStore(1, 4, file)
        for number in range(GROUP + 3):
            means.append(np.full((1, 4), number))
        monkeypatch.setattr(frame_file, "_pread", fail)
        again = MeanStore(1, 4, file)
        again.restore(means.state())
    assert sorted(again.likest(np.full((1, 4), 0.5), GROUP + 3, 9)) == [GROUP, GROUP + 1, GROUP + 2]
