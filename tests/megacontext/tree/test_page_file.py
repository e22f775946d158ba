"""Pages in a file: whatever happens to the bytes, a page that is read is one that was written."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.arena import Page
from megacontext.errors import StoreError
from megacontext.tree import ctx_format as ctx
from megacontext.tree.page_codec import PageCodec, PageShape
from megacontext.tree.page_file import PageFile, geometry_of

SHAPE = PageShape(2, 1, 4, 8)
CODEC = PageCodec(SHAPE, torch.float32)


def page(seed: int) -> Page:
    rng = torch.Generator().manual_seed(seed)
    return Page(*(torch.randn(*SHAPE, generator=rng) for _ in range(2)))


def same(one: Page | None, other: Page | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


def opened(path: Path, **options) -> PageFile:
    return PageFile.open(path, CODEC, **{"fingerprint": "model 1", **options})


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["write", "forget", "reopen"]), st.integers(0, 6)), max_size=30))
def test_a_file_is_a_dict_of_pages_across_reopening(tmp_path_factory, steps):
    path, oracle = tmp_path_factory.mktemp("pages") / "pages.ctx", {}
    file = opened(path)
    for at, (what, number) in enumerate(steps):
        if what == "write":
            oracle[number] = page(at)
            file.write(number, oracle[number])
        elif what == "forget":
            oracle.pop(number, None)
            file.frames.forget(number)
        else:
            file.frames.close()
            file = opened(path)
        for each in range(8):
            assert same(file.read(each), oracle.get(each))
            assert file.frames.has(each) == (each in oracle)
    assert file.frames.damaged == 0
    file.frames.close()


def test_a_frame_cut_anywhere_is_not_there(tmp_path):
    path = tmp_path / "pages.ctx"
    with_two = opened(path)
    with_two.write(0, page(0))
    with_two.write(1, page(1))
    with_two.frames.close()
    whole = path.read_bytes()
    end = ctx.ALIGN + with_two.frames.geometry.stride
    last = end + ctx.FRAME_HEAD + with_two.frames.geometry.payload
    for size in range(end, last, 7):
        path.write_bytes(whole[:size])
        file = opened(path)
        assert same(file.read(0), page(0))
        assert file.read(1) is None
        file.frames.close()


def test_a_flipped_bit_never_gives_another_page(tmp_path):
    path, rng = tmp_path / "pages.ctx", Random(0)
    file = opened(path)
    file.write(0, page(0))
    file.frames.close()
    whole = bytearray(path.read_bytes())
    for at in [*range(ctx.ALIGN, ctx.ALIGN + ctx.FRAME_HEAD), *rng.sample(range(ctx.ALIGN, len(whole)), 60)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        file = opened(path)
        assert file.read(0) is None
        assert file.frames.damaged == 1
        file.frames.close()


def test_a_frame_at_another_place_is_not_taken_for_the_one_there(tmp_path):
    path = tmp_path / "pages.ctx"
    file = opened(path)
    file.write(3, page(3))
    offset, stride = file.frames.geometry.offset, file.frames.geometry.stride
    data = path.read_bytes()[offset(3) : offset(3) + stride]
    with path.open("r+b") as raw:
        raw.seek(offset(1))
        raw.write(data)
    assert file.read(1) is None
    assert same(file.read(3), page(3))
    file.frames.close()


@pytest.mark.parametrize(
    ("codec", "fingerprint", "reason"),
    [
        (CODEC, "model 2", "another model"),
        (PageCodec(SHAPE._replace(rows=8), torch.float32), "model 1", "another shape"),
        (PageCodec(SHAPE, torch.float32, "int8"), "model 1", "another shape or encoding"),
        (PageCodec(SHAPE, torch.bfloat16), "model 1", "another shape or encoding"),
    ],
)
def test_pages_that_something_else_made_are_never_used(tmp_path, codec, fingerprint, reason):
    path = tmp_path / "pages.ctx"
    file = opened(path)
    file.write(0, page(0))
    file.frames.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=reason):
        PageFile.open(path, codec, fingerprint=fingerprint)
    assert path.read_bytes() == before


def test_every_flipped_bit_of_the_header_is_found(tmp_path):
    path = tmp_path / "pages.ctx"
    opened(path).frames.close()
    whole = path.read_bytes()
    for at in range(ctx.HEADER_BYTES):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(StoreError, match=r"damaged|no \.ctx file"):
                opened(path)
    for size in range(1, ctx.HEADER_BYTES):
        path.write_bytes(whole[:size])
        with pytest.raises(StoreError, match="a header takes 64"):
            opened(path)


def test_opening_costs_the_same_however_many_pages_there_are(tmp_path, monkeypatch):
    reads: list[int] = []
    pread = os.pread
    monkeypatch.setattr("megacontext.tree.frame_file._pread", lambda d, n, o: reads.append(n) or pread(d, n, o))
    file = opened(tmp_path / "pages.ctx")
    for number in range(40):
        file.write(number, page(number))
    file.frames.close()
    reads.clear()
    assert opened(tmp_path / "pages.ctx").frames.places == 40
    assert reads == [ctx.HEADER_BYTES]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="only some systems give parts of a file back")
def test_a_forgotten_page_gives_its_bytes_back(tmp_path):
    file = PageFile.open(tmp_path / "p.ctx", PageCodec(PageShape(4, 2, 32, 64), torch.float32), fingerprint="m")
    rng = torch.Generator().manual_seed(0)
    for number in range(8):
        file.write(number, Page(*(torch.randn(4, 2, 32, 64, generator=rng) for _ in range(2))))
    file.frames.sync()
    before = file.frames.disk_bytes
    for number in range(4):
        file.frames.forget(number)
    file.frames.sync()
    assert file.frames.disk_bytes <= before - 4 * file.frames.geometry.payload
    assert file.read(5) is not None
    file.frames.close()


def test_only_its_owner_may_read_it_and_a_reader_writes_nothing(tmp_path):
    path = tmp_path / "pages.ctx"
    file = opened(path)
    file.write(0, page(0))
    file.frames.close()
    assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    reader = opened(path, writable=False)
    assert same(reader.read(0), page(0))
    with pytest.raises(StoreError, match="cannot be written"):
        reader.write(1, page(1))
    reader.frames.close()
    assert path.read_bytes() == before
    with pytest.raises(StoreError, match="cannot be opened"):
        opened(tmp_path / "nothing.ctx", writable=False)


def test_a_disk_that_fails_is_said_with_the_files_name(tmp_path, monkeypatch):
    file = opened(tmp_path / "pages.ctx")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("megacontext.tree.frame_file._pwrite", full)
    with pytest.raises(StoreError, match=r"pages\.ctx: cannot be written \(No space left"):
        file.write(0, page(0))
    file.frames.close()


def test_a_disk_that_cannot_be_read_is_said_with_the_files_name(tmp_path, monkeypatch):
    file = opened(tmp_path / "pages.ctx")
    file.write(0, page(0))

    def bad(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("megacontext.tree.frame_file._pread", bad)
        for read in (file.read, file.frames.has):
            with pytest.raises(StoreError, match=r"pages\.ctx: cannot be read at byte 4,096 \(Input/output error\)"):
                read(0)
        with pytest.raises(StoreError, match="cannot be read at byte 0"):
            opened(tmp_path / "pages.ctx")
    assert same(file.read(0), page(0))
    file.frames.close()


def test_a_short_write_goes_on(tmp_path, monkeypatch):
    file = opened(tmp_path / "pages.ctx")
    pwrite = os.pwrite
    monkeypatch.setattr("megacontext.tree.frame_file._pwrite", lambda d, data, o: pwrite(d, data[:100], o))
    file.write(2, page(2))
    assert same(file.read(2), page(2))
    file.frames.close()


def test_the_stride_is_whole_blocks_of_the_file_system():
    geometry = geometry_of(CODEC)
    assert geometry.stride % 4096 == 0
    assert geometry.stride >= ctx.FRAME_HEAD + CODEC.nbytes


def test_a_page_of_other_tokens_is_not_there(tmp_path):
    file = opened(tmp_path / "pages.ctx")
    file.write(3, page(3), 77)
    assert file.read(3, 78) is None
    assert file.frames.damaged == 1
    assert same(file.read(3, 77), page(3))
    assert same(file.read(3), page(3))
    assert file.frames.made_of(3) == 77
    file.frames.close()
