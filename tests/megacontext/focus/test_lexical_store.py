"""LexicalStore against LexicalIndex: the same votes, to the last bit, however it was filled, opened and copied."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import tracemalloc
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lexical_texts import HOW, Pair, files, histories, history, settings_of_index, units

from megacontext.errors import StoreError
from megacontext.focus.lexical import archive
from megacontext.focus.lexical_store import LexicalStore

parts = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 70), st.integers(200, 400)), min_size=1, max_size=30)


# --- the same votes ---


@settings(max_examples=120, deadline=None)
@given(histories, settings_of_index, units, parts)
def test_votes_are_the_oracles_however_tokens_arrive(text, how, unit, arrive):
    pair = Pair(text, unit=unit, **how)
    for count in arrive:
        pair.read(count)
        pair.check()
    pair.read(len(text))
    pair.check()


@settings(max_examples=80, deadline=None)
@given(histories, settings_of_index, units, st.integers(1, 900), st.integers(1, 5), st.booleans())
def test_a_token_that_is_expected_votes_as_if_it_had_come_and_leaves_no_trace(text, how, unit, before, ahead, comes):
    pair, came = Pair(text, unit=unit, **how), Pair(text, unit=unit, **how)
    kernel = 0.9 ** np.arange(how["window"] + 1)
    for one in (pair, came):
        one.read(before)
    if pair.length < len(text):
        pair.store.expect(text[pair.length : pair.length + 1])
        came.read(1)
        assert pair.store.length == pair.length
        found, expected = pair.store.scores(kernel), came.oracle.scores(kernel)
        assert np.array_equal(found[0], expected[0])
        assert np.allclose(found[1], expected[1], rtol=1e-12)
    if pair.length < len(text):
        if not comes:
            pair.store.expect(history(ahead, 60, ahead))
        pair.read(1 if comes else ahead)
    pair.check()


def test_a_token_that_comes_as_expected_is_looked_up_once(monkeypatch):
    text = [5, 6, 7, 8] * 300
    store, other = LexicalStore(8, unit=16), LexicalStore(8, unit=16)
    for one in (store, other):
        one.add(text)
    looks = []
    look_up = archive.Archive.look_up
    monkeypatch.setattr(archive.Archive, "look_up", lambda *a: looks.append(1) or look_up(*a))
    for token in text[:200]:  # over many seals
        store.expect([token])
        store.add([token])
    assert len(looks) == 200
    other.add(text[:200])
    for found, expected in zip(store.scores(np.ones(200)), other.scores(np.ones(200)), strict=True):
        assert np.array_equal(found, expected)
    store.expect([5])
    store.add([7])
    other.add([7])
    assert np.array_equal(store.scores(np.ones(5))[1], other.scores(np.ones(5))[1])


def test_tokens_expected_together_find_nothing_among_themselves():
    store = LexicalStore(8, unit=16)
    store.add([5, 6, 7, 8] * 4)
    store.expect([50, 51, 50, 51, 50, 51])
    assert not len(store.scores(np.ones(6))[0])
    store.expect([5, 50])
    assert set(store.scores(np.ones(2))[0].tolist()) == {0, 1, 2}


def test_a_token_whose_expectation_failed_is_looked_up_when_it_comes(monkeypatch):
    text = [5, 6, 7, 8, 9] * 8
    store, other = LexicalStore(8, unit=16), LexicalStore(8, unit=16)
    for one in (store, other):
        one.add(text)
    store.expect([9])
    with monkeypatch.context() as broken:
        broken.setattr(archive.Archive, "look_up", Mock(side_effect=StoreError("damaged")))
        with pytest.raises(StoreError):
            store.expect([6])
    for one in (store, other):
        one.add([6])
    for found, expected in zip(store.scores(np.ones(3)), other.scores(np.ones(3)), strict=True):
        assert np.array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(histories, settings_of_index, units, parts, st.integers(0, 1 << 30))
def test_votes_are_the_oracles_after_opening_at_any_point(text, how, unit, arrive, seed):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(text, Path(folder, "lexical"), unit=unit, **how)
        for count in arrive:
            if rng.random() < 0.5:
                if rng.random() < 0.5:
                    pair.store.close()
                pair.store = pair.open()
                pair.check()
            pair.read(count)
            pair.check()
        pair.store.close()
        assert pair.store.damaged == 0
        assert pair.store.failure is None


@settings(max_examples=25, deadline=None)
@given(histories, parts, st.integers(0, 1 << 30))
def test_a_fork_and_its_origin_go_separate_ways(text, arrive, seed):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        origin = Pair(text, Path(folder, "lexical"))
        for count in arrive:
            origin.read(count)
        twin = Pair.__new__(Pair)
        twin.__dict__ = {**origin.__dict__, "store": origin.store.copy(), "oracle": origin.oracle.copy()}
        twin.text = text[: origin.length] + history(seed, 9, 500)
        disk_bytes = origin.store.disk_bytes
        for _ in range(20):
            pair = (origin, twin)[int(rng.integers(2))]
            pair.read(int(rng.integers(1, 60)))
            pair.check()
        twin.check(twin.store.copy())
        origin.store.close()
        assert twin.store.disk_bytes <= disk_bytes


@pytest.mark.parametrize("with_folder", [True, False])
def test_a_fork_shares_the_segments_of_its_origin(tmp_path, with_folder):
    pair = Pair(history(3, 30, 2000), tmp_path if with_folder else None)
    pair.read(990)
    shared, before = pair.store._archive.segments, pair.store.disk_bytes
    twin = pair.store.copy()
    twin.add(pair.text[990:])
    assert twin._archive.segments[: len(shared)] == shared
    assert len(twin._archive.segments) <= len(shared) + 12
    assert twin.disk_bytes == before
    pair.store.close()


def test_without_a_folder_nothing_is_written_and_a_copy_stays_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = Pair(history(3, 30, 2000))
    pair.read(1500)
    twin = pair.store.copy()
    pair.check(twin)
    twin.add(pair.text[1500:])
    pair.read(500)
    pair.check()
    pair.check(twin)
    assert pair.store.disk_bytes == 0
    assert not list(tmp_path.iterdir())


# --- crashes: the folder as it stands at any moment ---


def image_of(folder: Path, image: Path) -> Path:
    """A folder as it stands now, while a thread may be moving a file into place."""
    image.mkdir()
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            shutil.copyfile(path, image / path.name)
    return image


def test_a_folder_left_at_any_moment_serves_again(tmp_path):
    pair = Pair(history(5, 40, 2500), tmp_path / "lexical", unit=64)
    leftovers = 0
    for moment in range(120):
        pair.read(1 + moment % 40)
        image = image_of(pair.folder, tmp_path / f"image{moment}")
        leftovers += len(list(image.glob(".*.tmp")))
        store = pair.open(image)
        pair.check(store)
        assert store.damaged == 0
        assert not list(image.glob(".*.tmp"))
        shutil.rmtree(image)
    assert leftovers, "no image was taken amid a write"


@pytest.mark.parametrize("lost", [1, 30, 400, 1100])
def test_a_log_that_lost_its_end_and_went_on_differently_is_indexed_as_it_is(tmp_path, lost):
    first = Pair(history(1, 30, 1500), tmp_path, unit=64)
    first.read(1500)
    first.store.close()
    text = first.text[: 1500 - lost]
    second = Pair(text + history(2, 30, 900), None, unit=64)
    second.folder = tmp_path
    second.read(len(text))
    second.store = second.open()
    second.check()
    for _ in range(9):
        second.read(100)
        second.check()


def test_an_index_can_be_opened_some_tokens_before_its_end(tmp_path):
    """As after a crash, when what remembers the rest is a little older."""
    pair = Pair(history(1, 30, 1500), tmp_path / "lexical", unit=64)
    pair.read(1500)
    pair.store.close()
    newest = max(int(path.stem[13:]) for path in files(pair.folder))
    for length in range(newest - 10, newest + 70, 3):
        earlier = Pair(pair.text, None, unit=64)
        earlier.read(length)
        shutil.copytree(pair.folder, tmp_path / str(length))
        store = earlier.open(tmp_path / str(length))
        earlier.check(store)
        assert store.damaged == (length < newest + earlier.how["window"])


def test_a_segment_of_other_tokens_is_not_believed(tmp_path):
    first = Pair(history(1, 30, 1500), tmp_path, unit=64)
    first.read(1500)
    first.store.close()
    assert files(tmp_path)
    other = Pair(history(2, 30, 1500), None, unit=64)
    other.read(1500)
    other.folder = tmp_path
    store = other.open()
    other.check(store)
    assert store.damaged > 0


def test_opening_without_history_clears_the_folder(tmp_path):
    pair = Pair(history(1, 30, 1500), tmp_path, unit=64)
    pair.read(1500)
    pair.store.close()
    LexicalStore.open(tmp_path, 0, lambda start, stop: [], "bytes", unit=64, **HOW)
    assert not files(tmp_path)


def test_another_fingerprint_or_unit_is_indexed_anew(tmp_path):
    pair = Pair(history(1, 30, 1500), tmp_path, unit=64)
    pair.read(1500)
    pair.store.close()
    store = LexicalStore.open(tmp_path, 1500, pair.tokens, "another", unit=64, **HOW)
    pair.check(store)
    assert store.damaged > 0
    store.close()
    store = LexicalStore.open(tmp_path, 1500, pair.tokens, "another", unit=128, **HOW)
    pair.check(store)
    assert store.damaged > 0


# --- bounds ---


def test_there_are_few_segments_and_little_work_at_a_time(tmp_path, monkeypatch):
    """Merging keeps up although no step is longer than STEP records."""
    largest, most = 0, 0

    def counted(self, *, wait=False, merge=archive.Archive._merge):
        nonlocal largest
        assert not wait
        done = merge(self)
        largest = max(largest, done)
        return done

    monkeypatch.setattr(archive.Archive, "_merge", counted)
    text = history(0, 400, 30_000)
    store = LexicalStore.open(tmp_path, 0, lambda start, stop: text[start:stop], "", block=8, unit=256, window=16)
    for at in range(0, len(text), 50):
        store.add(text[at : at + 50])
        units = at // 256 + 1
        most = max(most, len(store._archive.segments) - 2 * math.log2(units + 1))
    assert 0 < largest <= archive.STEP
    assert most <= 6


def test_memory_does_not_grow_with_history(tmp_path):
    """Zipf-like text. Merges under way have no records in memory either."""
    rng = np.random.default_rng(0)
    text = np.minimum(rng.zipf(1.3, 60_000), 5000).tolist()
    store = LexicalStore.open(tmp_path, 0, lambda start, stop: text[start:stop], "", block=32, unit=512, window=64)
    peaks = []
    for stop in (15_000, 60_000):
        peaks.append(0)
        for at in range(store.length, stop, 100):
            store.add(text[at : at + 100])
            peaks[-1] = max(peaks[-1], store.nbytes)
    assert peaks[1] <= 1.1 * peaks[0]
    assert store.disk_bytes <= 60_000 * 16 + 20 * 8192


def test_nbytes_is_what_is_allocated():
    text = history(0, 3000, 20_000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        store = LexicalStore(32, unit=2048)
        store.add(text)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert store.nbytes == pytest.approx(held, rel=0.25)


def test_opening_asks_for_few_tokens_when_the_folder_has_the_rest(tmp_path):
    text, told = history(0, 3000, 60_000), []
    asked = 0

    def tokens(start: int, stop: int) -> list[int]:
        nonlocal asked
        asked += stop - start
        return text[start:stop]

    for length in (20_000, 60_000):
        store = LexicalStore.open(tmp_path, 0, tokens, "", block=8, unit=256, window=64)
        store.add(text[:length])
        store.close()
        asked = 0
        store = LexicalStore.open(
            tmp_path, length, tokens, "", block=8, unit=256, window=64, progress=lambda *done: told.append(done)
        )
        assert asked <= 256 * (archive.USUAL + 2 + len(store._archive.segments)) + 128
        assert not told


def test_progress_says_how_much_is_made_again(tmp_path):
    text, told = history(0, 300, 9000), []
    store = LexicalStore.open(
        tmp_path, 9000, lambda start, stop: text[start:stop], "", block=8, unit=64, progress=lambda *p: told.append(p)
    )
    dones, totals = zip(*told, strict=True)
    assert list(dones) == sorted(dones)
    assert dones[-1] == totals[0] == 8448
    assert set(totals) == {8448}
    assert store.length == 9000


# --- wrong use ---


@pytest.mark.parametrize("tokens", [[-1], [1, 1 << 24], [0.5], ["a"], [[1, 2]], [1 << 70], [None]])
def test_what_is_no_token_is_refused(tokens):
    store = LexicalStore(8)
    store.add([1, 2, 3])
    with pytest.raises(ValueError, match="token ids"):
        store.add(tokens)
    assert store.length == 3


@pytest.mark.parametrize(
    "how", [{"block": 0}, {"max_n": 0}, {"max_n": 5}, {"max_matches": 0}, {"edge": -1}, {"window": 0}, {"unit": 3}]
)
def test_settings_that_cannot_work_are_refused(how):
    with pytest.raises(ValueError, match="an index needs"):
        LexicalStore(**{"block": 8, **how})


def test_a_history_shorter_than_said_is_refused(tmp_path):
    with pytest.raises(StoreError, match="token log is too short"):
        LexicalStore.open(tmp_path, 5000, lambda start, stop: [1] * 10, "", block=8, unit=64)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_nobody_else_may_read_the_files(tmp_path):
    pair = Pair(history(1, 30, 1500), tmp_path / "lexical", unit=64)
    pair.read(1500)
    pair.store.close()
    assert (tmp_path / "lexical").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in files(tmp_path / "lexical")} == {0o600}
