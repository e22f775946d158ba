"""Vocabulary: ids that are the same word, against the text that they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megacontext.config import ModelConfig
from megacontext.models.vocabulary import vocabulary_of

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
    assert of(b"a", b"A").fold([1, 7, 0, 2]).tolist() == [0, 7, 0, 2]
    assert of(b"a", b"A").fold(np.array([1, 1])).tolist() == [0, 0]
    assert of(b"a", b"A").fold([]).tolist() == []


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
