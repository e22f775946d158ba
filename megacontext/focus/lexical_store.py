"""An index over all of history, and votes: which blocks hold what came next the last time.

Every n-gram (1 to 4 tokens) that ends in the recent text looks up where it ended before; each such match votes for the
block that holds the token *after* the match (the successor vote of dev/LOG.md; lexical/votes.py says what a vote
weighs). n-grams with more than `max_matches` matches say nothing.

    newest tokens    a dictionary, of bounded size        (lexical/newest.py)
    all others       sorted segments, in a folder's files  (lexical/archive.py)

What it holds in memory and what a token costs does not grow with history, but for the logarithm of segments. All of it
can be made again from tokens: `open` uses what a folder has and makes the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megacontext.errors import StoreError
from megacontext.focus.lexical.archive import Archive, Progress
from megacontext.focus.lexical.format import checksum_of_tokens, digest_of
from megacontext.focus.lexical.newest import Newest
from megacontext.focus.lexical.rebuild import Tokens, read_text
from megacontext.focus.lexical.records import (
    CONTEXT,
    LONGEST,
    NOTHING,
    bounds,
    checked,
    contexts,
    make_records,
)
from megacontext.focus.lexical.votes import Votes

UNIT = 4096  # tokens sealed at once
TOGETHER = 256  # most tokens looked up together


class Matches(NamedTuple):
    """Where n-grams stood before: (m,) each, one for a match.

    rows: which of the tokens that were looked up the n-gram ends with. grams: n. counts: matches of the n-gram in all.
    places: position of its last token.
    """

    rows: np.ndarray
    grams: np.ndarray
    counts: np.ndarray
    places: np.ndarray

    def where(self, wanted: np.ndarray) -> Matches:
        """Some of them. wanted: (m,) whether."""
        return Matches(*(part[wanted] for part in self))


class LexicalStore:
    """block: tokens a block. window: votes of the last `window` tokens are kept. edge: what counts as near the end.

    unit: tokens of the smallest segment. A new one is empty and in memory; `open` brings one back.
    """

    def __init__(
        self, block: int, *, max_n: int = 4, max_matches: int = 64, edge: int = 8, window: int = 256, unit: int = UNIT
    ) -> None:
        if block < 1 or max_matches < 1 or edge < 0 or window < 1 or unit < CONTEXT or not 1 <= max_n <= CONTEXT:
            raise ValueError(
                f"an index needs block, max_matches and window of at least 1, unit of at least {CONTEXT}, max_n of 1 "
                f"to {CONTEXT}; not {block}, {max_matches}, {window}, {unit}, {max_n}"
            )
        self.max_n, self.max_matches, self.window, self.unit = max_n, max_matches, window, unit
        self.length = 0
        self._foreseen: tuple[int, int] | None = None  # the one token that is expected, and where
        self._archive = Archive(unit)
        self._votes = Votes(block, edge=edge, window=window, max_n=max_n, most=max_matches)
        self._text = np.full(CONTEXT - 1 + unit + 2 * window + TOGETHER, NOTHING, np.uint32)
        self._begin(self._text[: CONTEXT - 1])

    @classmethod
    def open(
        cls,
        folder: Path | str | None,
        length: int,
        tokens: Tokens,
        fingerprint: str,
        *,
        block: int,
        max_n: int = 4,
        max_matches: int = 64,
        edge: int = 8,
        window: int = 256,
        unit: int = UNIT,
        progress: Progress | None = None,
    ) -> LexicalStore:
        """The index of a history of `length` tokens, as if they had been added one by one.

        folder: of its segments, which nobody else may write to; None keeps them in memory. tokens(start, stop): ids of
        history, asked for at once and whenever a damaged file must be made again. fingerprint: of the tokenizer.
        progress(done, all): called while more tokens are indexed again than on every opening.
        Raises StoreError if `tokens` does not give what it should.
        """
        store = cls(block, max_n=max_n, max_matches=max_matches, edge=edge, window=window, unit=unit)
        store._archive = Archive(unit, None if folder is None else Path(folder), digest_of(fingerprint))
        sealed = max(length - 2 * window, 0) // unit * unit
        store._archive.open(sealed, max(length - window, 0), tokens, progress)
        sealed = store._archive.stop
        text = read_text(tokens, sealed, length)
        store._begin(text[: CONTEXT - 1])
        store._take(text[CONTEXT - 1 : max(len(text) - window, CONTEXT - 1)])
        store.add(text[max(len(text) - window, CONTEXT - 1) :])
        return store

    def _begin(self, before: np.ndarray) -> None:
        """Nothing but segments yet. before: (3,) the tokens before the newest."""
        self._text[: CONTEXT - 1] = before
        self._filled = CONTEXT - 1
        self.length = self._archive.stop
        self._newest = Newest(self.max_n, self.max_matches)

    # --- adding ---

    def add(self, tokens: Iterable[int]) -> None:
        """Let each token vote with the history before it, then index it. Raises ValueError for what is no token.

        Raises StoreError if a file is damaged and `tokens` cannot tell what was in it; `length` says what is added.
        """
        ids = checked(tokens)
        if self.length + len(ids) > LONGEST:
            raise ValueError(f"an index holds at most {LONGEST} tokens, not {self.length} and {len(ids)} more")
        for at in range(0, len(ids), TOGETHER):
            self._add(ids[at : at + TOGETHER])

    def expect(self, tokens: Iterable[int]) -> None:
        """Let tokens that are about to come vote, without indexing them: what they ask for can be there when they come.

        Their votes hold until the next `add` or `expect`, but for one token that comes as expected. At most TOGETHER of
        them, the newest, are looked up.
        """
        ids = checked(tokens)[-TOGETHER:]
        self._foreseen = None
        text = np.concatenate([self._text[self._filled - (CONTEXT - 1) : self._filled], ids])
        found = contexts(text)
        counts, places = self._newest.look_up(found.astype(np.uint32).tobytes())
        self._votes.expect(self.length, *self._matches(found, np.array(counts, np.int64), np.array(places, np.int64)))
        self._foreseen = (self.length, int(ids[0])) if len(ids) == 1 else None

    def look_up(self, ids: Iterable[int]) -> Matches:
        """Where the n-grams of some tokens stand in history, those that tell something. Nothing votes."""
        text = np.concatenate([np.full(CONTEXT - 1, NOTHING, np.uint32), checked(ids)])
        found = contexts(text)
        newer, listed = self._newest.look_up(found.astype(np.uint32).tobytes())
        counts, places = self._matches(found, np.array(newer, np.int64), np.array(listed, np.int64))
        rows, grams = places >> 32, (places >> 32) % self.max_n + 1
        matches = Matches(rows // self.max_n, grams, counts[rows], places & (LONGEST - 1))
        return matches.where(grams <= matches.rows + 1)  # what stands before them is not asked for

    def _add(self, ids: np.ndarray) -> None:
        length = self.length
        foreseen = len(ids) == 1 and self._foreseen == (length, int(ids[0]))
        self._foreseen = None
        try:
            found, newer, listed = self._take(ids)
            matches = None if foreseen else self._matches(found, newer, listed)
        except BaseException:
            self._forget(length)
            raise
        if matches is None:  # one token finds what it found when it was expected
            self._votes.keep_expected()
        else:
            self._votes.add(length, *matches)
        while self.length - self._archive.stop >= self.unit + 2 * self.window:
            self._seal()
        self._archive.work(len(ids))

    def _matches(self, found: np.ndarray, newer: np.ndarray, listed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What Votes wants: matches of each row, and where, among the newest and in the archive."""
        counts, places = self._archive.look_up(bounds(found, self.max_n), newer, self.max_matches)
        rows = np.repeat(np.arange(len(newer), dtype=np.int64), np.where(newer <= self.max_matches, newer, 0))
        tells = counts[rows] <= self.max_matches
        places = np.concatenate([places, rows[tells] << 32 | listed[tells]])
        places.sort()
        return counts, places

    def _take(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Index the next tokens: (their contexts, how often each row came among the newest, where), as Newest says."""
        filled = self._filled + len(ids)
        self._text[self._filled : filled] = ids
        found = contexts(self._text[self._filled - (CONTEXT - 1) : filled])
        counts, places = self._newest.look_up_and_post(found.astype(np.uint32).tobytes(), self.length)
        self._filled, self.length = filled, self.length + len(ids)
        return found, np.array(counts, np.int64), np.array(places, np.int64)

    def _forget(self, length: int) -> None:
        """Go back to a length after `_take` or amid it."""
        filled = CONTEXT - 1 + length - self._archive.stop
        text = self._text[CONTEXT - 1 : filled].copy()
        self._begin(self._text[: CONTEXT - 1])
        self._take(text)

    def _seal(self) -> None:
        """The oldest unit of the newest tokens becomes a segment."""
        text = self._text[: CONTEXT - 1 + self.unit]
        rest = self._text[len(text) : self._filled].copy()
        records = make_records(contexts(text), np.arange(self.unit))
        self._archive.seal(records, checksum_of_tokens(text[-self.unit :]))
        self._begin(text[1 - CONTEXT :].copy())
        self._take(rest)

    # --- what is asked ---

    def scores(self, kernel: np.ndarray, *, alone: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(blocks, scores): what the last len(kernel) tokens ask for, as `Votes.scores`. alone: they are a question."""
        return self._votes.scores(kernel, alone=alone)

    def asked(self, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, blocks, votes): what each word of a question gives each block, as `Votes.asked`."""
        return self._votes.asked(kernel)

    @property
    def weighed(self) -> int:
        """Votes that were asked for so far."""
        return self._votes.weighed

    @property
    def damaged(self) -> int:
        """Files that could not be used so far."""
        return self._archive.damaged

    @property
    def failure(self) -> StoreError | None:
        """Why nothing is written any more; the index goes on in memory."""
        return self._archive.failure

    @property
    def nbytes(self) -> int:
        """Bytes in memory, a close estimate. Mapped files are not counted: the system drops them when it likes."""
        return self._archive.nbytes + self._newest.nbytes + self._votes.nbytes + self._text.nbytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of files in use."""
        return self._archive.disk_bytes

    # --- the rest ---

    def copy(self) -> LexicalStore:
        """An independent index with the same contents, for a fork: it shares segments, and writes to no folder."""
        twin = LexicalStore.__new__(LexicalStore)
        twin.__dict__ = {
            **self.__dict__,
            "_archive": self._archive.copy(),
            "_newest": self._newest.copy(),
            "_votes": self._votes.copy(),
            "_text": self._text.copy(),
        }
        return twin

    def close(self) -> None:
        """Let go of unfinished work in the folder. May be called twice."""
        self._archive.close()
