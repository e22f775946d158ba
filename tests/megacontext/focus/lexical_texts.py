"""Random histories, and stores beside the oracle that they must equal bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from megacontext.focus.lexical.records import NOTHING
from megacontext.focus.lexical_store import LexicalStore
from megacontext.testing.lexical_index import LexicalIndex

VOCABULARIES = (1, 2, 6, 60, 5000, NOTHING)


def history(seed: int, vocab: int, length: int) -> list[int]:
    """Random ids, and parts of what was said before."""
    rng = np.random.default_rng(seed)
    text: list[int] = []
    while len(text) < length:
        run = int(rng.integers(1, 30))
        start = int(rng.integers(0, len(text))) if text and rng.random() < 0.5 else None
        text += rng.integers(0, vocab, run).tolist() if start is None else text[start : start + run]
    return text[:length]


histories = st.builds(
    history, st.integers(0, 1 << 30), st.sampled_from(VOCABULARIES), st.one_of(st.integers(0, 80), st.integers(0, 900))
)
settings_of_index = st.fixed_dictionaries(
    {
        "block": st.integers(1, 40),
        "max_n": st.integers(1, 4),
        "max_matches": st.sampled_from([1, 2, 5, 64]),
        "edge": st.integers(0, 9),
        "window": st.sampled_from([1, 7, 40]),
    }
)
units = st.sampled_from([4, 16, 100, 512])
HOW: dict[str, Any] = {"block": 8, "max_n": 4, "max_matches": 20, "edge": 3, "window": 24}


class Pair:
    """A store and the oracle. text: their history."""

    def __init__(self, text: list[int], folder: Path | None = None, *, unit: int = 16, **how: Any) -> None:
        self.text, self.folder, self.unit = text, folder, unit
        self.how = how or HOW
        self.oracle = LexicalIndex(**self.how)
        self.store = self.open()

    @property
    def length(self) -> int:
        return self.oracle.length

    def open(self, folder: Path | None = None, **more: Any) -> LexicalStore:
        """A store over the history so far, from a folder's files."""
        where = self.folder if folder is None else folder
        return LexicalStore.open(where, self.length, self.tokens, "bytes", unit=self.unit, **self.how, **more)

    def tokens(self, start: int, stop: int) -> list[int]:
        assert 0 <= start <= stop <= self.length, "these are not known yet"
        return self.text[start:stop]

    def read(self, count: int) -> None:
        """The next tokens of the text."""
        new = self.text[self.length : self.length + count]
        self.store.add(new)
        self.oracle.add(new)

    def check(self, store: LexicalStore | None = None) -> None:
        """Same votes, to the last bit."""
        store = store or self.store
        assert store.length == self.oracle.length
        for kernel in (0.9 ** np.arange(self.how["window"]), np.ones(3), np.ones(self.how["window"] + 5)):
            expected, found = self.oracle.scores(kernel), store.scores(kernel)
            assert np.array_equal(expected[0], found[0])
            assert np.array_equal(expected[1].view(np.int64), found[1].view(np.int64))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.lex"))
