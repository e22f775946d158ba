"""A conversation's folder: reopened it is the same, and it never leaves its root."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import ConfigError, StoreError
from megacontext.session import Session, Turn, latest_session, parse_turns


def opened(root, name="talk", **options) -> Session:
    return Session.open(root, name, **{"vocab": 100, "fingerprint": "smol/tok", "model": "smol"} | options)


def say(session: Session, role: str, tokens: list[int]) -> None:
    start = len(session)
    session.append(tokens)
    session.add_turn(role, start, len(session))
    session.sync()


def test_a_reopened_session_has_its_tokens_and_turns(tmp_path):
    with opened(tmp_path) as session:
        say(session, "user", [1, 2, 3])
        say(session, "assistant", [4])
    with opened(tmp_path) as session:
        assert session.tokens(0, len(session)) == [1, 2, 3, 4]
        assert session.turns == (Turn(0, 3, "user"), Turn(3, 4, "assistant"))
        say(session, "user", [5])
    with opened(tmp_path) as session:
        assert session.turns[2:] == (Turn(4, 5, "user"),)
    info = json.loads((tmp_path / "talk" / "session.json").read_text())
    assert {key: info[key] for key in ("name", "model", "vocab")} == {"name": "talk", "model": "smol", "vocab": 100}


def test_closing_keeps_what_was_not_synced(tmp_path):
    with opened(tmp_path) as session:
        session.append([7])
        session.add_turn("user", 0, 1)
    with opened(tmp_path) as session:
        assert (session.tokens(0, 1), session.turns) == ([7], (Turn(0, 1, "user"),))


def test_without_a_name_a_new_session_begins(tmp_path):
    names = set()
    for _ in range(2):
        with opened(tmp_path, None) as session:
            names.add(session.name)
            say(session, "user", [1])
    assert len(names) == len(os.listdir(tmp_path)) == 2
    assert latest_session(tmp_path) == session.name
    assert latest_session(tmp_path / "nowhere") is None


def test_an_ephemeral_session_leaves_no_trace(tmp_path):
    with opened(tmp_path, ephemeral=True) as session:
        say(session, "user", [1, 2])
        assert session.tokens(0, 2) == [1, 2]
        assert session.turns == (Turn(0, 2, "user"),)
        assert session.folder is None
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "..", "...", "a/b", "../x", "/tmp/x", "a b", "x" * 65, "a\n", "é", "a\\b"])
def test_a_name_that_is_not_plain_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="is not usable"):
        opened(tmp_path / "root", name)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="links and permissions")
def test_a_link_out_of_the_root_is_refused_and_files_are_the_owners(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "root" / "talk").symlink_to(tmp_path / "out")
    with pytest.raises(ConfigError, match="no link out of"):
        opened(tmp_path / "root")
    with opened(tmp_path / "new" / "root") as session:
        say(session, "user", [1])
        assert {stat.S_IMODE(path.stat().st_mode) for path in session.folder.iterdir()} == {0o600}
        assert stat.S_IMODE(session.folder.stat().st_mode) == 0o700


def test_another_tokenizer_is_refused_in_words(tmp_path):
    opened(tmp_path).close()
    with pytest.raises(StoreError, match=r"made with fingerprint 'smol/tok' \(model 'smol'\), this model has 'other'"):
        opened(tmp_path, fingerprint="other")
    with pytest.raises(StoreError, match="made with vocab 100"):
        opened(tmp_path, vocab=99)
    (tmp_path / "talk" / "session.json").unlink()
    with pytest.raises(StoreError, match="written with another tokenizer"):
        opened(tmp_path, fingerprint="other")


def test_a_second_session_is_told_who_has_the_first(tmp_path):
    with opened(tmp_path), pytest.raises(StoreError, match=f"process {os.getpid()}"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('[0, 2, "user"]\n[2, 3, "assi', 1),
        ('[0, 2, "user"]\n[2, 9, "assistant"]\n', 1),
        ('[0, 2, "user"]\n[1, 3, "assistant"]\n[3, 3, "user"]\n', 1),
        ('{"a": 1}\n', 0),
        ("[[[[\n", 0),
        ('[0, 2, "<|bos|>"]\n', 0),
        ("\x00\x00", 0),
    ],
)
def test_turns_that_make_no_sense_are_cut_off(tmp_path, text, kept):
    with opened(tmp_path) as session:
        session.append([1, 2, 3])
    (tmp_path / "talk" / "turns.jsonl").write_text(text)
    for _ in range(2):
        with opened(tmp_path) as session:
            assert session.turns == (Turn(0, 2, "user"),)[:kept]
    good = len('[0, 2, "user"]\n') * kept
    (aside,) = (tmp_path / "talk" / "quarantine").iterdir()
    assert aside.name.startswith(f"turns.jsonl.{good}.")
    assert aside.read_text() == text[good:]


def test_a_flipped_bit_in_a_line_ends_the_turns_before_it(tmp_path):
    with opened(tmp_path) as session:
        for at in range(3):
            say(session, "user" if at % 2 else "assistant", [at] * 20)
        turns, folder = session.turns, session.folder
    data = (folder / "turns.jsonl").read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            found, good = parse_turns(bytes(changed), 60)
            assert tuple(found) == turns[: len(found)]
            assert good <= at


def test_session_json_is_believed_as_a_whole_or_not_at_all(tmp_path):
    opened(tmp_path).close()
    path = tmp_path / "talk" / "session.json"
    data = path.read_bytes()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 7
        path.write_bytes(changed)
        with suppress(ValueError):
            if json.loads(changed) == json.loads(data):
                continue  # white space
        with pytest.raises(StoreError):
            opened(tmp_path)
    path.write_bytes(data)
    opened(tmp_path).close()


def test_a_session_json_of_before_it_had_a_checksum_is_read(tmp_path):
    opened(tmp_path).close()
    path = tmp_path / "talk" / "session.json"
    info = json.loads(path.read_bytes())
    del info["check"]
    path.write_text(json.dumps(info))
    opened(tmp_path).close()


def test_turns_that_a_full_disk_tore_are_written_again_whole(tmp_path, monkeypatch):
    session = opened(tmp_path)
    say(session, "user", [1])
    session.append([2])
    session.add_turn("assistant", 1, 2)
    session.log.sync()
    with monkeypatch.context() as patch:
        patch.setattr("megacontext.tree.turn_file.pack_turn", lambda turn: b"[1, 2")
        patch.setattr(os, "fsync", _full)
        with pytest.raises(StoreError, match="The tokens are safe"):
            session.sync()
    say(session, "user", [3])
    session.close()
    with opened(tmp_path) as session:
        assert session.turns == (Turn(0, 1, "user"), Turn(1, 2, "assistant"), Turn(2, 3, "user"))
        assert not (tmp_path / "talk" / "quarantine").exists()


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_what_crashes_left_half_written_is_cleared_away(tmp_path):
    opened(tmp_path).close()
    folder = tmp_path / "talk"
    left = folder / ".view.snap.4711.0a1b2c3d.tmp"
    mine = folder / ".notes.tmp"
    for path in (left, mine):
        path.write_bytes(b"x")
    opened(tmp_path).close()
    assert not left.exists()
    assert mine.exists()


def test_damage_before_the_tail_is_answered_with_the_command_that_mends_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened(Path("all my") / "sessions") as session:
        say(session, "user", [1, 2, 3])
        say(session, "assistant", [4, 5])
    log = tmp_path / "all my" / "sessions" / "talk" / "tokens.log"
    data = bytearray(log.read_bytes())
    data[90] ^= 1
    log.write_bytes(data)
    with pytest.raises(StoreError) as caught:
        opened(Path("all my") / "sessions")
    assert caught.value.exit_code == 4
    assert "tokens.log is damaged at byte 64, after 0 tokens" in str(caught.value)
    assert str(caught.value).endswith("python -m tools.inspect_memory 'all my/sessions/talk' --repair")
    assert log.read_bytes() == data


def test_a_log_that_is_gone_is_not_replaced_by_an_empty_one(tmp_path):
    with opened(tmp_path) as session:
        say(session, "user", [1, 2, 3])
    (tmp_path / "talk" / "tokens.log").unlink()
    with pytest.raises(StoreError, match="is missing, and with it the session's tokens"):
        opened(tmp_path)
    assert not (tmp_path / "talk" / "tokens.log").exists()


def test_turns_of_tokens_that_were_lost_are_dropped(tmp_path):
    with opened(tmp_path) as session:
        say(session, "user", [1, 2, 3])
        say(session, "assistant", [4, 5])
    log = tmp_path / "talk" / "tokens.log"
    log.write_bytes(log.read_bytes()[:-35])
    with opened(tmp_path) as session:
        assert session.log.truncated
        assert session.turns == (Turn(0, 3, "user"),)


@pytest.mark.parametrize(("start", "stop", "role"), [(0, 4, "user"), (-1, 1, "user"), (2, 1, "user"), (0, 1, "A b")])
def test_a_turn_lies_within_the_tokens(tmp_path, start, stop, role):
    with opened(tmp_path, ephemeral=True) as session:
        session.append([1, 2, 3])
        with pytest.raises(ValueError, match="does not lie in"):
            session.add_turn(role, start, stop)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_a_session_file_without_sense_raises_our_error_only(tmp_path_factory, junk):
    root = tmp_path_factory.mktemp("fuzz")
    (root / "talk").mkdir()
    (root / "talk" / "session.json").write_bytes(junk)
    with pytest.raises(StoreError):
        opened(root)


def test_a_full_disk_is_said_once_and_the_conversation_goes_on(tmp_path, monkeypatch):
    session = opened(tmp_path)
    say(session, "user", [1])

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    session.append([2])
    with pytest.raises(StoreError, match="kept in memory only"):
        session.sync()
    session.append([3])
    assert session.tokens(0, 3) == [1, 2, 3]
    session.close()
