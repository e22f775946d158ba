"""All tokens but the newest: sorted segments side by side, merged in pairs so that there are few of them.

A segment covers a power of two times `unit` tokens, at a multiple of its own length; two neighbours of one length
become one. So n units stand in about log2(n) segments, and a token is copied as often. Merging goes in small pieces,
RATE records for each new token, small segments first: it is done long before the next pair is there.

    a unit sealed from the newest tokens    in memory
    anything longer                         a file in the folder; without one, in memory

A segment that proves damaged is made again from tokens. When the disk fails, `failure` says so; what is made from then
on stays in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megacontext.errors import StoreError
from megacontext.focus.lexical.folder import Wanted, discard, find_segments
from megacontext.focus.lexical.format import Head
from megacontext.focus.lexical.making import Making, in_pieces
from megacontext.focus.lexical.rebuild import Tokens, sorted_pieces
from megacontext.focus.lexical.records import LONGEST_SEGMENT
from megacontext.focus.lexical.segment import Segment, SegmentDamaged, merged

STEP = 2048  # records merged at a time: a fraction of a millisecond
RATE = 16  # records merged for each new token: as many levels can keep up
USUAL = 4  # units that any opening may have to make again

Progress = Callable[[int, int], None]  # tokens done, tokens in all


class Matches(NamedTuple):
    """counts: (rows,) matches of each row, newer ones included. places: row << 32 | position, of rows that tell."""

    counts: np.ndarray
    places: np.ndarray


class Archive:
    """segments: of the tokens [0, stop), in order. Begin with an empty one, or `open` a folder.

    damaged: files that could not be used. rebuilt: tokens indexed again. failure: why nothing is written any more.
    """

    def __init__(self, unit: int, folder: Path | None = None, digest: bytes = bytes(20)) -> None:
        self.unit = unit
        self.segments: list[Segment] = []
        self.damaged = self.rebuilt = 0
        self.failure: StoreError | None = None
        self._folder, self._digest = folder, digest
        self._tokens: Tokens | None = None
        self._progress: Progress | None = None
        self._making: dict[int, Making] = {}  # by first position
        self._fixed = 0  # segments that start before it are another's too, and stay as they are
        self._owed = 0  # records that should have been merged by now

    @property
    def stop(self) -> int:
        return self.segments[-1].stop if self.segments else 0

    def open(self, stop: int, end: int, tokens: Tokens, progress: Progress | None) -> None:
        """Have all tokens before `stop`, which is a multiple of the unit, and none from `end` on.

        What the folder does not have is made of `tokens`; progress hears of it if it is more than usual.
        """
        self._tokens, self._progress = tokens, progress
        found = self._find_segments(end, tokens)
        stop = max([stop, *(segment.stop for segment in found)])
        missing = stop - sum(map(len, found))
        tell = self._teller(missing)
        for segment in found:
            self.segments += [*self._make_again(self.stop, segment.start, tell), segment]
        self.segments += self._make_again(self.stop, stop, tell)
        if missing > USUAL * self.unit:
            while self._merge(wait=True):
                pass

    def _find_segments(self, end: int, tokens: Tokens) -> list[Segment]:
        if self._folder is None:
            return []
        try:
            found = find_segments(self._folder, Wanted(self.unit, self._digest, end, tokens))
        except OSError as error:
            self._give_up_disk(StoreError(f"{self._folder}: {error.strerror}. The index goes on in memory."))
            return []
        self.damaged += len(found.refused)
        return found.segments

    def seal(self, records: np.ndarray, newest: int) -> None:
        """A unit of records to follow. newest: checksum of their tokens."""
        head = Head(self.stop, len(records), self.unit, newest, self._digest)
        self.segments.append(Segment(head, np.sort(records)))

    # --- what is asked ---

    def look_up(self, bounds: np.ndarray, newer: np.ndarray, most: int) -> Matches:
        """Where rows occur. bounds: as records.bounds. newer: (rows,) how often outside of here. most: matches of a row
        that still tells something. Raises StoreError if a segment is damaged and cannot be made again.
        """
        while True:
            try:
                return self._look_up(bounds, newer, most)
            except SegmentDamaged as damage:
                self._mend(damage.segment)

    def _look_up(self, bounds: np.ndarray, newer: np.ndarray, most: int) -> Matches:
        if not self.segments:
            return Matches(newer, np.empty(0, np.int64))
        order = bounds.argsort()  # searches that go the same way find their way in the processor's cache
        found = np.empty((len(self.segments), len(bounds)), np.int64)
        for index, segment in enumerate(self.segments):
            found[index, order] = segment.find(bounds[order])
        low, high = found[:, : len(newer)], found[:, len(newer) :]
        width = high - low
        counts = newer + width.sum(0)
        return Matches(counts, self._places(low, width * (counts <= most)))

    def _places(self, low: np.ndarray, width: np.ndarray) -> np.ndarray:
        """row << 32 | position, for the records [low, low + width) of each segment and row."""
        segments, rows = width.nonzero()
        low, width = low[segments, rows], width[segments, rows]
        ends = width.cumsum()
        at = np.arange(width.sum()) + (low - ends + width).repeat(width)
        cuts = [0, *np.bincount(segments, width, len(self.segments)).cumsum().astype(int).tolist()]
        found = [segment.positions(at[a:b]) for segment, (a, b) in zip(self.segments, pairwise(cuts), strict=True)]
        return rows.repeat(width) << 32 | np.concatenate(found)

    # --- merging ---

    def work(self, tokens: int) -> None:
        """Merge as much as `tokens` new tokens ask for."""
        self._owed += RATE * tokens
        while self._owed >= STEP:
            done = self._merge()
            self._owed = self._owed - done if done else 0

    def _merge(self, *, wait: bool = False) -> int:
        """One piece of merging, or with `wait` all of one merge. Returns its records; 0 if there is none to do now."""
        for left, right in self._pairs():
            making = self._making.get(left.start) or self._begin(left, right)
            if making.waits and not wait:
                continue
            try:
                whole = making.finish() if wait else making.advance()
            except SegmentDamaged as damage:
                self._mend(damage.segment)
            except StoreError as error:
                self._give_up_disk(error)
            else:
                if whole is not None:
                    self._replace([left, right], [whole])
            return min(STEP, making.head.length)
        return 0

    def _pairs(self) -> list[tuple[Segment, Segment]]:
        """Neighbours that can become one, the shortest first. Without a folder, files stay as they are."""
        pairs = [
            (left, right)
            for left, right in pairwise(self.segments)
            if len(left) == len(right) <= LONGEST_SEGMENT // 2
            if left.start % (2 * len(left)) == 0 and left.start >= self._fixed
            if self._folder is not None or not (left.path or right.path)
        ]
        return sorted(pairs, key=lambda pair: len(pair[0]))

    def _begin(self, left: Segment, right: Segment) -> Making:
        head = Head(left.start, len(left) + len(right), self.unit, right.head.newest, self._digest)
        making = self._making[left.start] = Making(head, merged(left, right, STEP), self._folder)
        return making

    def _replace(self, old: list[Segment], new: list[Segment]) -> None:
        self._making.pop(old[0].start, None)
        at = self.segments.index(old[0])
        self.segments[at : at + len(old)] = new
        if self._folder is not None:
            for segment in old:
                discard(segment)

    # --- what went wrong ---

    def _mend(self, segment: Segment) -> None:
        """Make a damaged segment again. Raises StoreError if there are no tokens."""
        self.damaged += 1
        for start, making in list(self._making.items()):
            if start <= segment.start < making.head.stop:
                self._making.pop(start).cancel()
        if self._folder is not None:
            discard(segment)
        at = self.segments.index(segment)
        self.segments[at : at + 1] = self._make_again(segment.start, segment.stop, self._teller(len(segment)))

    def _teller(self, missing: int) -> Callable[[], None]:
        """Tells how many of the `missing` tokens were made again since now, if they are more than usual."""
        before = self.rebuilt

        def tell() -> None:
            if self._progress is not None and missing > USUAL * self.unit:
                self._progress(self.rebuilt - before, missing)

        return tell

    def _make_again(self, start: int, stop: int, tell: Callable[[], None]) -> list[Segment]:
        """Segments for [start, stop), of tokens."""
        if start == stop:
            return []
        if self._tokens is None:
            raise StoreError(f"the index of tokens {start} to {stop} is damaged, and there are no tokens to make it of")
        made = []
        for head, records in sorted_pieces(self._tokens, start, stop, unit=self.unit, digest=self._digest):
            made.append(self._kept(head, records))
            self.rebuilt += len(records)
            tell()
        return made

    def _kept(self, head: Head, records: np.ndarray) -> Segment:
        """As a segment, in the folder unless it is a single unit."""
        if self._folder is not None and head.length > self.unit:
            try:
                return Making(head, in_pieces(records), self._folder).finish()
            except StoreError as error:
                self._give_up_disk(error)
        return Segment(head, records)

    def _give_up_disk(self, error: StoreError) -> None:
        self.failure, self._folder = error, None
        self.close()

    # --- the rest ---

    @property
    def nbytes(self) -> int:
        """Bytes in memory; mapped files are not counted."""
        return sum(segment.nbytes for segment in self.segments) + sum(m.nbytes for m in self._making.values())

    @property
    def disk_bytes(self) -> int:
        """Bytes of the files in use."""
        return sum(segment.disk_bytes for segment in self.segments)

    def copy(self) -> Archive:
        """Another one over the same segments. It writes to no folder; what it adds is in memory."""
        twin = Archive(self.unit)
        twin.segments, twin._tokens, twin._fixed = list(self.segments), self._tokens, self.stop
        return twin

    def close(self) -> None:
        """Stop merging; what was being merged is merged again after the next opening. May be called twice."""
        for making in self._making.values():
            making.cancel()
        self._making.clear()
