"""Files written by hand from the published descriptions of the earlier .ctx layouts, read back."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import StoreError
from megacontext.tree.legacy_ctx import read_header, read_legacy

TOKENS = np.arange(70, dtype=np.uint32) * 691
GISTS = torch.linspace(-2, 2, 5 * 8).view(5, 8)
NAME = b"SmolLM3-3B"


def named(level: int, width: int, code: int) -> bytes:
    """Magic, version, level, block, width, dtype; the name at byte 14, 18 zeros at byte 46."""
    head = bytearray(64)
    head[0:4] = (0x4D434354).to_bytes(4, "little")
    for at, value in zip((4, 6, 8, 10, 12), (1, level, 32, width, code), strict=True):
        head[at : at + 2] = value.to_bytes(2, "little")
    head[14 : 14 + len(NAME)] = NAME
    return bytes(head)


def counted(level: int, width: int, code: int, entries: int) -> bytes:
    """The same up to byte 14; there the number of entries, the name at byte 22, 10 zeros at byte 54."""
    head = bytearray(named(level, width, code)[:14].ljust(64, b"\0"))
    head[14:22] = entries.to_bytes(8, "little")
    head[22 : 22 + len(NAME)] = NAME
    return bytes(head)


@pytest.mark.parametrize("with_count", [False, True])
def test_tokens_of_level_0_come_back(tmp_path, with_count):
    head = counted(0, 2048, 0, len(TOKENS)) if with_count else named(0, 2048, 0)
    (tmp_path / "LOD0.ctx").write_bytes(head + TOKENS.astype("<u4").tobytes())
    header, entries = read_legacy(tmp_path / "LOD0.ctx")
    assert header == (0, 32, 2048, "uint32", 70, "SmolLM3-3B", with_count)
    assert entries.tolist() == TOKENS.tolist()
    place = 64 + (2 * 32 + 5) * 4  # block 2, token 5: the notes' arithmetic
    assert struct.unpack_from("<I", (tmp_path / "LOD0.ctx").read_bytes(), place)[0] == entries[2 * 32 + 5]


@pytest.mark.parametrize("with_count", [False, True])
@pytest.mark.parametrize(("code", "dtype"), [(1, torch.float16), (2, torch.bfloat16), (3, torch.float32)])
@pytest.mark.parametrize("level", [1, 2])
def test_gists_come_back_in_every_number_format(tmp_path, level, code, dtype, with_count):
    head = counted(level, 8, code, 5) if with_count else named(level, 8, code)
    gists = GISTS.to(dtype)
    (tmp_path / "a.ctx").write_bytes(head + gists.view(torch.uint8).numpy().tobytes())
    header, entries = read_legacy(tmp_path / "a.ctx")
    assert (header.level, header.entries, header.counted) == (level, 5, with_count)
    assert torch.equal(torch.from_numpy(entries), gists.float())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: b"MCCT" + data[4:], "does not begin with"),
        (lambda data: data[:40], "does not begin with"),
        (lambda data: data[:4] + b"\2" + data[5:], "version 2"),
        (lambda data: data[:6] + b"\3" + data[7:], "level 3"),
        (lambda data: data[:8] + b"\0\0" + data[10:], "block 0"),
        (lambda data: data[:12] + b"\1" + data[13:], "dtype 1"),
        (lambda data: data[:12] + b"\4" + data[13:], "dtype 4"),
        (lambda data: data[:-1], "are not what its header says"),
        (lambda data: data[:60] + b"\1" + data[61:], "are not what its header says"),
        (lambda data: data[:14] + b"\xff\xfe" + data[16:], "can't decode|makes no sense"),
    ],
)
def test_what_does_not_fit_the_description_is_refused(tmp_path, change, why):
    (tmp_path / "a.ctx").write_bytes(change(named(0, 0, 0) + TOKENS.tobytes()))
    with pytest.raises(StoreError, match=why):
        read_legacy(tmp_path / "a.ctx")


def test_a_counted_file_that_lost_its_end_is_not_taken_for_a_named_one(tmp_path):
    (tmp_path / "a.ctx").write_bytes(counted(0, 0, 0, 200_000) + TOKENS.tobytes())
    with pytest.raises(StoreError, match="model's name makes no sense"):
        read_legacy(tmp_path / "a.ctx")


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=60, max_size=60), st.integers(0, 1 << 70))
def test_bytes_without_sense_raise_value_errors_only(rest, size):
    data = (0x4D434354).to_bytes(4, "little") + rest
    try:
        header = read_header(data, size)
    except ValueError:
        return
    assert header.entries >= 0
