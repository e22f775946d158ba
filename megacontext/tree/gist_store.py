"""Gists by span: the ones used last in memory, all of them in files, one a level, if there are any.

A frame holds keys and values in the model's number format, then the attention mass in float32. Without files all gists
stay in memory. A gist is derived: one that a file cannot give is not there, whoever wants it makes it again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from megacontext.arena import Page
from megacontext.errors import StoreError
from megacontext.gist.base import Gist
from megacontext.span import Grid, Span
from megacontext.tree.ctx_format import GISTS, Geometry
from megacontext.tree.frame_file import FrameFile
from megacontext.tree.page_codec import PageCodec, PageShape

IN_MEMORY = 2048  # gists that stay in memory beside their files


class GistFile:
    """The gists of one level, `shape.rows` slots each."""

    def __init__(self, frames: FrameFile, codec: PageCodec) -> None:
        self.frames, self.codec = frames, codec

    @staticmethod
    def geometry(codec: PageCodec) -> Geometry:
        shape = codec.shape
        mass = shape.layers * shape.kv_heads * shape.rows * 4
        return Geometry(GISTS, f"model:{codec.dtype}".replace("torch.", ""), *shape, codec.nbytes + mass)

    def write(self, number: int, gist: Gist, made_of: int) -> None:
        """made_of: checksum of its tokens. Raises StoreError when the disk fails."""
        page = self.codec.encode(Page(gist.keys, gist.values))
        self.frames.write(number, page + gist.mass.float().cpu().numpy().tobytes(), made_of)

    def read(self, number: int, made_of: int) -> Gist | None:
        """None: not there, damaged, or of other tokens. Raises StoreError when the disk fails."""
        payload = self.frames.read(number, made_of)
        if payload is None:
            return None
        shape: PageShape = self.codec.shape
        page = self.codec.decode(payload[: self.codec.nbytes])
        mass = torch.frombuffer(bytearray(payload[self.codec.nbytes :]), dtype=torch.float32)
        return Gist(page.keys, page.values, mass.view(shape.layers, shape.kv_heads, shape.rows))


class GistStore:
    """files: by level, from level 1; None where a level has no slots, or nothing is kept on disk.

    made_of: the checksum of a span's tokens; a gist of other ones in a file is none. failure: why nothing is written
    any more; what can be made again may leave memory all the same.
    """

    def __init__(self, grid: Grid, files: Sequence[GistFile | None] = ()) -> None:
        self.grid, self.nbytes = grid, 0
        self.made_of: Callable[[Span], int] = lambda _: 0
        self.failure: StoreError | None = None
        self._files = tuple(files)
        self._gists: OrderedDict[Span, Gist] = OrderedDict()
        self._borrowed = False  # a copy reads the files and writes nothing

    def get(self, span: Span) -> Gist | None:
        """The gist, or None: never kept, or lost."""
        gist = self._gists.get(span)
        if gist is not None:
            self._gists.move_to_end(span)
            return gist
        gist = self._read(span)
        if gist is not None:
            self._remember(span, gist)
        return gist

    def _read(self, span: Span) -> Gist | None:
        file = self._file(span)
        try:
            return None if file is None else file.read(self._number(span), self.made_of(span))
        except StoreError as error:
            self.failure = self.failure or error
            return None

    def put(self, span: Span, gist: Gist) -> None:
        """Keep a gist."""
        self._remember(span, gist)
        file = self._file(span)
        if file is None or self._borrowed or self.failure is not None:
            return
        try:
            file.write(self._number(span), gist, self.made_of(span))
        except StoreError as error:
            self.failure = error

    def held(self) -> list[tuple[Span, Gist]]:
        """Those in memory."""
        return list(self._gists.items())

    def _number(self, span: Span) -> int:
        """Its place in the file of its level."""
        return span.start // self.grid.width(span.level)

    def _file(self, span: Span) -> GistFile | None:
        return self._files[span.level - 1] if span.level <= len(self._files) else None

    def _remember(self, span: Span, gist: Gist) -> None:
        self._gists[span] = gist
        self.nbytes += gist.nbytes
        while not self._borrowed and self._file(span) is not None and len(self._gists) > IN_MEMORY:
            self.nbytes -= self._gists.popitem(last=False)[1].nbytes

    def copy(self) -> GistStore:
        """An independent store; gists, which never change, are shared."""
        twin = GistStore(self.grid, self._files)
        twin._gists, twin.nbytes, twin._borrowed = self._gists.copy(), self.nbytes, True
        twin.failure = self.failure
        return twin
