"""The token log: what is acknowledged stays, what is damaged is never served."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import StoreError
from megacontext.tree import token_frames
from megacontext.tree.memory_log import MemoryLog
from megacontext.tree.token_log import DamagedLogError, TokenLog

VOCAB = 50_000
GROUPS = [[1, 2, 3], list(range(100, 140)), [49_999], list(range(7))]
ALL = [token for group in GROUPS for token in group]


def opened(path: Path, **options) -> TokenLog:
    return TokenLog.open(path, **{"vocab": VOCAB, "fingerprint": "tokens-a"} | options)


def written(path: Path, *, groups: list[list[int]] = GROUPS, sync_each: bool = True) -> bytes:
    """A log of `groups`, one frame each. Returns the file."""
    with opened(path) as log:
        for group in groups:
            log.append(group)
            if sync_each:
                log.sync()
    return path.read_bytes()


def frames_in(data: bytes) -> list[token_frames.Frame]:
    return list(token_frames.read_frames(lambda offset, size: data[offset : offset + size], token_frames.HEADER_BYTES))


def test_tokens_come_back_after_reopening_and_appending_goes_on(tmp_path):
    written(tmp_path / "deep" / "log")
    with opened(tmp_path / "deep" / "log") as log:
        assert log.recovered == (4, len(ALL))
        assert log.truncated == 0
        log.append([5])
        assert log.tokens(0, len(log)) == [*ALL, 5]
    with opened(tmp_path / "deep" / "log") as log:
        assert log.tokens(0, len(log)) == [*ALL, 5]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, VOCAB - 1), max_size=30), st.sampled_from("abr")), max_size=20))
def test_a_log_is_a_list(tmp_path_factory, steps):
    path, oracle = tmp_path_factory.mktemp("log") / "log", []
    log, memory = opened(path), MemoryLog(vocab=VOCAB)
    for ids, step in steps:
        log.append(ids)
        memory.append(ids)
        oracle += ids
        if step == "b":
            log.sync()
        if step == "r":
            log.close()
            log = opened(path)
        start = random.Random(len(oracle)).randint(0, len(oracle))
        assert len(log) == len(memory) == len(oracle)
        assert log.tokens(start, len(log)) == memory.tokens(start, len(log)) == oracle[start:]
        assert log.tokens(0, start) == memory.tokens(0, start) == oracle[:start]
    log.close()


def test_long_input_is_cut_into_frames_and_read_from_any_place(tmp_path):
    ids = [n * 7919 % VOCAB for n in range(3 * token_frames.FRAME_TOKENS + 17)]
    with opened(tmp_path / "log") as log:
        log.append(ids)
        assert log.tokens(4000, 9000) == ids[4000:9000]
        log.sync()
        assert log.tokens(12_000, len(ids)) == ids[12_000:]
    with opened(tmp_path / "log") as log:
        assert log.recovered == (4, len(ids))
        assert log.tokens(4095, 4097) == ids[4095:4097]
        for start, stop in [(-1, 2), (5, 4), (0, len(ids) + 1)]:
            with pytest.raises(ValueError, match="are not within the log's"):
                log.tokens(start, stop)


def test_frames_are_found_across_the_windows_of_reading(tmp_path, monkeypatch):
    data = written(tmp_path / "log", groups=[[n] * 50 for n in range(100)])
    whole = frames_in(data)
    monkeypatch.setattr(token_frames, "WINDOW", 300)
    assert frames_in(data) == whole
    assert len(whole) == 200  # a SYNCED frame after each


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_files_are_for_their_owner_only(tmp_path):
    written(tmp_path / "new" / "log")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    assert modes == {"log": 0o600, "log.lock": 0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


# What does not belong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [[VOCAB], [3, -1], [2**40]])
def test_an_id_out_of_the_vocabulary_is_named_and_nothing_is_taken(tmp_path, ids):
    with opened(tmp_path / "log") as log:
        with pytest.raises(ValueError, match=rf"token id {ids[-1]} is not in the vocabulary \[0, 50000\)"):
            log.append(ids)
        with pytest.raises(ValueError, match="flat list of integers"):
            log.append([0.5])
        assert len(log) == 0


def test_another_vocabulary_or_tokenizer_is_refused_with_the_difference(tmp_path):
    written(tmp_path / "log")
    with pytest.raises(StoreError, match="a vocabulary of 50000, this model has 300"):
        opened(tmp_path / "log", vocab=300)
    with pytest.raises(StoreError, match="written with another tokenizer"):
        opened(tmp_path / "log", fingerprint="tokens-b")
    opened(tmp_path / "log").close()


def test_the_second_writer_is_told_the_process_of_the_first(tmp_path):
    with opened(tmp_path / "log"), pytest.raises(StoreError, match=f"is open in process {os.getpid()}"):
        opened(tmp_path / "log")
    opened(tmp_path / "log").close()


def test_a_closed_log_is_closed(tmp_path):
    log = opened(tmp_path / "log")
    log.close()
    log.close()
    with pytest.raises(ValueError, match="is closed"):
        log.append([1])


# Damage ---------------------------------------------------------------------------------------------------------------


def test_cut_at_every_byte_the_whole_frames_before_it_come_back(tmp_path):
    data = written(tmp_path / "whole", sync_each=False)
    groups_end = frames_in(data)
    for cut in range(token_frames.HEADER_BYTES, len(data)):
        path = tmp_path / "log"
        path.write_bytes(data[:cut])
        floor = [t for f in groups_end if f.end <= cut and f.type == token_frames.TOKENS for t in f.tokens.tolist()]
        valid = max([f.end for f in groups_end if f.end <= cut], default=token_frames.HEADER_BYTES)
        with opened(path) as log:
            assert log.tokens(0, len(log)) == floor
            assert log.truncated == cut - valid
    kept = {int(p.name.split(".")[1]): p.read_bytes() for p in (tmp_path / "quarantine").iterdir()}
    assert all(data[offset:].startswith(tail) for offset, tail in kept.items())


def test_after_a_cut_the_log_goes_on(tmp_path):
    data = written(tmp_path / "log")
    (tmp_path / "log").write_bytes(data[:-40])
    with opened(tmp_path / "log") as log:
        assert log.truncated
        log.append([8, 9])
    with opened(tmp_path / "log") as log:
        assert log.tokens(0, len(log)) == [*ALL[:-7], 8, 9]


def test_a_flipped_bit_at_every_byte_is_detected(tmp_path):
    data = written(tmp_path / "whole")
    last = frames_in(data)[-1]
    assert last.type == token_frames.SYNCED
    dice = random.Random(0)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << dice.randrange(8)
        (tmp_path / "log").write_bytes(changed)
        if place >= last.offset:  # the last frame holds no tokens: cut, and nothing is lost
            with opened(tmp_path / "log") as log:
                assert log.tokens(0, len(log)) == ALL
                assert log.truncated
            continue
        frame = next((f for f in frames_in(data) if f.offset <= place < f.end), None)
        with pytest.raises(StoreError, match=f"at byte {frame.offset}" if frame else "cannot be read"):
            opened(tmp_path / "log")
        assert (tmp_path / "log").read_bytes() == changed


def test_repair_keeps_the_tokens_before_the_damage_and_quarantines_the_rest(tmp_path):
    data = bytearray(written(tmp_path / "log"))
    bad = frames_in(bytes(data))[2]
    data[bad.offset + 25] ^= 4
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(StoreError, match=f"damaged at byte {bad.offset}, after 3 tokens") as caught:
        opened(tmp_path / "log")
    assert caught.value.exit_code == 4
    with opened(tmp_path / "log", repair=True) as log:
        assert log.tokens(0, len(log)) == [1, 2, 3]
        assert log.truncated == len(data) - bad.offset
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert kept.read_bytes() == data[bad.offset :]


def test_a_damaged_header_is_written_anew_on_repair_if_whole_frames_follow(tmp_path):
    data = bytearray(written(tmp_path / "log"))
    whole = bytes(data)
    data[20] ^= 8
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(DamagedLogError, match="its header, at byte 0, is damaged") as caught:
        opened(tmp_path / "log")
    assert caught.value.offset == caught.value.tokens == 0
    with opened(tmp_path / "log", repair=True) as log:
        assert log.tokens(0, len(log)) == ALL
    assert (tmp_path / "log").read_bytes() == whole
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert kept.read_bytes() == data[: token_frames.HEADER_BYTES]
    (tmp_path / "log").write_bytes(data[:40])
    with pytest.raises(DamagedLogError, match="it has 40 bytes"):
        opened(tmp_path / "log", repair=True)
    assert (tmp_path / "log").read_bytes() == data[:40]


def test_a_log_of_a_later_version_is_left_alone_by_repair_too(tmp_path):
    data = bytearray(written(tmp_path / "log"))
    data[8] = 9
    data[60:64] = zlib.crc32(data[:60]).to_bytes(4, "little")
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(StoreError, match="it has version 9, this program reads 1"):
        opened(tmp_path / "log", repair=True)
    assert (tmp_path / "log").read_bytes() == data


def test_a_whole_frame_with_an_id_out_of_the_vocabulary_is_damage(tmp_path):
    header = token_frames.pack_header(token_frames.Header(VOCAB, token_frames.digest_of("tokens-a")))
    good, bad = token_frames.pack_tokens(np.arange(3), 0), token_frames.pack_tokens(np.array([VOCAB]), 1)
    mark = token_frames.pack_synced(len(header + good + bad), 2)
    (tmp_path / "log").write_bytes(header + good + bad + mark)
    with pytest.raises(DamagedLogError, match=f"damaged at byte {len(header + good)}, after 3 tokens"):
        opened(tmp_path / "log")
    with opened(tmp_path / "log", repair=True) as log:
        assert log.tokens(0, len(log)) == [0, 1, 2]


def test_a_torn_frame_before_whole_ones_that_were_never_durable_is_a_torn_tail(tmp_path):
    """Power loss may keep a later write and lose an earlier one; nothing of it was acknowledged."""
    with opened(tmp_path / "log") as log:
        log.append([1, 2])
        log.sync()
    data = (tmp_path / "log").read_bytes()
    torn = bytearray(token_frames.pack_tokens(np.arange(9), 2))
    torn[30] ^= 1
    late = token_frames.pack_tokens(np.arange(5), 3)
    (tmp_path / "log").write_bytes(data + torn + late)
    with opened(tmp_path / "log") as log:
        assert log.tokens(0, len(log)) == [1, 2]
        assert log.truncated == len(torn) + len(late)


def test_a_frame_moved_or_repeated_is_detected(tmp_path):
    data = written(tmp_path / "whole")
    first, mark, second, *_ = frames_in(data)
    for changed in [
        data[: second.offset] + data[first.offset :],
        data[: first.offset] + data[second.offset :],
        data[: mark.end] + data[second.end :],
    ]:
        (tmp_path / "log").write_bytes(changed)
        with pytest.raises(StoreError, match="damaged at byte"):
            opened(tmp_path / "log")


@pytest.mark.parametrize("junk", [b"", b"short", b"x" * 64, b"MEGATOKS" + bytes(80)])
def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path, junk):
    (tmp_path / "log").write_bytes(junk)
    with pytest.raises(StoreError, match="cannot be read"):
        opened(tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == junk


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bytes_without_sense_raise_our_error_only(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "log"
    good = token_frames.pack_header(token_frames.Header(VOCAB, token_frames.digest_of("tokens-a")))
    junk = data.draw(st.lists(st.sampled_from([token_frames.WORD, b"\1\1\0\0", b"\0\0\0\0", b"\x08\0\0\0", b"ab"])))
    path.write_bytes(good + b"".join(junk))
    with opened(path, repair=True) as log:
        assert len(log) == 0


def test_damage_while_the_log_is_open_is_not_served(tmp_path):
    with opened(tmp_path / "log") as log:
        log.append([1, 2, 3])
        log.sync()
        with open(tmp_path / "log", "r+b") as file:
            file.seek(token_frames.HEADER_BYTES + token_frames.HEAD_BYTES)
            file.write(b"\x09")
        with pytest.raises(StoreError, match="damaged while it was open, at byte 64"):
            log.tokens(0, 3)


# A failing disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("turn", range(4))
def test_a_failing_disk_is_reported_and_the_conversation_goes_on_in_memory(tmp_path, monkeypatch, call, turn):
    log, real = opened(tmp_path / "log"), getattr(os, call)
    acknowledged = 0
    for number, group in enumerate(GROUPS):
        if number == turn:
            monkeypatch.setattr(os, call, _failing(real))
        log.append(group)
        if number < turn:
            log.sync()
            acknowledged = len(log)
        else:
            with pytest.raises(StoreError, match=r"cannot write the token log .* No space left"):
                log.sync()
    monkeypatch.undo()
    assert log.tokens(0, len(log)) == ALL
    log.close()
    with opened(tmp_path / "log") as again:
        assert acknowledged <= len(again)
        assert again.tokens(0, len(again)) == ALL[: len(again)]


def _failing(real):
    def fail(descriptor, data=None):
        if data is not None:
            real(descriptor, bytes(data)[: len(data) // 2])  # half of it gets through
        raise OSError(28, "No space left on device")

    return fail


def test_short_writes_are_carried_on(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:5]))
    written(tmp_path / "log")
    monkeypatch.undo()
    with opened(tmp_path / "log") as log:
        assert log.tokens(0, len(log)) == ALL


# kill -9 --------------------------------------------------------------------------------------------------------------

WRITER = """
import random, sys
from megacontext.tree.token_log import TokenLog
dice = random.Random(int(sys.argv[2]))
log = TokenLog.open(sys.argv[1], vocab=1 << 20, fingerprint="f")
print(len(log), flush=True)
while True:
    for _ in range(dice.randint(1, 3)):
        log.append(range(len(log), len(log) + dice.choice([1, 3, 40, 5000])))
    log.sync()
    print(len(log), flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_kill_9_loses_no_acknowledged_token(tmp_path):
    path, dice, acknowledged = tmp_path / "log", random.Random(1), 0
    for round_ in range(8):
        command = [sys.executable, "-c", WRITER, str(path), str(round_)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert int(writer.stdout.readline()) >= acknowledged
            time.sleep(dice.uniform(0, 0.03))
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        with TokenLog.open(path, vocab=1 << 20, fingerprint="f") as log:
            assert len(log) >= acknowledged
            tail = max(0, len(log) - 10_000)
            assert log.tokens(tail, len(log)) == list(range(tail, len(log)))
    assert acknowledged > 0


def test_what_was_flushed_survives_the_process_without_a_sync(tmp_path, monkeypatch):
    log, synced = opened(tmp_path / "log"), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(descriptor))
    log.append(ALL)
    log.flush()
    data = (tmp_path / "log").read_bytes()
    assert [f.tokens.tolist() for f in frames_in(data)] == [ALL]
    assert not synced
    log.sync()
    assert len(synced) == 1
    log.close()


def test_a_log_that_cannot_be_read_says_so(tmp_path, monkeypatch):
    written(tmp_path / "log")
    log = opened(tmp_path / "log")
    assert log.tokens(0, len(log)) == ALL  # as opening read them; from then on the file is asked

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", fail)
        with pytest.raises(StoreError, match=r"cannot read the token log .* Input/output error"):
            log.tokens(0, 1)
    log.close()
