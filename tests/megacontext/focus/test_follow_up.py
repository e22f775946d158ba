"""Further look-ups: what a found sentence adds to the question is looked up next. A toy tokenizer has an id a word."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.focus.lexical.follow_up import REACH, WIDE, FollowUp
from megacontext.focus.lexical_store import LexicalStore
from megacontext.models.vocabulary import vocabulary_of
from megacontext.testing.toy import ToyWords

BLOCK = 16


class Told:
    """A history of words, "." and "/" (a new line) among them, filled up to whole blocks with words that come once."""

    def __init__(self, *blocks: str, unit: int = 4096) -> None:
        self.words: list[str] = []
        for number, told in enumerate(blocks):
            words = told.split()
            self.words += [*words, "/", *(f"filler-{number}-{i}" for i in range(BLOCK - len(words) - 1))]
        self.unit = unit

    def steps(self, question: str, found: list[int]) -> list[list[int]]:
        asked = question.split()
        history = [*self.words, *asked]
        known = {word: number for number, word in enumerate(dict.fromkeys(history))}
        vocabulary = vocabulary_of(ToyWords(list(known)))
        ids = [known[word] for word in history]
        store = LexicalStore(BLOCK, unit=self.unit)
        store.add(vocabulary.fold(ids))
        ahead = FollowUp(store, vocabulary, lambda a, b: ids[a:b], len(self.words), BLOCK)
        return list(islice(ahead.steps(ids[len(self.words) :], found), 4))


NOTHING = "nothing of interest is said here"


def test_a_found_sentence_asks_for_its_new_word_and_that_ones_for_its_own():
    told = Told("the coin lies in the box .", NOTHING, "Anna has the box .", NOTHING, "Anna went to Paris .", NOTHING)
    assert told.steps("where lies the coin ?", [0]) == [[2], [4]]


def test_words_are_the_same_however_they_are_written():
    told = Told("my sister is called Anna .", NOTHING, "anna works in Rome .", NOTHING)
    assert told.steps("where does my sister work ?", [0]) == [[2]]


def test_nothing_comes_where_nothing_stands_behind_a_fact():
    told = Told("the coin lies in the box .", NOTHING, NOTHING)
    assert told.steps("where lies the coin ?", [0]) == []


def test_what_was_asked_already_is_not_looked_up_again():
    told = Told("the code of the red door is blue .", "the code of the green door is white .", NOTHING)
    assert told.steps("what is the code of the red door ?", [0]) == []


def test_numbers_lead_nowhere():
    told = Told("the code of the safe is 7 3 1 .", "on line 7 3 1 there is nothing", NOTHING)
    assert told.steps("what is the code of the safe ?", [0]) == []


def test_common_words_lead_nowhere():
    told = Told("the coin lies with him .", *["we went there with a horse"] * 9)
    assert told.steps("where lies the coin ?", [0]) == []


def test_only_the_sentence_that_was_found_asks_on():
    told = Told("zebras sleep . the coin lies still . lions roar", "zebras eat grass", "lions eat zebras", NOTHING)
    assert told.steps("where lies the coin ?", [0]) == []


def test_of_a_fact_told_twice_the_later_one_asks_on():
    told = Told("Tom moved to Rome .", "Tom moved to Oslo .", "Oslo is cold .", "Rome is warm .", NOTHING)
    assert told.steps("where is Tom ?", [0, 1]) == [[2]]


def test_the_prompt_itself_is_never_found():
    told = Told("the coin lies in the box .", NOTHING, NOTHING)
    assert told.steps("where lies the coin ? tell me . I like a box .", [0]) == []
    assert told.steps("a coin ? where", [0]) == []


def test_what_follows_on_a_word_at_a_blocks_end_is_found_too():
    words = "a b c d e f g h i j k l m n o box"
    told = Told("the coin lies in the box .", NOTHING)
    told.words += [*words.split(), "is", "with", "Anna", ".", *(f"end-{i}" for i in range(BLOCK - 4))]
    assert told.steps("where lies the coin ?", [0])[0] == [3, 2]


def test_a_match_on_the_last_word_of_a_block_asks_on_from_the_next_one():
    told = Told(NOTHING, "Anna went to Rome .", NOTHING)
    told.words = [*(f"begin-{i}" for i in range(BLOCK - 1)), "Tom", *["met", "Anna", ".", "/"]]
    told.words += [*(f"on-{i}" for i in range(BLOCK - 4)), *["Anna", "went", "to", "Rome", ".", "/"]]
    told.words += [f"end-{i}" for i in range(BLOCK - 6)]
    assert told.steps("where is Tom ?", [1]) == [[2]]


def test_the_next_sentence_is_not_the_one_that_matched():
    told = Told("where lies the coin ? zebras sleep", "zebras eat grass", NOTHING)
    assert told.steps("where lies the coin ?", [0]) == []


def test_an_earlier_question_of_the_same_words_does_not_end_it():
    told = Told("the coin lies in the box .", NOTHING, "/ where lies the coin ?", "Anna has the box .", NOTHING)
    assert told.steps("where lies the coin ?", [2, 0]) == [[3]]


@pytest.mark.parametrize("unit", [16, 32])
def test_what_is_in_the_archive_is_found_too(unit):
    filler = [NOTHING.replace("nothing", f"nothing-{i}") for i in range(60)]
    told = Told("the coin lies in the box .", *filler, "Anna has the box .", *filler, unit=unit)
    assert told.steps("where lies the coin ?", [0]) == [[61]]


def test_one_look_up_finds_few_blocks():
    told = Told("the coin lies in the box .", *["once a box stood"] * 7)
    assert [len(blocks) for blocks in told.steps("where lies the coin ?", [0])][:1] == [WIDE]


def test_a_sentence_without_end_is_cut():
    for gap, found in ((REACH - 2, [[3]]), (REACH, [])):
        told = Told(NOTHING)
        told.words = [*["coin"], *(f"far-{i}" for i in range(gap)), "box", *(f"on-{i}" for i in range(46 - gap))]
        told.words += [*["Anna", "has", "the", "box", "."], *(f"end-{i}" for i in range(BLOCK - 5))]
        assert told.steps("coin ?", [0]) == found


def test_a_block_that_no_word_of_the_prompt_stands_in_asks_nothing():
    told = Told("the coin lies in the box .", "Anna has the box .", NOTHING)
    assert told.steps("where lies the coin ?", [2]) == []
    assert told.steps("where lies the coin ?", []) == []


texts = st.lists(st.integers(0, 12), min_size=1, max_size=150)


@settings(max_examples=200, deadline=None)
@given(texts, st.lists(st.integers(0, 13), min_size=1, max_size=12), st.sampled_from([4, 16, 4096]), st.integers(1, 9))
def test_a_look_up_finds_what_a_search_through_all_tokens_finds(text, asked, unit, most):
    store = LexicalStore(BLOCK, unit=unit, window=8, max_matches=most)
    store.add(text)
    found = store.look_up(asked)
    expected = []
    for row in range(len(asked)):
        for n in range(1, min(row + 1, 4) + 1):
            gram = asked[row + 1 - n : row + 1]
            places = [end for end in range(n - 1, len(text)) if text[end + 1 - n : end + 1] == gram]
            expected += [(row, n, len(places), place) for place in places if len(places) <= most]
    assert sorted(zip(*(part.tolist() for part in found), strict=True)) == sorted(expected)
    before = store.scores(np.ones(8))
    store.look_up(asked)
    assert store.scores(np.ones(8))[1].tolist() == before[1].tolist()
