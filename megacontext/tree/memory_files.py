"""The derived files of a memory, beside the session's token log. All of them can be made again from tokens.

    <session>/pages.ctx    the blocks' pages                (page_file, page_store)
              gists-N.ctx  the gists of level N             (gist_store)
              means.ctx    vectors of the semantic scorer   (focus/mean_store)
              view.snap    where everything stands          (kept_states, snapshot)
              turn.snap    where it stood at a turn's end

A file that another model, number format or setting made is set aside by deleting it: `made_anew` says which and why.
Kept states are written when the tokens and the pages they speak of are there, so that a crash between loses neither,
and say which tokens these were: a log whose end was lost may have grown again.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from megacontext.config import PagesConfig
from megacontext.errors import StoreError
from megacontext.span import Grid
from megacontext.tree import snapshot
from megacontext.tree.ctx_format import Geometry
from megacontext.tree.frame_file import FrameFile
from megacontext.tree.gist_store import GistFile, GistStore
from megacontext.tree.kept_states import KeptStates
from megacontext.tree.memory_log import MemoryLog
from megacontext.tree.page_codec import PageCodec, PageShape
from megacontext.tree.page_file import PageFile, geometry_of
from megacontext.tree.page_store import PageStore
from nanochat.hook import BaseModel, ModelSpec

PAGES_NAME, MEANS_NAME = "pages.ctx", "means.ctx"
VIEW_NAME, TURN_NAME = "view.snap", "turn.snap"


@runtime_checkable
class Keepable(Protocol):
    """A memory that can be kept and brought back."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def can_be_kept(self) -> bool: ...

    @property
    def failure(self) -> StoreError | None: ...

    def state(self) -> snapshot.State: ...

    def restore(self, state: snapshot.State, tokens: Sequence[int] | np.ndarray, model: BaseModel) -> None: ...

    def reset(self) -> None: ...


