"""Pages in one file: a frame file whose frames are encoded pages. A damaged page is one that is not there.

Knows nothing of memory, tiers and models.
"""

from __future__ import annotations

from pathlib import Path

from megacontext.arena import Page
from megacontext.tree import ctx_format as ctx
from megacontext.tree.frame_file import FrameFile
from megacontext.tree.page_codec import PageCodec


class PageFile:
    """Use `open`."""

    def __init__(self, frames: FrameFile, codec: PageCodec) -> None:
        self.frames, self.codec = frames, codec

    @classmethod
    def open(cls, path: Path | str, codec: PageCodec, *, fingerprint: str, writable: bool = True) -> PageFile:
        """Open the file, or begin it. fingerprint: of the model that computes the pages. Raises as FrameFile.open."""
        return cls(FrameFile.open(path, geometry_of(codec), fingerprint=fingerprint, writable=writable), codec)

    def write(self, number: int, page: Page, made_of: int = 0) -> None:
        """Put a page at its place. made_of: checksum of its tokens. Raises StoreError when the disk fails."""
        self.frames.write(number, self.codec.encode(page), made_of)

    def read(self, number: int, made_of: int | None = None) -> Page | None:
        """The page, or None: never written, forgotten, torn, damaged, or of other tokens. Raises as FrameFile.read."""
        payload = self.frames.read(number, made_of)
        return None if payload is None else self.codec.decode(payload)


def geometry_of(codec: PageCodec) -> ctx.Geometry:
    """What the frames of a page file hold."""
    encoding = f"model:{codec.dtype}".replace("torch.", "") if codec.kind == "model" else codec.kind
    return ctx.Geometry(ctx.PAGES, encoding, *codec.shape, codec.nbytes)
