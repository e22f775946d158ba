"""LexicalScorer over words in pieces: an index made again from tokens has the words that a live one has."""

from __future__ import annotations

from typing import Any

import numpy as np

from megacontext.focus.lexical.rebuild import PIECE
from megacontext.focus.lexical.records import CONTEXT
from megacontext.focus.lexical_scorer import LexicalScorer
from megacontext.focus.lexical_store import UNIT
from megacontext.models.vocabulary import SPELLED, vocabulary_of
from megacontext.testing.toy import ToyWords

PIECES = ["/", "An", "+na", "+ni", "Bo", "+b", "+by", "in", "Rome"]


class Tree:
    """Tokens alone: what `restore` asks of a tree."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, start: int, stop: int) -> list[int]:
        return self.ids[start:stop]


def index_of(scorer: LexicalScorer) -> Any:
    return scorer._current()


def test_an_index_made_again_has_the_words_that_were_there():
    vocabulary = vocabulary_of(ToyWords(PIECES))  # type: ignore[arg-type]
    text = np.random.default_rng(3).integers(0, len(PIECES), 9000).tolist()
    live, again = (LexicalScorer(4, vocabulary=vocabulary) for _ in range(2))
    start = 0
    for size in [1, 1, 1, 5, 32, 2000, 1, 3, 10_000]:
        live.observe(text[start : start + size])
        start += size
    again.restore({}, Tree(text))  # type: ignore[arg-type]
    for asked in (text[at : at + 8] for at in range(0, 900, 9)):
        ids = vocabulary.fold(asked)
        there, back = (index_of(scorer).look_up(ids) for scorer in (live, again))
        assert np.array_equal(there.places, back.places)
        assert np.array_equal(there.counts, back.counts)


def test_an_index_made_again_spells_a_name_that_begins_before_what_is_read_at_once():
    """The name is longer than the tokens that a piece of history is read with: its beginning is read for itself."""
    vocabulary = vocabulary_of(ToyWords(PIECES))  # type: ignore[arg-type]
    name = [1, 2, 3, 2, 3]
    assert CONTEXT - 1 < len(name) - 1 <= SPELLED
    text = [0] * (PIECE + UNIT + 5)
    edges = [UNIT, PIECE, PIECE + UNIT]
    for edge in edges:
        text[edge - 4 : edge + 1] = name
    again = LexicalScorer(4, vocabulary=vocabulary)
    again.restore({}, Tree(text))  # type: ignore[arg-type]
    matches = index_of(again).look_up(vocabulary.fold(name))
    assert sorted(matches.where((matches.rows == 4) & (matches.grams == 1)).places.tolist()) == edges


def test_text_and_index_agree_on_every_words_place():
    """The simplest oracle: spell every word of the text out, and look where it ends."""
    vocabulary = vocabulary_of(ToyWords(PIECES))  # type: ignore[arg-type]
    text = np.random.default_rng(4).integers(0, len(PIECES), 600).tolist()
    scorer = LexicalScorer(4, vocabulary=vocabulary)
    for token in text:
        scorer.observe([token])
    spelled: list[str] = []
    for token in text:
        piece = PIECES[token]
        goes_on = piece[0] == "+" and bool(spelled) and spelled[-1] != "/"
        spelled.append(spelled[-1] + piece[1:] if goes_on else piece.lstrip("+"))
    for name in ("An +na", "Bo +b", "Bo +by", "An +na +ni", "in +na"):
        ids = [PIECES.index(piece) for piece in name.split()]
        word = "".join(piece.lstrip("+") for piece in name.split())
        matches = index_of(scorer).look_up(vocabulary.fold(ids))
        last = matches.where((matches.rows == len(ids) - 1) & (matches.grams == 1))
        assert sorted(last.places.tolist()) == [at for at, other in enumerate(spelled) if other == word], name


def test_forks_go_on_with_a_word_by_themselves():
    vocabulary = vocabulary_of(ToyWords(PIECES))  # type: ignore[arg-type]
    scorer = LexicalScorer(4, vocabulary=vocabulary)
    scorer.observe([1])
    twin = scorer.copy()
    twin.observe([0])
    scorer.observe([2])
    assert (scorer._newest, twin._newest) == ([1, 2], [1, 0])
