"""A memory that was kept and brought back says, bit for bit, what the one that never went away says."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from memory_toys import VOCAB, check_laws, small_config, small_gpt2, small_llama, small_model
from torch import Tensor

from megacontext.cache import ContextCache
from megacontext.config import MemoryConfig, PagesConfig
from megacontext.edit_ledger import EditLedger, Protected, explain
from megacontext.errors import StoreError
from megacontext.focus.lexical_store import LexicalStore
from megacontext.testing.toy import ids, run
from megacontext.tree import snapshot
from megacontext.tree.memory_files import MemoryFiles
from nanochat.hook import BaseModel

MODELS = {
    "llama": small_llama,
    "G4": lambda: small_model("G4", window_pattern="L"),
    "windows": lambda: small_model("G2", n_layer=3, window_pattern="SSL", sequence_len=48),
    "gpt2": small_gpt2,
}


def files(model: BaseModel, folder: Path) -> MemoryFiles:
    """Room for a few pages in memory."""
    size = 2 * len(model.spec.memory_layers) * model.spec.kv_heads * 4 * model.spec.head_dim * 4
    return MemoryFiles(folder, model.spec, 4, PagesConfig(ram_bytes=9 * size))


def talk(model: BaseModel, cache: ContextCache, rng: Random) -> list[Tensor]:
    """A prompt and an answer -> logits of all passes."""
    prompt, logits = [rng.randrange(VOCAB) for _ in range(rng.choice((2, 9, 40)))], []
    done, body = 0, len(prompt) - 1
    while done < body:
        rows = cache.room(body - done)
        logits.append(run(model, cache, ids(model, prompt[done : done + rows])))
        cache.maintain(model)
        done += rows
    cache.maintain(model, prompt=len(prompt))
    for token in (prompt[-1], *(rng.randrange(VOCAB) for _ in range(rng.choice((1, 14))))):
        logits.append(run(model, cache, ids(model, [token])))
        cache.maintain(model)
    return logits


def brought_back(model: BaseModel, cache: ContextCache, config: MemoryConfig, folder: Path) -> ContextCache:
    """What another process makes of the files, as they are now."""
    cache.files.keep(cache)
    cache.files.flush()
    there = folder / f"again-{sum(1 for _ in folder.glob('again-*'))}"
    shutil.copytree(folder, there, ignore=shutil.ignore_patterns("again-*"))
    again = ContextCache(model.spec, config, files=files(model, there))
    assert again.files.bring_back(again, cache.tree.tokens(0, cache.length), model) == ""
    assert again.length == cache.length
    assert not again.files.made_anew
    return again


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scorer", ["mix", "attention", "random"])
@pytest.mark.parametrize("name", MODELS)
def test_the_next_logits_are_those_of_the_memory_that_never_went_away(name, scorer, seed, tmp_path):
    model, config = MODELS[name](), small_config(scorer=scorer, attention_weight=0.3 * (seed == 2), expand_above=0.05)
    cache = ContextCache(model.spec, config, files=files(model, tmp_path))
    rng = Random(seed)
    for _ in range(9):
        talk(model, cache, rng)
    again = brought_back(model, cache, config, tmp_path)
    check_laws(again)
    assert again.context == cache.context
    assert again.stats()["active_slots"] == cache.stats()["active_slots"]
    calls = []
    forward = model.forward
    model.forward = lambda stream, door: calls.append(stream.rows) or forward(stream, door)
    assert not calls  # nothing was computed to come back
    model.forward = forward
    state = rng.getstate()
    for turn in range(4):
        rng.setstate(state)
        expected = talk(model, cache, rng)
        rng.setstate(state)
        found = talk(model, again, rng)
        state = rng.getstate()
        assert all(map(torch.equal, found, expected)), turn
        assert again.context == cache.context
    again.files.close()
    cache.files.close()


@pytest.mark.parametrize("name", ["llama", "windows", "gpt2"])
def test_in_the_middle_of_an_answer_too(name, tmp_path):
    model, config, rng = MODELS[name](), small_config(expand_above=0.05), Random(3)
    cache = ContextCache(model.spec, config, files=files(model, tmp_path))
    for _ in range(6):
        talk(model, cache, rng)
    for _ in range(12):
        again = brought_back(model, cache, config, tmp_path)
        token = ids(model, [rng.randrange(VOCAB)])
        assert torch.equal(run(model, again, token), run(model, cache, token))
        cache.maintain(model)
        again.maintain(model)
        assert again.context == cache.context
        again.files.close()
    cache.files.close()


def test_a_state_of_other_settings_or_another_model_is_none(tmp_path):
    model = small_llama()
    cache = ContextCache(model.spec, small_config())
    talk(model, cache, Random(0))
    snapshot.write(tmp_path / "view.snap", snapshot.pack(cache.state(), cache.fingerprint))
    others = [
        ContextCache(model.spec, small_config(far_blocks=3)),
        ContextCache(small_llama(seed=1).spec, small_config()),
        ContextCache(small_gpt2().spec, small_config()),
    ]
    for other in others:
        state, why = snapshot.read(tmp_path / "view.snap", other.fingerprint)
        if other.fingerprint != cache.fingerprint:
            assert state is None
            assert "another model" in why
    assert others[0].fingerprint != cache.fingerprint
    assert others[2].fingerprint != cache.fingerprint


def test_a_state_that_does_not_fit_its_history_is_refused(tmp_path):
    model = small_llama()
    cache = ContextCache(model.spec, small_config())
    talk(model, cache, Random(1))
    tokens = cache.tree.tokens(0, cache.length)
    with pytest.raises(ValueError, match="does not fit a history"):
        ContextCache(model.spec, small_config()).restore(cache.state(), tokens[:-1], model)
    broken = cache.state()
    broken["tail"] = broken["tail"] + 4
    with pytest.raises(ValueError, match="do not tile"):
        ContextCache(model.spec, small_config()).restore(broken, tokens, model)


def test_every_flipped_or_missing_byte_of_a_snapshot_is_noticed(tmp_path):
    model, rng = small_llama(), Random(0)
    cache = ContextCache(model.spec, small_config())
    talk(model, cache, rng)
    data = snapshot.pack(cache.state(), "f")
    snapshot.unpack(data, "f")
    for at in [*range(64), *rng.sample(range(64, len(data)), 200)]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises(ValueError, match=r"."):
            snapshot.unpack(bytes(damaged), "f")
    for size in rng.sample(range(len(data)), 100):
        with pytest.raises(ValueError, match=r"."):
            snapshot.unpack(data[:size], "f")


@pytest.mark.parametrize("name", ["llama", "G4"])
def test_gists_come_back_too(name, tmp_path):
    model, rng = MODELS[name](), Random(5)
    config = small_config(gist_slots=(2, 1), budget=300, gist_budget=20, expand_above=0.05, scorer="mix")
    cache = ContextCache(model.spec, config, files=files(model, tmp_path))
    for _ in range(30):
        talk(model, cache, rng)
    assert len({span.level for span in cache.view.gists}) == 2
    again = brought_back(model, cache, config, tmp_path)
    assert again.view.gists == cache.view.gists
    state = rng.getstate()
    expected = talk(model, cache, rng)
    rng.setstate(state)
    assert all(map(torch.equal, talk(model, again, rng), expected))
    check_laws(again)
    again.files.close()
    cache.files.close()


def test_a_memory_is_kept_between_passes_only():
    model = small_llama()
    cache = ContextCache(model.spec, small_config())
    assert cache.can_be_kept
    run(model, cache, ids(model, [1]))
    assert not cache.can_be_kept


def test_an_index_that_the_disk_refuses_is_told_and_goes_on(tmp_path, monkeypatch):
    model = small_llama()
    cache = ContextCache(model.spec, small_config(), files=files(model, tmp_path))
    talk(model, cache, Random(0))
    assert cache.failure is None
    monkeypatch.setattr(LexicalStore, "failure", StoreError("no space"))
    assert str(cache.files.failure_of(cache)) == "no space"
    talk(model, cache, Random(1))
    cache.files.close()


def test_why_entries_stand_as_they_do_is_known_after_a_restart(tmp_path):
    model, config, rng, sink = small_llama(), small_config(expand_above=0.05), Random(2), EditLedger()
    cache = ContextCache(model.spec, config, files=files(model, tmp_path), sink=sink)
    for _ in range(9):
        talk(model, cache, rng)
    again = brought_back(model, cache, config, tmp_path)
    told = EditLedger()
    told.begin(again.tick, again.edits)
    ends = Protected(cache.allocator.first_end(cache.context), cache.recent_start())
    reasons = [explain(entry, cache.context, ends, told) for entry in cache.context.entries]
    assert reasons == [explain(entry, cache.context, ends, sink) for entry in cache.context.entries]
    assert any("expanded" in reason for reason in reasons)
    assert len(again.edits) <= len(again.context.entries)
    twin = again.fork()
    twin.edits.keep_only([])
    assert len(again.edits)
    again.files.close()
    cache.files.close()


@pytest.mark.parametrize("gist_slots", [(0, 0), (2, 1)])
def test_a_memory_without_a_folder_moves_into_one_and_nothing_is_computed(gist_slots, tmp_path, monkeypatch):
    model, rng = small_llama(), Random(4)
    config = small_config(gist_slots=gist_slots, budget=48 if not any(gist_slots) else 300, gist_budget=20)
    cache = ContextCache(model.spec, config, files=MemoryFiles(None, model.spec, 4, PagesConfig()))
    for _ in range(30):
        talk(model, cache, rng)
    assert cache.scorer.semantic.means.count > 130
    cache.files.write_to(tmp_path, cache)
    again = ContextCache(model.spec, config, files=files(model, tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", lambda *_: pytest.fail("something was computed"))
        assert again.files.bring_back(again, cache.tree.tokens(0, cache.length), model) == ""
        for number in range(len(again.tree) // 4):
            assert torch.equal(
                again.tree.page(again.grid.page(number)).keys, cache.tree.page(cache.grid.page(number)).keys
            )
    assert not again.files.made_anew
    assert not again.state()["scorer"]["semantic"]["closed"]  # in their file by now
    state = rng.getstate()
    expected = talk(model, cache, rng)
    rng.setstate(state)
    assert all(map(torch.equal, talk(model, again, rng), expected))
    assert {path.name for path in tmp_path.iterdir()} >= {"pages.ctx", "means.ctx", "view.snap"}
    again.files.close()


def test_pages_that_were_given_up_are_computed_when_they_are_wanted(tmp_path):
    model, rng, few = small_llama(), Random(4), PagesConfig(ram_bytes=9 * 2 * 2 * 2 * 4 * 8 * 4)
    cache = ContextCache(model.spec, small_config(), files=MemoryFiles(None, model.spec, 4, few))
    for _ in range(12):
        talk(model, cache, rng)
    cache.files.write_to(tmp_path, cache)
    again = ContextCache(model.spec, small_config(), files=files(model, tmp_path))
    assert again.files.bring_back(again, cache.tree.tokens(0, cache.length), model) == ""
    for number in range(len(again.tree) // 4):
        assert again.tree.page(again.grid.page(number)).keys.isfinite().all()
    talk(model, again, rng)
    check_laws(again)
    again.files.close()
