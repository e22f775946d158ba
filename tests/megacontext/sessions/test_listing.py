"""Sessions are read as they lie on disk: nothing is locked, changed or followed out of its folder."""

from __future__ import annotations

import os
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_toys import add, begin, filled

from megacontext.errors import StoreError
from megacontext.session import TURNS_LIMIT, latest_session
from megacontext.sessions.listing import list_sessions
from megacontext.sessions.stored import TAIL_LIMIT, read_session


def touch(folder, when):
    os.utime(folder / "tokens.log", (when, when))


def test_sessions_are_listed_the_last_written_to_first(tmp_path):
    filled(tmp_path, "old").close()
    filled(tmp_path, "new").close()
    begin(tmp_path, "empty").close()
    touch(tmp_path / "old", 1000)
    touch(tmp_path / "new", 2000)
    new, old = list_sessions(tmp_path)
    assert (new.name, old.name) == ("new", "old")
    assert (old.turns, old.model, old.written, old.damage) == (3, "toy", 1000, "")
    assert old.tokens == len(read_session(tmp_path / "old").tokens) > 10
    assert old.bytes > 4 * old.tokens
    assert latest_session(tmp_path) == "new"
    assert list_sessions(tmp_path / "nowhere") == []


def test_an_open_session_is_read_up_to_its_last_sync(tmp_path):
    with filled(tmp_path) as session:
        whole = len(session)
        session.append([1])
        found = read_session(session.folder)
        assert found.tokens.tolist() == session.tokens(0, whole)
        assert found.turns == session.turns


def test_reading_changes_nothing_and_tells_what_is_torn(tmp_path):
    filled(tmp_path).close()
    folder = tmp_path / "talk"
    log = folder / "tokens.log"
    log.write_bytes(log.read_bytes() + b"torn")
    with open(folder / "turns.jsonl", "ab") as file:
        file.write(b"[9")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = read_session(folder)
    assert "4 bytes of an unfinished write" in found.damage
    assert "2 bytes of turns.jsonl" in found.damage
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_damage_before_the_tail_is_told_and_listed(tmp_path):
    with filled(tmp_path) as session:
        add(session, "user", [1] * 50)
    log = tmp_path / "talk" / "tokens.log"
    data = bytearray(log.read_bytes())
    data[100] ^= 1
    log.write_bytes(data)
    (info,) = list_sessions(tmp_path)
    assert "damaged at byte 64" in info.damage
    log.write_bytes(b"junk")
    (info,) = list_sessions(tmp_path)
    assert "cannot be read" in info.damage


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_links_are_no_sessions_and_no_files_of_one(tmp_path):
    filled(tmp_path / "out").close()
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "out" / "talk")
    assert list_sessions(root) == []
    assert latest_session(root) is None
    (root / "half").mkdir()
    (root / "half" / "tokens.log").symlink_to(tmp_path / "out" / "talk" / "tokens.log")
    (info,) = list_sessions(root)
    assert "never links" in info.damage
    with pytest.raises(StoreError, match="never links"):
        begin(root, "half")


def test_what_is_being_made_is_not_listed(tmp_path):
    filled(tmp_path / ".new-12").close()
    filled(tmp_path, "talk").close()
    os.rename(tmp_path / "talk", tmp_path / ".hidden")
    assert list_sessions(tmp_path) == []
    assert latest_session(tmp_path) is None


@pytest.mark.skipif(os.name == "nt", reason="a file of holes")
def test_an_endless_tail_is_not_read_into_memory(tmp_path):
    filled(tmp_path).close()
    with open(tmp_path / "talk" / "tokens.log", "r+b") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    assert "bytes of an unfinished write" in read_session(tmp_path / "talk").damage
    assert tracemalloc.get_traced_memory()[1] < 4 * TAIL_LIMIT
    tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_a_pipe_is_no_file_of_a_session(tmp_path):
    filled(tmp_path).close()
    (tmp_path / "talk" / "turns.jsonl").unlink()
    os.mkfifo(tmp_path / "talk" / "turns.jsonl")
    with pytest.raises(StoreError, match="no plain file"):
        read_session(tmp_path / "talk")
    with pytest.raises(StoreError, match="is a pipe or a device"):
        begin(tmp_path)


def test_turns_beyond_all_measure_are_not_read(tmp_path):
    filled(tmp_path).close()
    with open(tmp_path / "talk" / "turns.jsonl", "r+b") as file:
        file.truncate(TURNS_LIMIT + 1)
    with pytest.raises(StoreError, match="at most"):
        read_session(tmp_path / "talk")
    with pytest.raises(StoreError, match="at most"):
        begin(tmp_path)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["session.json", "tokens.log", "turns.jsonl"]), st.binary(max_size=200), st.integers(0, 300))
def test_files_without_sense_raise_our_error_only(tmp_path_factory, name, junk, place):
    root = tmp_path_factory.mktemp("fuzz")
    filled(root).close()
    path = root / "talk" / name
    data = path.read_bytes()
    path.write_bytes(data[:place] + junk + data[place + len(junk) :])
    with suppress(StoreError):
        read_session(root / "talk")
    assert len(list_sessions(root)) <= 1
