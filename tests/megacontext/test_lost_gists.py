"""A disk that fails under gists and means ends no turn: what is not kept stays in memory, what is lost is remade."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from memory_toys import VOCAB, NoisyScorer, small_config, small_llama

from megacontext.cache import ContextCache
from megacontext.config import PagesConfig
from megacontext.errors import StoreError
from megacontext.focus.mean_store import GROUP, MeanStore
from megacontext.testing.toy import cached_logits, toy_tokens
from megacontext.tree import frame_file
from megacontext.tree.frame_file import FrameFile
from megacontext.tree.memory_files import MemoryFiles

CONFIG = small_config(gist_slots=(1, 1), gist_budget=8, budget=180)


def with_gists(folder: Path) -> ContextCache:
    model = MODEL
    files = MemoryFiles(folder, model.spec, 4, PagesConfig())
    return ContextCache(model.spec, CONFIG, NoisyScorer(), files=files)


MODEL = small_llama()


def fail(*_: object) -> int:
    raise OSError(28, "No space left on device")


@pytest.mark.xfail(raises=StoreError, strict=True, reason="GistStore.put raises in the middle of a tick")
def test_a_full_disk_does_not_end_a_turn_of_a_memory_with_gists(tmp_path, monkeypatch):
    cache = with_gists(tmp_path)
    monkeypatch.setattr(frame_file, "_pwrite", fail)
    assert cached_logits(MODEL, cache, toy_tokens(600, vocab=VOCAB), [6] * 100).isfinite().all()
    cache.files.close()


@pytest.mark.xfail(raises=(StoreError, KeyError), strict=True, reason="a gist that cannot be read is not made again")
@pytest.mark.parametrize("damage", ["unreadable", "flipped"])
def test_a_gist_that_is_lost_is_made_again(tmp_path, monkeypatch, damage):
    monkeypatch.setattr("megacontext.tree.gist_store.IN_MEMORY", 0)
    cache = with_gists(tmp_path)
    cached_logits(MODEL, cache, toy_tokens(600, vocab=VOCAB), [6] * 100)
    cache.files.flush()
    if damage == "flipped":
        path = tmp_path / "gists-1.ctx"
        data = np.frombuffer(path.read_bytes(), np.uint8).copy()
        data[4096 + 40 :: 4096] ^= 1
        path.write_bytes(data.tobytes())
    else:
        monkeypatch.setattr(frame_file, "_pread", fail)
    assert cached_logits(MODEL, cache, toy_tokens(200, vocab=VOCAB, seed=1), [6] * 40).isfinite().all()
    cache.files.close()


def test_means_that_cannot_be_read_are_left_out(tmp_path, monkeypatch):
    file = FrameFile.open(tmp_path / "means.ctx", MeanStore.geometry(1, 4), fingerprint="f")
    means = MeanStore(1, 4, file)
    for number in range(GROUP + 3):
        means.append(np.full((1, 4), number))
    monkeypatch.setattr(frame_file, "_pread", fail)
    assert [first for first, _ in means.groups(GROUP + 3)] == [GROUP]
    file.close()
