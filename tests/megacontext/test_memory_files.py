"""MemoryFiles: a kept state never speaks of tokens that the log does not have."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from memory_toys import VOCAB, small_config, small_llama

from megacontext.cache import ContextCache
from megacontext.config import PagesConfig
from megacontext.errors import StoreError
from megacontext.testing.toy import ids, run
from megacontext.tree import snapshot
from megacontext.tree.memory_files import TURN_NAME, VIEW_NAME, MemoryFiles
from megacontext.tree.token_log import TokenLog

MODEL = small_llama()


class Kept:
    """A memory, its files and its log, as a conversation has them."""

    def __init__(self, folder: Path) -> None:
        self.log = TokenLog.open(folder / "tokens.log", vocab=VOCAB, fingerprint="t")
        self.files = MemoryFiles(folder, MODEL.spec, 4, PagesConfig(), log=self.log)
        self.cache = ContextCache(MODEL.spec, small_config(), files=self.files)

    def feed(self, seed: int, count: int) -> None:
        rng = Random(seed)
        for _ in range(count):
            token = rng.randrange(VOCAB)
            self.log.append([token])
            run(MODEL, self.cache, ids(MODEL, [token]))
            self.cache.maintain(MODEL)

    def bring_back(self) -> str:
        return self.files.bring_back(self.cache, self.log.tokens(0, len(self.log)), MODEL)

    def close(self) -> None:
        self.files.close()
        self.log.close()


def test_the_log_has_the_tokens_of_a_kept_state_before_the_state_is_there(tmp_path):
    kept = Kept(tmp_path)
    kept.feed(0, 22)
    kept.files.flush()
    with (tmp_path / "tokens.log").open("rb") as there:  # as a process finds it after kill -9 of this one
        data = there.read()
    kept.close()
    (tmp_path / "tokens.log").write_bytes(data)
    again = Kept(tmp_path)
    assert len(again.log) >= 20
    assert again.bring_back() == ""
    assert again.cache.length == 20
    again.close()


def test_a_log_that_lost_its_end_and_grew_again_is_not_taken_for_the_one_before(tmp_path):
    kept = Kept(tmp_path)
    kept.feed(0, 12)
    kept.log.sync()
    size = (tmp_path / "tokens.log").stat().st_size
    kept.feed(1, 20)
    kept.close()
    with (tmp_path / "tokens.log").open("r+b") as file:  # a power cut, and a disk that was full for all but the log
        file.truncate(size)
    with TokenLog.open(tmp_path / "tokens.log", vocab=VOCAB, fingerprint="t") as log:
        log.append([Random(2).randrange(VOCAB) for _ in range(40)])
    again = Kept(tmp_path)
    assert again.bring_back() == "it speaks of other tokens than the log has"
    assert again.cache.length == 0
    again.close()


def test_a_log_that_cannot_be_written_keeps_the_state_that_was_there(tmp_path, monkeypatch):
    kept = Kept(tmp_path)
    kept.feed(0, 12)
    kept.files.flush()
    before = (tmp_path / VIEW_NAME).read_bytes()

    def full() -> None:
        raise StoreError("cannot write the token log: no space left")

    monkeypatch.setattr(kept.log, "flush", full)
    kept.feed(1, 12)
    kept.files.flush()
    assert (tmp_path / VIEW_NAME).read_bytes() == before
    monkeypatch.undo()
    kept.close()


def test_what_a_prompt_asked_for_is_kept_before_its_answer_begins(tmp_path):
    kept, rng = Kept(tmp_path), Random(5)
    kept.feed(0, 90)
    prompt = [rng.randrange(VOCAB) for _ in range(14)]
    kept.log.append(prompt)
    for at in range(0, 12, 6):
        run(MODEL, kept.cache, ids(MODEL, prompt[at : at + 6]))
        kept.cache.maintain(MODEL)
    run(MODEL, kept.cache, ids(MODEL, prompt[12:13]))
    kept.cache.maintain(MODEL)
    kept.cache.maintain(MODEL, prompt=len(prompt))
    kept.files.flush()
    files = MemoryFiles(tmp_path, MODEL.spec, 4, PagesConfig(), log=kept.log)
    again = ContextCache(MODEL.spec, small_config(), files=files)
    assert files.bring_back(again, kept.log.tokens(0, len(kept.log)), MODEL) == ""
    last = ids(MODEL, prompt[-1:])
    assert torch.equal(run(MODEL, again, last), run(MODEL, kept.cache, last))
    files.close()
    kept.close()


def test_without_a_log_a_state_is_believed(tmp_path):
    files = MemoryFiles(tmp_path, MODEL.spec, 4, PagesConfig())
    cache = ContextCache(MODEL.spec, small_config(), files=files)
    run(MODEL, cache, ids(MODEL, [1, 2, 3, 4, 5]))
    cache.maintain(MODEL)
    files.flush()
    again = ContextCache(MODEL.spec, small_config(), files=MemoryFiles(tmp_path, MODEL.spec, 4, PagesConfig()))
    assert again.files.bring_back(again, [1, 2, 3, 4, 5], MODEL) == ""
    again.files.close()
    files.close()


@pytest.mark.parametrize("name", ["pages.ctx", "means.ctx"])
def test_a_file_with_half_a_header_is_begun_anew_and_said(tmp_path, name):
    Kept(tmp_path).close()
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:50])
    again = Kept(tmp_path)
    assert [file for file, _ in again.files.made_anew] == [name]
    again.close()


@pytest.mark.parametrize(
    "damage",
    [
        {"carry": 1.5, "view": 3},
        {"scorer": []},
        {"tail": 1 << 70},
        {"entries": torch.ones(1, 3)},
        {"rings": None, "held": 5.0},
        {"length": None},
    ],
)
def test_a_state_that_makes_no_sense_is_told_and_the_memory_is_empty(tmp_path, damage):
    kept = Kept(tmp_path)
    kept.feed(0, 30)
    kept.files.flush()
    state = {**kept.cache.state(), "tokens": kept.files._sum_of(kept.cache.length), **damage}
    snapshot.write(tmp_path / VIEW_NAME, snapshot.pack(state, kept.cache.fingerprint))
    kept.cache.reset()
    assert "makes no sense" in kept.bring_back()
    assert kept.cache.length == 0
    kept.close()


# --- an earlier state ---


def power_cut(folder: Path, log_bytes: int) -> None:
    """What was not synced of the log is gone; the newest state, renamed but not synced, is there."""
    with (folder / "tokens.log").open("r+b") as file:
        file.truncate(log_bytes)


def turn(kept: Kept, seed: int, count: int) -> int:
    """Tokens, made durable, and the state of a turn's end -> bytes of the log that a power cut leaves."""
    kept.feed(seed, count)
    kept.log.sync()
    kept.files.keep(kept.cache, turn_end=True)
    kept.files.flush()
    return (kept.files.folder / "tokens.log").stat().st_size


