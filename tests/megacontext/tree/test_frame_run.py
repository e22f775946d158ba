"""Frames taken apart many at a time, against one by one."""

from __future__ import annotations

import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.tree import frame_run, token_frames
from megacontext.tree.frame_run import Run, read_runs
from megacontext.tree.token_log import TokenLog

VOCAB = 50_000
WORD = int.from_bytes(token_frames.WORD, "little")


def log_of(steps: list[int]) -> bytes:
    """Frames: n > 0: n tokens; 0: a SYNCED frame."""
    rng, data = np.random.default_rng(len(steps)), b""
    for number, count in enumerate(steps):
        frame = token_frames.pack_tokens(rng.integers(0, VOCAB, count), number) if count else b""
        data += frame or token_frames.pack_synced(len(data) + 64, number)
    return data


def reader(data: bytes):
    return lambda offset, size: data[offset : offset + size]


def one_by_one(data: bytes, vocab: int = VOCAB) -> list[token_frames.Frame]:
    """The oracle."""
    found = []
    for frame in token_frames.read_frames(reader(data), 0):
        if frame.type == token_frames.TOKENS and int(frame.tokens.max()) >= vocab:
            break
        found.append(frame)
    return found


def check(data: bytes, runs: list[Run], vocab: int = VOCAB) -> None:
    wanted = one_by_one(data, vocab)
    tokens = [frame.tokens if frame.type == token_frames.TOKENS else frame.tokens[:0] for frame in wanted]
    assert [int(offset) for run in runs for offset in run.offsets] == [frame.offset for frame in wanted]
    assert [int(count) for run in runs for count in run.counts] == [len(ids) for ids in tokens]
    assert [int(t) for run in runs for t in run.tokens] == [int(t) for ids in tokens for t in ids]
    assert (runs[-1].end if runs else 0) == (wanted[-1].end if wanted else 0)
    assert (runs[-1].sequence if runs else 0) == len(wanted)


def runs_of(data: bytes, vocab: int = VOCAB) -> list[Run]:
    return list(read_runs(reader(data), 0, vocab))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=40), st.data())
def test_runs_are_the_frames_read_one_by_one_whole_cut_or_flipped(steps, data):
    log = log_of(steps)
    check(log, runs_of(log))
    check(log[: (cut := data.draw(st.integers(0, len(log))))], runs_of(log[:cut]))
    if log:
        flipped = bytearray(log)
        flipped[data.draw(st.integers(0, len(log) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        check(bytes(flipped), runs_of(bytes(flipped)))
        moved = log[: cut // 4 * 4] + log
        check(moved, runs_of(moved))


def test_windows_end_within_frames(monkeypatch):
    data = log_of([4096, 1, 0, 4000, *[1, 0] * 3000, 4096])
    whole = runs_of(data)
    with monkeypatch.context() as patch:
        patch.setattr(token_frames, "WINDOW", 300)
        small = runs_of(data)
    check(data, small)
    assert len(small) > len(whole)


def test_a_word_within_a_frame_is_no_frame():
    data = token_frames.pack_tokens(np.array([1]), 0) + token_frames.pack_synced(WORD, 1)
    data += token_frames.pack_synced(WORD << 32 | WORD, 2) + token_frames.pack_tokens(np.array([2, 3]), 3)
    (run,) = runs_of(data)
    check(data, [run])
    assert run.tokens.tolist() == [1, 2, 3]


def test_a_frame_with_an_id_out_of_the_vocabulary_ends_it():
    data = log_of([3, 5]) + token_frames.pack_tokens(np.array([4, VOCAB]), 2) + token_frames.pack_tokens(np.ones(2), 3)
    check(data, runs_of(data))
    assert sum(len(run.tokens) for run in runs_of(data)) == 8
    assert sum(len(run.tokens) for run in runs_of(data, vocab=1 << 31)) == 12


def test_a_range_begins_with_any_number_and_ends_where_it_is_told():
    data = log_of([2, 0, 3, 0, 4])
    frames = one_by_one(data)
    (run,) = read_runs(reader(data), frames[1].offset, VOCAB, sequence=None, stop=frames[4].offset)
    assert run.offsets.tolist() == [frame.offset for frame in frames[1:4]]
    assert run.sequence == 4


@pytest.mark.parametrize("words", [1, 2, 5, 7, 15])
def test_checksums_are_those_of_zlib(words):
    rows = np.random.default_rng(words).integers(0, 1 << 32, (9, words), dtype=np.uint32)
    assert frame_run._crc32(rows).tolist() == [zlib.crc32(row.astype("<u4").tobytes()) for row in rows]


def test_bytes_full_of_frames_words_take_no_longer_than_their_number():
    data = b"".join(token_frames.pack_synced(WORD << 32 | WORD, number) for number in range(20_000))
    started = time.process_time()
    (run,) = runs_of(data)
    assert len(run.offsets) == 20_000
    assert time.process_time() - started < 2


def test_a_log_synced_after_each_token_opens_as_the_list_it_is_and_notes_few_places(tmp_path: Path):
    ids = [n * 7919 % VOCAB for n in range(3000)]
    data = b""
    for number, token in enumerate(ids):
        data += token_frames.pack_tokens(np.array([token]), 2 * number)
        data += token_frames.pack_synced(64 + len(data), 2 * number + 1)
    TokenLog.open(tmp_path / "log", vocab=VOCAB, fingerprint="f").close()
    with (tmp_path / "log").open("ab") as file:
        file.write(data)
    with TokenLog.open(tmp_path / "log", vocab=VOCAB, fingerprint="f") as log:
        assert log.recovered == (3000, 3000)
        assert log.tokens(17, 40) == ids[17:40]
        assert log.tokens(0, 3000) == ids
        assert log.nbytes < 16 * 20
        for start, stop in ((0, 3000), (255, 257), (256, 512), (1000, 1001), (2999, 3000), (700, 700)):
            assert log.tokens(start, stop) == ids[start:stop]
        log.append([5])
        log.sync()
        assert log.tokens(2990, 3001) == [*ids[2990:], 5]
