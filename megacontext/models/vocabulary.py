"""Vocabulary: what the ids of a tokenizer are as words, for whoever looks words up. Knows no model and no index.

Byte-pair tokenizers have several ids for one word: with and without a space before it, with a capital or none (" Bill",
"Bill", " bill"). Of one of these they may make several: " Emma" is one id, at the beginning of a line it is "E", "mma".
Whoever asks about a word rarely writes it as it stood, so an index of words should not tell them apart: a piece that
goes on with a word stands for all of the word so far.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from megacontext.models.text import TextModel

CLOSING = "\"')]}\u201d\u2019"  # what may stand between a stop and the next sentence
STOPS = frozenset(".!?\u3002\uff01\uff1f")  # the full-width ones end sentences too
SPELLED = 6  # newest pieces of a word that say which it is
ROOM = (1 << 21) - 1  # folded ids are below


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """All (V,), by id. same: int64, one id for all that differ in case and in white space around them alone.

    words: whether it has a letter. ends: whether a sentence, a line or, with a special, a turn ends with it. last: the
    letters that it ends with, lower-case; only such that have a case, because other scripts have words without spaces
    between them. inner: whether it is of these alone, so that it may go on with a word. known: id of each word that is
    one piece.
    """

    same: np.ndarray
    words: np.ndarray
    ends: np.ndarray
    last: tuple[str, ...]
    inner: np.ndarray
    known: dict[str, int]

    def fold(self, ids: np.ndarray | Sequence[int], before: np.ndarray | Sequence[int] = ()) -> np.ndarray:
        """(n,) ids -> the ids that stand for them. before: those that they follow, of which SPELLED count.

        What goes on with a word has the id of the word so far, if that is one piece, else one of its own: beyond the
        tokenizer's, from a checksum, so that two words may share one in a million times. An id that the tokenizer does
        not have stays as it is.
        """
        given = np.asarray(ids, np.int64)
        there = given < len(self.same)
        folded = self.same[given] if there.all() else np.where(there, self.same[given * there], given)
        text = np.concatenate([np.asarray(before, np.int64)[-SPELLED:], given])
        goes_on, first = self._goes_on(text), len(text) - len(given)
        for at in np.flatnonzero(goes_on[first:]).tolist():
            folded[at] = self._id(self._spelled(text, goes_on, first + at))
        return folded

    def _goes_on(self, text: np.ndarray) -> np.ndarray:
        """(n,) whether each goes on with the word of the one before it."""
        found = np.zeros(len(text), bool)
        text = text.clip(max=len(self.same))  # the entry after the last: what the tokenizer does not have
        found[1:] = self._joins[0][text[1:]] & self._joins[1][text[:-1]]
        return found

    @cached_property
    def _joins(self) -> tuple[np.ndarray, np.ndarray]:
        """(V + 1,) each: whether it may go on with a word, whether a word may go on after it; none beyond the last."""
        return np.append(self.inner, False), np.array([*map(bool, self.last), False])

    def _spelled(self, text: np.ndarray, goes_on: np.ndarray, at: int) -> str:
        """The word whose piece stands at `at`, up to there; of a long one the newest SPELLED pieces."""
        start = at
        while goes_on[start] and at - start < SPELLED - 1:
            start -= 1
        return "".join(self.last[token] for token in text[start : at + 1].tolist())

    def _id(self, word: str) -> int:
        own, size = self.known.get(word), len(self.same)
        return size + zlib.crc32(word.encode()) % max(ROOM - size, 1) if own is None else own

    def is_word(self, ids: np.ndarray) -> np.ndarray:
        """(n,) whether each has a letter."""
        return self.words[ids.clip(max=len(self.words) - 1)]

    def is_whole(self, ids: np.ndarray) -> np.ndarray:
        """(n,) whether the word that each is a piece of, if it is one of a word, ends with it."""
        return ~np.append(self._goes_on(ids)[1:], np.zeros(len(ids[:1]), bool))

    def is_end(self, ids: np.ndarray) -> np.ndarray:
        """(n,) whether something ends with each."""
        return self.ends[ids.clip(max=len(self.ends) - 1)]

    @cached_property
    def fingerprint(self) -> str:
        """Of which ids are taken for the same."""
        return f"{zlib.crc32(self.same.tobytes()):08x} spelled"


_made: dict[tuple[str, int], Vocabulary] = {}  # by tokenizer: a process has one or two


def vocabulary_of(text: TextModel) -> Vocabulary:
    """Of all ids of a tokenizer. The first time each is looked at: some 0.2 s for 50,000."""
    key = text.fingerprint, text.vocab_size
    if key not in _made:
        _made[key] = _vocabulary(text)
    return _made[key]


def _vocabulary(text: TextModel) -> Vocabulary:
    pieces = [text.token_bytes(token) for token in range(text.vocab_size)]
    first: dict[str, int] = {}
    last = []
    same = np.arange(len(pieces))
    words, ends, inner = np.zeros((3, len(pieces)), bool)
    for token, piece in enumerate(pieces):
        letters = piece.decode("utf-8", "replace")
        word = letters.strip().lower()
        if word and "\ufffd" not in word:  # bytes that are no letter by themselves are only the same as themselves
            same[token] = first.setdefault(word, token)
        words[token] = any(letter.isalpha() or letter == "\ufffd" for letter in letters)
        last.append(_ending(letters).lower())
        inner[token] = letters != "" and last[-1] == letters.lower()
        ends[token] = not piece or "\n" in letters or word.rstrip(CLOSING)[-1:] in STOPS
    return Vocabulary(same, words, ends, tuple(last), inner, first)


def _ending(text: str) -> str:
    """The letters that have a case at its end."""
    start = len(text)
    while start and text[start - 1].lower() != text[start - 1].upper():
        start -= 1
    return text[start:]