def test_after_a_power_cut_only_the_tokens_since_the_turns_end_are_read_again(tmp_path):
    kept = Kept(tmp_path)
    turn(kept, 0, 30)
    size = turn(kept, 1, 11)
    kept.feed(2, 25)
    kept.close()
    power_cut(tmp_path, size)
    again = Kept(tmp_path)
    assert again.bring_back() == "it speaks of 64 tokens, the log has 41"
    assert again.cache.length == len(again.log) == 41
    oracle = ContextCache(MODEL.spec, small_config())
    rng = [Random(0), Random(1)]
    for token in [rng[0].randrange(VOCAB) for _ in range(30)] + [rng[1].randrange(VOCAB) for _ in range(11)]:
        run(MODEL, oracle, ids(MODEL, [token]))
        oracle.maintain(MODEL)
    next_one = ids(MODEL, [3])
    assert torch.equal(run(MODEL, again.cache, next_one), run(MODEL, oracle, next_one))
    again.close()


@pytest.mark.parametrize("damage", [b"", b"torn", None])
def test_a_newest_state_that_is_torn_or_gone_leaves_the_earlier_one(tmp_path, damage):
    kept = Kept(tmp_path)
    turn(kept, 0, 30)
    kept.feed(1, 25)
    kept.close()
    if damage is None:
        (tmp_path / VIEW_NAME).unlink()
    else:
        (tmp_path / VIEW_NAME).write_bytes(damage)
    again = Kept(tmp_path)
    assert again.bring_back() == ("" if damage is None else "it is no snapshot")
    assert again.cache.length == 30
    again.close()


def test_the_state_of_a_turns_end_is_synced_and_spared_by_the_next_run_too(tmp_path, monkeypatch):
    kept, synced = Kept(tmp_path), []
    turn(kept, 0, 30)
    turn(kept, 1, 12)
    kept.close()
    assert kept_length(tmp_path / TURN_NAME) == 30
    again = Kept(tmp_path)
    assert again.bring_back() == ""
    monkeypatch.setattr(snapshot, "write", Noted(snapshot.write, synced))
    again.feed(2, 9)
    again.files.flush()
    assert kept_length(tmp_path / TURN_NAME) == 42
    again.feed(3, 9)
    again.log.sync()
    again.files.keep(again.cache, turn_end=True)
    again.files.flush()
    assert kept_length(tmp_path / TURN_NAME) == 42
    assert synced[-1] is True
    assert not any(synced[:-1])
    again.close()


def test_an_earlier_state_that_is_of_no_use_is_removed(tmp_path):
    kept = Kept(tmp_path)
    turn(kept, 0, 30)
    kept.feed(1, 25)
    kept.close()
    for name in (VIEW_NAME, TURN_NAME):
        (tmp_path / name).write_bytes(b"torn")
    again = Kept(tmp_path)
    assert again.bring_back() == "it is no snapshot"
    assert again.cache.length == 0
    assert not (tmp_path / TURN_NAME).exists()
    again.close()


def kept_length(path: Path) -> int:
    return snapshot.plain_part(snapshot.check(path.read_bytes())[1])["length"]


class Noted:
    """`snapshot.write`, and whether it was to sync."""

    def __init__(self, write, synced: list[bool]) -> None:
        self.write, self.synced = write, synced

    def __call__(self, path: Path, data: bytes, *, sync: bool = False) -> None:
        self.synced.append(sync)
        self.write(path, data, sync=sync)
