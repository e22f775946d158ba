"""A new session, or a copy of one, is there whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from session_toys import VOCAB, add, begin, filled

from megacontext.errors import ConfigError, StoreError
from megacontext.session import Turn
from megacontext.sessions import making
from megacontext.sessions.copying import copy_session
from megacontext.sessions.making import MadeWith, free_name, write_session

MADE = MadeWith(VOCAB, "bytes", "toy", "w")
ROOT = Path(__file__).resolve().parents[3]


ONE = (Turn(0, 5, "user"),)


def written(root, name="new", total=5, turns=ONE, **options):
    write_session(root, name, MADE, lambda start, stop: range(start, stop), total, turns, **options)


def names(root):
    return sorted(os.listdir(root))


def test_a_written_session_opens_as_if_it_had_been_said(tmp_path):
    written(tmp_path / "root")
    with begin(tmp_path / "root", "new") as session:
        assert session.tokens(0, 5) == [0, 1, 2, 3, 4]
        assert session.turns == (Turn(0, 5, "user"),)
    assert names(tmp_path / "root") == ["new"]


def test_a_long_session_is_written_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "PIECE", 7)
    written(tmp_path, total=100, turns=())
    with begin(tmp_path, "new") as session:
        assert session.tokens(0, 100) == list(range(100))


def test_a_name_that_is_taken_is_refused_with_the_way_out(tmp_path):
    written(tmp_path)
    with pytest.raises(ConfigError, match=r"session new already: choose another name, or open that one \(/load new"):
        written(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="already"):
        written(tmp_path, "empty")


@pytest.mark.parametrize("name", ["", "..", ".new-1", "a/b", "x" * 65])
def test_a_name_that_is_not_plain_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="not usable"):
        written(tmp_path / "root", name)
    assert names(tmp_path) == []


def test_a_free_name_has_a_number_and_stays_within_64_letters(tmp_path):
    assert free_name(tmp_path, "talk") == "talk"
    for name in ("talk", "talk-2", "x" * 64):
        (tmp_path / name).mkdir()
    assert free_name(tmp_path, "talk") == "talk-3"
    assert free_name(tmp_path, "x" * 64) == "x" * 62 + "-2"


def fail(folder):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("options", [{"more": fail}, {"total": 300}, {"turns": [Turn(3, 9, "user")]}])
def test_what_fails_leaves_nothing(tmp_path, options):
    with pytest.raises((StoreError, ValueError)):
        written(tmp_path, **options)
    assert names(tmp_path) == []


def test_what_appeared_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(StoreError, match="by another process meanwhile"):
        written(tmp_path, more=lambda _: (tmp_path / "new").mkdir())
    assert names(tmp_path) == ["new"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("moment", ["more", "moved"])
def test_a_crash_leaves_no_half_session_and_is_cleared_away(tmp_path, moment):
    program = f"""
        import os, signal, sys
        from pathlib import Path
        from megacontext.session import Turn
        from megacontext.sessions import making
        def die(*_): os.kill(os.getpid(), signal.SIGKILL)
        if {moment!r} == "moved": os.rename = die
        more = die if {moment!r} == "more" else None
        made_with = making.MadeWith({VOCAB}, "bytes")
        making.write_session(Path(sys.argv[1]), "new", made_with, lambda a, b: range(a, b),
                             5, [Turn(0, 5, "user")], more=more)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert [name for name in names(tmp_path) if not name.startswith(".")] == []
    written(tmp_path)
    assert names(tmp_path) == ["new"]


def derive(folder):
    (folder / "pages.ctx").write_bytes(b"pages")
    (folder / "view.snap").write_bytes(b"view")
    (folder / "lexical").mkdir()
    (folder / "lexical" / "0-64.seg").write_bytes(b"segment")
    for name in (".view.snap.1.tmp", "some.lock", "lexical/.x.tmp"):
        (folder / name).write_bytes(b"not this")
    (folder / "quarantine").mkdir()
    (folder / "quarantine" / "tail").write_bytes(b"nor this")


def test_a_copy_goes_on_as_the_original_would_and_leaves_it_alone(tmp_path):
    flushed = []
    with filled(tmp_path) as session:
        derive(session.folder)
        copy_session(session, tmp_path, "fork", MADE, flush=lambda: flushed.append(True))
        total, turns = len(session), session.turns
        with begin(tmp_path, "fork") as fork:
            assert fork.tokens(0, total) == session.tokens(0, total)
            assert fork.turns == turns
            add(fork, "user", [1, 2])
            (fork.folder / "pages.ctx").write_bytes(b"other")
        assert (len(session), session.turns) == (total, turns)
    assert flushed == [True]
    assert (tmp_path / "talk" / "pages.ctx").read_bytes() == b"pages"
    found = sorted(path.relative_to(tmp_path / "fork").as_posix() for path in (tmp_path / "fork").rglob("*"))
    assert found == [
        "lexical",
        "lexical/0-64.seg",
        "pages.ctx",
        "session.json",
        "tokens.log",
        "tokens.log.lock",
        "turns.jsonl",
        "view.snap",
    ]


@pytest.mark.skipif(os.name == "nt", reason="links and permissions")
def test_a_copy_is_the_owners_and_takes_no_link_along(tmp_path):
    (tmp_path / "secret").write_text("s")
    with filled(tmp_path / "root") as session:
        derive(session.folder)
        (session.folder / "means.ctx").symlink_to(tmp_path / "secret")
        copy_session(session, tmp_path / "root", "fork", MADE, flush=lambda: None)
    fork = tmp_path / "root" / "fork"
    assert not (fork / "means.ctx").exists()
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in [fork, *fork.rglob("*")]}
    assert modes == {True: 0o700, False: 0o600}


def test_an_ephemeral_session_can_be_kept(tmp_path):
    with begin(tmp_path, None, ephemeral=True) as session:
        add(session, "user", [1, 2, 3])
        copy_session(session, tmp_path, "kept", MADE)
    with begin(tmp_path, "kept") as session:
        assert session.tokens(0, 3) == [1, 2, 3]


def test_what_a_full_disk_kept_in_memory_is_in_the_copy(tmp_path, monkeypatch):
    session = filled(tmp_path)
    total = len(session)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        session.append([7])
        with pytest.raises(StoreError):
            session.sync()
    copy_session(session, tmp_path, "rescued", MADE)
    session.close()
    with begin(tmp_path, "rescued") as rescued:
        assert rescued.tokens(total, total + 1) == [7]
