"""Whatever happens to the files of a lexical index: votes stay the oracle's, and nothing but our own errors shows."""

from __future__ import annotations

import errno
import os
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lexical_texts import Pair, files, history

from megacontext.errors import StoreError
from megacontext.focus.lexical import format as lex
from megacontext.focus.lexical.records import NOTHING, bounds, contexts, make_records
from megacontext.focus.lexical.segment import Segment, SegmentDamaged, write_segment

# --- one segment ---


def written(folder: Path, length: int) -> tuple[Path, np.ndarray]:
    """A segment file of some history, and its records."""
    text = np.array([0, 0, 0, *history(length, 30, length)], np.uint32)
    records = np.sort(make_records(contexts(text), np.arange(length)))
    head = lex.Head(0, length, length, 7, bytes(20))
    path = folder / head.name
    for _ in write_segment(path, head, (records[at : at + lex.GROUP] for at in range(0, length, lex.GROUP))):
        pass
    return path, records


def test_a_segment_answers_as_its_sorted_records_do(tmp_path):
    path, records = written(tmp_path, 1000)
    segment = Segment.open(path)
    asked = bounds(contexts(np.array(history(5, 30, 200), np.uint32)), 4)
    assert np.array_equal(segment.find(asked), [sum(records < bound) for bound in asked])
    assert np.array_equal(segment.part(990, 500), records[990:])
    assert segment.disk_bytes == path.stat().st_size
    assert segment.nbytes <= 5 * 4


def test_every_flipped_byte_is_found_before_it_changes_an_answer(tmp_path):
    path, _ = written(tmp_path, 300)
    good = path.read_bytes()
    asked = bounds(contexts(np.array(history(300, 30, 20), np.uint32)), 4)
    places = Segment.open(path).find(asked)
    right = refused = found = 0
    for at in range(len(good)):
        with path.open("r+b") as file:
            file.seek(max(at - 1, 0))  # the one before is as it was again
            file.write(good[max(at - 1, 0) : at] + bytes([good[at] ^ 1 << at % 8]))
        try:
            segment = Segment.open(path)
        except StoreError:
            refused += 1
            continue
        assert at >= 4096, "headers and checksums are verified on opening"
        try:
            assert np.array_equal(segment.find(asked), places)
            right += 1
        except SegmentDamaged:
            found += 1
        with pytest.raises(SegmentDamaged):
            Segment.open(path).part(0, 300)
    assert refused == 4096
    assert right + found == 300 * 16
    assert found > 4000


@pytest.mark.parametrize("seed", range(4))
def test_a_search_that_damage_leads_astray_is_noticed(tmp_path, seed):
    """One question to a segment of many groups: it passes by records that it does not verify."""
    rng = np.random.default_rng(seed)
    path, records = written(tmp_path, 4000)
    good, found = path.read_bytes(), 0
    edges = [group + by for group in range(0, 4000, lex.GROUP) for by in (-1, 0, 1) if 0 <= group + by < 4000]
    for record in [*edges, *range(0, 4000, 61)]:
        bad = bytearray(good)
        bad[4096 + 16 * record : 4096 + 16 * record + 16] = records[int(rng.integers(4000))].tobytes()
        path.write_bytes(bad)
        asked = records[[min(max(record + int(rng.integers(-2, 3)), 0), 3999)]]
        try:
            assert Segment.open(path).find(asked) == records.searchsorted(asked)
        except SegmentDamaged:
            found += 1
    assert found > 50


def test_positions_are_verified_too(tmp_path):
    path, records = written(tmp_path, 2000)
    bad = bytearray(path.read_bytes())
    bad[4096 + 16 * 700] ^= 1
    path.write_bytes(bad)
    segment = Segment.open(path)
    assert np.array_equal(segment.positions(np.arange(500)), records.imag.astype(int)[:500] & (2**22 - 1))
    with pytest.raises(SegmentDamaged, match="made again from the tokens"):
        segment.positions(np.array([700]))


def test_every_truncation_is_refused(tmp_path):
    path, _ = written(tmp_path, 300)
    good = path.read_bytes()
    for size in [*range(0, 200), *range(200, len(good), 37), len(good) - 1, len(good) + 1]:
        path.write_bytes(good[:size].ljust(size, b"\0"))
        with pytest.raises(StoreError):
            Segment.open(path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 4096), st.booleans())
def test_a_file_of_anything_is_refused_or_whole(garbage, at, checked):
    """checked: the header's own checksum is right."""
    with tempfile.TemporaryDirectory() as folder:
        path, records = written(Path(folder), 300)
        data = bytearray(path.read_bytes())
        data[at : at + len(garbage)] = garbage
        if checked:
            data[60:64] = zlib.crc32(data[:60]).to_bytes(4, "little")
        path.write_bytes(data)
        with suppress(StoreError):
            assert np.array_equal(Segment.open(path).part(0, 300), records)


# --- the index ---


def reading(tmp_path: Path, length: int = 3000, unit: int = 512) -> Pair:
    pair = Pair(history(1, 50, length + 700), tmp_path, unit=unit)
    pair.read(length)
    pair.store.close()
    return pair