class MemoryFiles:
    """folder: the session's, or None: then pages are in memory alone, under the same budget of bytes.

    log: the session's; None: a kept state is believed whatever the tokens are. made_anew: (file, why) of what could not
    be used.
    """

    def __init__(
        self, folder: Path | None, spec: ModelSpec, block: int, config: PagesConfig, *, log: MemoryLog | None = None
    ) -> None:
        self.folder, self.config, self.log = folder, config, log
        self._states = None if folder is None else KeptStates(folder / VIEW_NAME, folder / TURN_NAME)
        self._summed, self._sum = 0, 0  # crc32 of so many of the log's tokens
        self.made_anew: list[tuple[str, str]] = []
        self._spec, self._block = spec, block
        self._opened: list[FrameFile] = []
        shape = PageShape(len(spec.memory_layers), spec.kv_heads, block, spec.head_dim)
        self._codec = PageCodec(shape, spec.dtype, config.dtype)
        self.pages = self._open_pages()
        self._gists: tuple[GistStore, tuple[Grid, Sequence[int], str]] | None = None  # and what it was made with

    def _open_pages(self) -> PageStore:
        if self.folder is None:
            return PageStore(ram_bytes=self.config.ram_bytes)
        file = PageFile(self._frames(PAGES_NAME, geometry_of(self._codec)), self._codec)
        return PageStore(ram_bytes=self.config.ram_bytes, file=file, disk_bytes=self.config.disk_bytes)

    def means(self, geometry: Geometry) -> FrameFile | None:
        """The file of the semantic scorer's vectors."""
        return None if self.folder is None else self._frames(MEANS_NAME, geometry)

    def gists(self, grid: Grid, slots: Sequence[int], maker: str) -> GistStore:
        """Where gists of so many slots a level are kept. maker: the fingerprint of who makes them."""
        files = [self._gist_file(level, count, maker) for level, count in enumerate(slots, 1)]
        store = GistStore(grid, files if self.folder is not None else ())
        self._gists = store, (grid, slots, maker)
        return store

    def _gist_file(self, level: int, slots: int, maker: str) -> GistFile | None:
        if self.folder is None or not slots:
            return None
        codec = PageCodec(self._codec.shape._replace(rows=slots), self._codec.dtype)
        return GistFile(self._frames(f"gists-{level}.ctx", GistFile.geometry(codec), maker), codec)

    def _frames(self, name: str, geometry: Geometry, maker: str = "") -> FrameFile:
        """Open a file, or begin it anew where it cannot be used."""
        assert self.folder is not None
        path, fingerprint = self.folder / name, f"{self._spec.fingerprint} {maker}".strip()
        try:
            file = FrameFile.open(path, geometry, fingerprint=fingerprint)
        except StoreError as error:
            if not path.is_file():
                raise
            self.made_anew.append((name, str(error)))
            path.unlink()
            file = FrameFile.open(path, geometry, fingerprint=fingerprint)
        self._opened.append(file)
        return file

    # --- keeping ---

    def keep(self, memory: object, *, turn_end: bool = False) -> None:
        """Write a memory's state, once its pages are on disk, without waiting for that. A newer one replaces it.

        turn_end: its tokens are durable, so it is what a power cut leaves. A plain cache has nothing to keep.
        """
        states = self._states
        if states is None or not isinstance(memory, Keepable) or not memory.can_be_kept:
            return
        state = {**memory.state(), "turn_end": turn_end}
        if self.log is not None:
            try:
                self.log.flush()
                state["tokens"] = self._sum_of(int(state["length"]))
            except StoreError:
                return  # the log tells at its next sync
        data = snapshot.pack(state, memory.fingerprint)
        self.pages.afterwards(lambda: states.write(data, turn_end=turn_end))

    def _sum_of(self, length: int) -> int:
        """crc32 of the log's first `length` tokens, u32 little-endian."""
        assert self.log is not None
        if length < self._summed:
            self._summed = self._sum = 0
        return self._add_to_sum(self.log.array(self._summed, length))

    def _add_to_sum(self, tokens: Sequence[int] | np.ndarray) -> int:
        """The checksum with the tokens that follow."""
        self._sum = zlib.crc32(np.asarray(tokens, "<u4").tobytes(), self._sum)
        self._summed += len(tokens)
        return self._sum

    def bring_back(self, memory: object, tokens: Sequence[int] | np.ndarray, model: BaseModel) -> str:
        """Let an empty memory stand where it was kept; `tokens` is the whole log, the rest is the caller's to feed.

        Returns "" or why the newest state could not be used: then the memory stands where an earlier one says, or is
        empty.
        """
        if self._states is None or not isinstance(memory, Keepable):
            return ""
        first = ""
        for name, state, why in self._states.read(memory.fingerprint):
            if state is not None:
                why = self._take_up(state, memory, tokens, model)
                if not why:
                    self._states.taken_up(name, turn_end=bool(state.get("turn_end")))
                    break
            self._states.refuse(name)
            first = first or why
        return first

    def _take_up(
        self, state: snapshot.State, memory: Keepable, tokens: Sequence[int] | np.ndarray, model: BaseModel
    ) -> str:
        """Returns "" or why not; the memory is empty then."""
        try:
            length = int(state["length"])
            if length > len(tokens):
                return f"it speaks of {length} tokens, the log has {len(tokens)}"
            self._summed = self._sum = 0
            if self._add_to_sum(tokens[:length]) != state.get("tokens") and self.log is not None:
                return "it speaks of other tokens than the log has"
            memory.restore(state, tokens[:length], model)
        except Exception as error:  # a file from outside, taken apart by everything that a memory has: it fails anyhow
            memory.reset()
            return f"what it says makes no sense ({error})"
        return ""

    def write_to(self, folder: Path, memory: object) -> None:
        """Write what a memory without a folder holds to `folder`, as if it had been kept there: pages and gists that it
        has, and where it stands. Pages that it gave up are not there. Raises StoreError when the disk fails.
        """
        there = MemoryFiles(folder, self._spec, self._block, self.config, log=self.log)
        there.pages.made_of = self.pages.made_of
        try:
            for number, page in self.pages.held():
                there.pages.put(number, page)
            if self._gists is not None:
                here, made_with = self._gists
                gists = there.gists(*made_with)
                gists.made_of = here.made_of
                for span, gist in here.held():
                    gists.put(span, gist)
            there.keep(memory, turn_end=True)
            there.flush()
        finally:
            there.close()

    def failure_of(self, memory: object) -> StoreError | None:
        """Why the memory's pages or indexes are not written any more."""
        return memory.failure if isinstance(memory, Keepable) else self.pages.failure

    def flush(self) -> None:
        """Everything kept is in its files. Raises StoreError if it cannot be."""
        self.pages.flush()

    def close(self) -> None:
        """Write what is left and let go. May be called twice."""
        self.pages.close()
        for file in self._opened:
            file.close()
