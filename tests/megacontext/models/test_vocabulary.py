"""Vocabulary: ids that are the same word, against the text that they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.config import ModelConfig
from megacontext.focus.lexical.records import NOTHING
from megacontext.models.vocabulary import ROOM, SPELLED, vocabulary_of

MODEL = Path(__file__).parents[3] / ModelConfig().path


class Words:
    """A tokenizer of the pieces it is given. Implements what a vocabulary asks for."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.vocab_size, self.fingerprint = pieces, len(pieces), repr(pieces)

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token]


def of(*pieces: bytes):
    return vocabulary_of(Words(*pieces))  # type: ignore[arg-type]


def test_a_word_is_the_same_with_a_space_before_it_and_with_a_capital():
    found = of(b"Bill", b" bill", b" Bill", b"bills", "Éva".encode(), " éva".encode())
    assert found.same.tolist() == [0, 0, 0, 3, 4, 4]


def test_white_space_bytes_of_no_letter_and_specials_are_only_the_same_as_themselves():
    assert of(b" ", b"\n", b"\n\n", b"", b"\xc3", b"\xa9", b"\xc3").same.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_digits_and_marks_are_no_words_and_letters_of_any_script_are():
    pieces = [b"box", b" 7", b"-", b"x2", "да".encode(), "箱".encode(), b"\xe7\xae", b""]
    assert of(*pieces).words.tolist() == [True, False, False, True, True, True, True, False]


def test_a_sentence_ends_with_a_stop_or_a_line():
    pieces = [b".", b" .", b"?", b"!", "。".encode(), b"\n", b".\n", b'."', b"...", b"?)", b"e.g", b",", b" ", b'"']
    assert of(*pieces).ends.tolist() == [True] * 10 + [False] * 4


def test_a_special_ends_a_turn_and_so_what_was_said():
    assert of(b"Anna", b"", b" works").ends.tolist() == [False, True, False]


def test_an_id_beyond_the_tokenizers_own_stays_as_it_is():
    assert of(b" a", b" A").fold([1, 7, 0, 2]).tolist() == [0, 7, 0, 2]
    assert of(b" a", b" A").fold(np.array([1, 1])).tolist() == [0, 0]
    assert of(b" a", b" A").fold([]).tolist() == []


PIECES = [
    b" Emma",
    b"E",
    b"mma",
    b"\n",
    b" Osc",
    b"ar",
    b"O",
    b"sc",
    b" cell",
    b"7",
    b" ",
    "\u7bb1".encode(),
    b"_",
    b"x2",
]


def spelled(*pieces: bytes) -> list[int]:
    return of(*PIECES).fold([PIECES.index(piece) for piece in pieces]).tolist()


def test_a_word_in_pieces_is_the_word_in_one_piece():
    assert spelled(b"\n", b"E", b"mma")[-1] == spelled(b" Emma")[0]


def test_a_word_that_has_pieces_however_it_stands_is_the_same_and_no_other_word_is():
    oscar = spelled(b" Osc", b"ar")[-1]
    assert spelled(b"\n", b"O", b"sc", b"ar")[-1] == oscar
    assert len({oscar, spelled(b" cell", b"ar")[-1], spelled(b"ar")[0], spelled(b"7", b"ar")[-1]}) == 3
    assert spelled(b"7", b"ar")[-1] == spelled(b"ar")[0], "a digit is no part of a word"


def test_letters_without_case_are_words_by_themselves():
    alone = spelled("\u7bb1".encode())[0]
    assert spelled(b"E", "\u7bb1".encode(), b"mma") == [spelled(b"E")[0], alone, spelled(b"mma")[0]]


def test_only_the_last_piece_of_a_word_is_whole():
    ids = [PIECES.index(piece) for piece in (b" Osc", b"ar", b"\n", b"E", b"_", b"ar", b"x2", b"sc")]
    assert of(*PIECES).is_whole(np.array(ids)).tolist() == [False, True, True, True, True, True, True, True]
    assert of(*PIECES).is_whole(np.array([1, 999, 2])).tolist() == [True, True, True]
    assert of(*PIECES).is_whole(np.array([], np.int64)).tolist() == []


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=40), st.integers(0, 40))
def test_text_folds_alike_wherever_it_is_cut(ids, cut):
    whole = of(*PIECES).fold(ids).tolist()
    first, rest = ids[:cut], ids[cut:]
    assert of(*PIECES).fold(first).tolist() + of(*PIECES).fold(rest, first[-SPELLED:]).tolist() == whole
    assert all(0 <= folded < ROOM for folded in whole)


def test_a_folded_id_has_a_place_in_a_record_of_the_index():
    assert ROOM <= NOTHING


def test_one_tokenizer_is_looked_at_once_and_another_has_another_fingerprint():
    assert of(b"a", b"A") is of(b"a", b"A")
    assert of(b"a", b"A").fingerprint != of(b"a", b"B").fingerprint


@pytest.mark.needs_model
def test_the_demo_models_words_are_told_from_each_other_as_their_letters_are():
    from megacontext.models import load_model

    text = load_model(ModelConfig(path=str(MODEL), device="cpu")).text
    found = vocabulary_of(text)
    for token in np.random.default_rng(0).integers(0, text.vocab_size, 500).tolist():
        letters, other = (text.decode([one]) for one in (token, int(found.same[token])))
        assert letters.strip().lower() == other.strip().lower()
    assert found.fold(text.encode(" Bill")).tolist() == found.fold(text.encode("bill")).tolist()
    for name in ("Emma", "Oscar", "Leonora", "Biscuit", "zweihundert"):
        ways = {int(found.fold(text.encode(way + name))[-1]) for way in ("", " ", "\n", "said ", '("')}
        assert len(ways) == 1, f"{name} is {ways}"