@pytest.mark.parametrize("seed", range(12))
def test_votes_are_right_whatever_bytes_are_flipped_between_two_openings(tmp_path, seed):
    rng = np.random.default_rng(seed)
    pair = reading(tmp_path)
    damaged = 0
    for _ in range(6):
        for path in files(tmp_path):
            data = bytearray(path.read_bytes())
            if rng.random() < 0.7:
                data[int(rng.integers(0, len(data)))] ^= int(rng.integers(1, 256))
            path.write_bytes(data[: int(rng.integers(0, len(data)))] if rng.random() < 0.2 else data)
        pair.store = pair.open()
        pair.check()
        for _ in range(10):
            pair.read(int(rng.integers(1, 20)))
            pair.check()
        damaged += pair.store.damaged
        pair.store.close()
    assert damaged > 0


def test_a_damaged_segment_is_made_again_in_the_folder(tmp_path):
    pair = reading(tmp_path)
    path = max(files(tmp_path), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(data)
    told: list[tuple[int, int]] = []
    store = pair.open(progress=lambda *done: told.append(done))
    pair.store = store
    pair.read(30)
    pair.check()
    assert store.damaged == 1
    assert path.read_bytes()[4096:] != data[4096:]
    store.close()
    assert pair.open().damaged == 0


def test_damage_in_a_source_of_a_merge_is_mended(tmp_path):
    pair = reading(tmp_path, 2600, 128)
    for path in files(tmp_path):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    pair.store = pair.open()
    while pair.length < len(pair.text):
        pair.read(50)
        pair.check()
    assert pair.store.damaged > 0


def test_damage_that_cannot_be_mended_is_told_and_nothing_is_half_added(tmp_path):
    """The damage is among small ids, so that opening, which looks for large ones, does not see it."""
    text = history(1, 50, 2600) + list(range(60_000, 60_100)) + history(1, 50, 200)
    pair = Pair(text, tmp_path, unit=512)
    pair.read(2700)
    pair.store.close()
    for path in files(tmp_path):
        data = bytearray(path.read_bytes())
        data[4096:8192] = bytes(4096)
        path.write_bytes(data)
    pair.store, pair.tokens = pair.open(), lambda start, stop: []
    pair.store._archive._tokens = pair.tokens
    assert pair.store.damaged == 0
    for _ in range(3):
        with pytest.raises(StoreError, match="too short"):
            pair.store.add(text[2700:])
    pair.check()
    pair.store._archive._tokens = lambda start, stop: text[start:stop]
    pair.read(200)
    pair.check()


@pytest.mark.parametrize(("start", "units"), [(0, 3), (64, 2), (128, 4)])
def test_a_segment_that_merging_could_not_have_made_is_not_used(tmp_path, start, units):
    pair = Pair(history(4, 20, 1000), None, unit=64)
    pair.read(1000)
    length = 64 * units
    text = np.array(pair.text[start - 3 : start + length] if start else [NOTHING] * 3 + pair.text[:length])
    head = lex.Head(start, length, 64, lex.checksum_of_tokens(text[-64:]), lex.digest_of("bytes"))
    for _ in write_segment(tmp_path / head.name, head, [np.sort(make_records(contexts(text), np.arange(length)))]):
        pass
    store = pair.open(tmp_path)
    assert store.damaged == 1
    assert not (tmp_path / head.name).exists()
    pair.check(store)


def test_what_else_lies_in_the_folder_is_let_be_or_does_not_harm(tmp_path):
    pair = reading(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "000000000000-000000999999.lex").mkdir()
    (tmp_path / "000000000512-000000001024.lex").write_bytes(b"")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "000000000000-000000000512.lex")
        (tmp_path / "000000001024-000000001536.lex").symlink_to(tmp_path / "notes.txt")
    pair.store = pair.open()
    pair.read(500)
    pair.check()
    assert (tmp_path / "notes.txt").read_text() == "mine"


# --- a failing disk ---


@pytest.mark.parametrize("call", ["fsync", "replace", "open", "mkdir", "scandir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_when_the_disk_fails_the_index_goes_on_in_memory_and_says_so(tmp_path, monkeypatch, call, code, after):
    real, calls = getattr(os, call), 0

    def failing(*arguments, **more):
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **more)

    pair = Pair(history(2, 50, 3000), None, unit=64)
    pair.read(1000)
    monkeypatch.setattr(os, call, failing)
    pair.folder, mapped = tmp_path / "lexical", None
    pair.store = pair.open()
    for _ in range(20):
        pair.read(100)
        pair.check()
        in_files = [segment for segment in pair.store._archive.segments if segment.path]
        if pair.store.failure is not None:
            assert mapped is None or in_files == mapped, "files are not copied into memory"
            mapped = in_files
    pair.store.close()
    assert isinstance(pair.store.failure, StoreError) == (calls > after)
    if calls > after:
        assert os.strerror(code) in str(pair.store.failure)
    monkeypatch.undo()
    assert not list(tmp_path.glob("lexical/.*.tmp"))
    pair.check(pair.open())
