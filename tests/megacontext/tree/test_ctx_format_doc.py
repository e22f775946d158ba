"""docs/ctx_format.md against the code: every table of bytes is a struct's, every dump of bytes is what the code writes.

A table stands under `<!-- struct: module.NAME + module.NAME -->`, a dump under `<!-- bytes: name -->`.
"""

from __future__ import annotations

import importlib
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from megacontext.arena import Page
from megacontext.focus.lexical_store import LexicalStore
from megacontext.session import Session
from megacontext.sessions.stored import read_session
from megacontext.tree import ctx_format, legacy_ctx, snapshot
from megacontext.tree.memory_files import MEANS_NAME, PAGES_NAME, TURN_NAME, VIEW_NAME
from megacontext.tree.page_codec import PageCodec, PageShape
from megacontext.tree.page_file import PageFile

DOC = Path(__file__).resolve().parents[3] / "docs" / "ctx_format.md"
TEXT = DOC.read_text(encoding="utf-8")
MODULES = {
    "token_frames": "megacontext.tree.token_frames",
    "ctx_format": "megacontext.tree.ctx_format",
    "snapshot": "megacontext.tree.snapshot",
    "lexical": "megacontext.focus.lexical.format",
    "legacy_ctx": "megacontext.tree.legacy_ctx",
}
FIELD = re.compile(r"(\d*)([a-zA-Z])")
ROW = re.compile(r"\| *(\d+) \| *(\d+) \|")


def fields(formats: list[str]) -> Iterator[tuple[int, int]]:
    """(first byte, bytes) of each field; a run of pad bytes is one field."""
    at = 0
    for text in formats:
        assert text[0] == "<", text
        for count, kind in FIELD.findall(text[1:]):
            sizes = [int(count or 1)] if kind in "sx" else [struct.calcsize(f"<{kind}")] * int(count or 1)
            for size in sizes:
                yield at, size
                at += size


def under(marker: str, name: str) -> str:
    """The lines that follow `<!-- marker: name -->`, up to the first blank one behind them."""
    after = TEXT.split(f"<!-- {marker}: {name} -->\n", 1)[1]
    return after.lstrip("\n").split("\n\n", 1)[0]


TABLES = re.findall(r"<!-- struct: (.+?) -->", TEXT)
DUMPS = re.findall(r"<!-- bytes: (.+?) -->", TEXT)


@pytest.mark.parametrize("names", TABLES)
def test_a_table_of_bytes_is_that_of_the_code(names: str) -> None:
    formats = []
    for name in names.split(" + "):
        module, attribute = name.split(".")
        formats.append(getattr(importlib.import_module(MODULES[module]), attribute).format)
    told = [(int(at), int(size)) for at, size in ROW.findall(under("struct", names))]
    assert told == list(fields(formats))


def test_every_struct_of_a_stored_format_has_a_table() -> None:
    for short, module in MODULES.items():
        found = importlib.import_module(module)
        for name, value in vars(found).items():
            if isinstance(value, struct.Struct) and value.size > 4:
                assert any(f"{short}.{name}" in table.split(" + ") for table in TABLES), f"{short}.{name}"


# Bytes that the code writes -------------------------------------------------------------------------------------------


def _log(folder: Path) -> bytes:
    with Session.open(folder, "s", vocab=49152, fingerprint="a tokenizer") as session:
        session.append([1, 2, 40_000])
        session.sync()
    assert read_session(folder / "s").tokens.tolist() == [1, 2, 40_000]
    return (folder / "s" / "tokens.log").read_bytes()


def _page() -> Page:
    numbers = torch.arange(1, 9, dtype=torch.float32)
    return Page(numbers[:4].view(1, 1, 2, 2), numbers[4:].view(1, 1, 2, 2))


def _pages(folder: Path) -> bytes:
    file = PageFile.open(folder / "p", PageCodec(PageShape(1, 1, 2, 2), torch.float32), fingerprint="a model")
    file.write(1, _page())
    file.frames.close()
    return (folder / "p").read_bytes()


def _int4(folder: Path) -> bytes:
    return PageCodec(PageShape(1, 1, 2, 2), torch.float32, "int4").encode(_page())


def _segment(folder: Path) -> bytes:
    ids = [5, 6] * 8
    store = LexicalStore.open(folder, len(ids), lambda a, b: ids[a:b], "a tokenizer", block=4, window=1, unit=4)
    store.close()
    return (folder / "000000000000-000000000008.lex").read_bytes()


def _snapshot(folder: Path) -> bytes:
    return snapshot.pack({"length": 3, "tail": np.arange(2, dtype=np.int64)}, "a memory")


def _legacy(name_at: int) -> bytes:
    head = bytearray(struct.pack("<IHHHHH", 0x4D434354, 1, 0, 32, 2048, 0).ljust(64, b"\0"))
    head[name_at : name_at + 10] = b"SmolLM3-3B"
    if name_at == 22:
        head[14:22] = struct.pack("<Q", 2)
    data = bytes(head) + struct.pack("<II", 7, 9)
    assert legacy_ctx.read_header(data, len(data)).counted == (name_at == 22)
    return data


MADE: dict[str, Callable[[Path], bytes]] = {
    "tokens.log": _log,
    "pages.ctx": _pages,
    "a page as int4": _int4,
    "a segment": _segment,
    "view.snap": _snapshot,
    "earlier, named": lambda folder: _legacy(14),
    "earlier, counted": lambda folder: _legacy(22),
}


def dumped(text: str) -> Iterator[tuple[int, bytes]]:
    """(first byte, bytes) of each line of a dump."""
    for line in text.splitlines():
        if found := re.match(r"([0-9a-f]{8})  ((?:[0-9a-f]{2} {0,2})+)", line):
            yield int(found[1], 16), bytes.fromhex(found[2])


@pytest.mark.parametrize("name", DUMPS)
def test_a_dump_of_bytes_is_what_the_code_writes(name: str, tmp_path: Path) -> None:
    data, lines = MADE[name](tmp_path), list(dumped(under("bytes", name)))
    assert lines
    for at, told in lines:
        assert data[at : at + len(told)].hex(" ") == told.hex(" "), f"from byte {at}"


def test_every_example_is_in_the_document() -> None:
    assert sorted(DUMPS) == sorted(MADE)


def test_names_and_numbers_in_the_text_are_those_of_the_code() -> None:
    for name in (PAGES_NAME, MEANS_NAME, VIEW_NAME, TURN_NAME):
        assert f"`{name}`" in TEXT
    listed = dict(re.findall(r"^\| (\d) \| `(.+?)` \|", under("list", "encodings"), re.M))
    assert listed == {str(number): name for number, name in enumerate(ctx_format.ENCODINGS)}
