"""Vocabulary: what the ids of a tokenizer are as words, for whoever looks words up. Knows no model and no index.

Byte-pair tokenizers have several ids for one word: with and without a space before it, with a capital or none (" Bill",
"Bill", " bill"). Whoever asks about it rarely writes it as it stood, so an index of words should not tell them apart.
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


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """All (V,), by id. same: int64, one id for all that differ in case and in white space around them alone.

    words: whether it has a letter. ends: whether a sentence, a line or, with a special, a turn ends with it.
    """

    same: np.ndarray
    words: np.ndarray
    ends: np.ndarray

    def fold(self, ids: np.ndarray | Sequence[int]) -> np.ndarray:
        """(n,) ids -> the ids that stand for them. Those that the tokenizer does not have stay as they are."""
        given = np.asarray(ids, np.int64)
        known = given < len(self.same)
        return self.same[given] if known.all() else np.where(known, self.same[given * known], given)

    def is_word(self, ids: np.ndarray) -> np.ndarray:
        """(n,) whether each has a letter."""
        return self.words[ids.clip(max=len(self.words) - 1)]

    def is_end(self, ids: np.ndarray) -> np.ndarray:
        """(n,) whether something ends with each."""
        return self.ends[ids.clip(max=len(self.ends) - 1)]

    @cached_property
    def fingerprint(self) -> str:
        """Of which ids are taken for the same."""
        return f"{zlib.crc32(self.same.tobytes()):08x}"


_made: dict[tuple[str, int], Vocabulary] = {}  # by tokenizer: a process has one or two


def vocabulary_of(text: TextModel) -> Vocabulary:
    """Of all ids of a tokenizer. The first time each is looked at: some 0.1 s for 50,000."""
    key = text.fingerprint, text.vocab_size
    if key not in _made:
        _made[key] = _vocabulary(text)
    return _made[key]


def _vocabulary(text: TextModel) -> Vocabulary:
    pieces = [text.token_bytes(token) for token in range(text.vocab_size)]
    first: dict[str, int] = {}
    same = np.arange(len(pieces))
    words, ends = np.zeros((2, len(pieces)), bool)
    for token, piece in enumerate(pieces):
        letters = piece.decode("utf-8", "replace")
        word = letters.strip().lower()
        if word and "\ufffd" not in word:  # bytes that are no letter by themselves are only the same as themselves
            same[token] = first.setdefault(word, token)
        words[token] = any(letter.isalpha() or letter == "\ufffd" for letter in letters)
        ends[token] = not piece or "\n" in letters or word.rstrip(CLOSING)[-1:] in STOPS
    return Vocabulary(same, words, ends)
