"""A copied file is whole and private, its holes stay holes, and nothing is overwritten."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from nanochat import file_copy
from nanochat.file_copy import copy_file


@pytest.fixture(params=["cloned if possible", "copied"])
def way(request, monkeypatch):
    if request.param == "copied":
        monkeypatch.setattr(file_copy, "_clone", lambda *_: False)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("data", [b"", b"x", os.urandom(3 * file_copy.PIECE + 17)], ids=len)
def test_the_copy_has_the_same_bytes_and_is_the_owners(tmp_path, data):
    (tmp_path / "old").write_bytes(data)
    copy_file(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == data
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
        assert (tmp_path / "new").stat().st_nlink == 1


@pytest.mark.usefixtures("way")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="holes")
def test_holes_stay_holes(tmp_path):
    size = 64 << 20
    with open(tmp_path / "old", "wb") as file:
        file.seek(size // 2)
        file.write(b"middle")
        file.truncate(size)
    copy_file(tmp_path / "old", tmp_path / "new")
    copied = (tmp_path / "new").stat()
    assert copied.st_size == size
    assert 512 * copied.st_blocks <= 512 * (tmp_path / "old").stat().st_blocks
    with open(tmp_path / "new", "rb") as file:
        file.seek(size // 2 - 1)
        assert file.read(8) == b"\0middle\0"


def test_a_system_that_does_not_tell_of_holes_copies_all(tmp_path, monkeypatch):
    monkeypatch.setattr(file_copy, "_clone", lambda *_: False)
    monkeypatch.delattr(os, "SEEK_DATA", raising=False)
    (tmp_path / "old").write_bytes(b"abc")
    copy_file(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"abc"


def test_nothing_is_overwritten_and_no_link_is_followed(tmp_path):
    (tmp_path / "old").write_bytes(b"abc")
    (tmp_path / "new").write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        copy_file(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"kept"
    if hasattr(os, "O_NOFOLLOW"):
        (tmp_path / "link").symlink_to(tmp_path / "old")
        with pytest.raises(OSError, match="link"):
            copy_file(tmp_path / "link", tmp_path / "third")
