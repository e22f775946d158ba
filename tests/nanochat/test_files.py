"""Files that survive a crash: what is durable when, and what is cleared away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.files import FileLock, atomic_write, make_folder, read_json, remove_leftovers, write_json


@pytest.fixture
def synced(monkeypatch) -> list[str]:
    """Names of the files and folders that were synced, in order."""
    names: list[str] = []
    fsync, opened = os.fsync, os.open
    paths: dict[int, str] = {}

    def open_(path, *args, **options):
        descriptor = opened(path, *args, **options)
        paths[descriptor] = Path(os.fsdecode(path)).name
        return descriptor

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (names.append(paths[descriptor]), fsync(descriptor)))
    return names


@pytest.mark.skipif(os.name == "nt", reason="Windows has no sync of a folder")
def test_a_new_folders_name_is_durable_with_all_above_it(tmp_path, synced):
    (tmp_path / "root").mkdir()
    make_folder(tmp_path / "root" / "sessions" / "diary")
    assert sorted(synced) == ["root", "sessions"]
    make_folder(tmp_path / "root" / "sessions" / "diary")
    assert len(synced) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no sync of a folder")
def test_a_file_is_synced_before_it_is_moved_and_its_folder_after(tmp_path, synced):
    write_json(tmp_path / "a.json", [1])
    assert len(synced) == 2
    assert synced[0].startswith(".a.json.")
    assert synced[1] == tmp_path.name
    assert read_json(tmp_path / "a.json") == [1]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path):
    program = (
        "import os, signal, sys; from pathlib import Path; from nanochat.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as file: file.write(b'x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")])
    (tmp_path / ".keep.tmp").write_text("somebody else's")
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".keep.tmp"]


def test_one_lock_at_a_time_and_its_owner_is_told(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    assert second.owner() == str(os.getpid())
    first.release()
    assert second.acquire()
    second.release()


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_folders_above_are_private_too(tmp_path):
    make_folder(tmp_path / "a" / "b" / "c")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/c")] == [0o700] * 3
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")
