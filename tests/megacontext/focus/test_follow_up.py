"""Further look-ups: what a found sentence adds to the question is looked up next. A toy tokenizer has an id a word."""

from __future__ import annotations

from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.focus.lexical.follow_up import REACH, WIDE, FollowUp
from megacontext.focus.lexical_store import LexicalStore
from megacontext.models.vocabulary import Vocabulary, vocabulary_of

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
        vocabulary = vocabulary_of(Dictionary(list(known)))  # type: ignore[arg-type]
        ids = [known[word] for word in history]
        store = LexicalStore(BLOCK, unit=self.unit)
        store.add(vocabulary.fold(ids))
        ahead = FollowUp(store, vocabulary, lambda a, b: ids[a:b], len(self.words), BLOCK)
        return list(islice(ahead.steps(ids[len(self.words) :], found), 4))


class Dictionary:
    """An id for each word; "/" is a new line."""

    def __init__(self, words: list[str]) -> None:
        self.words, self.vocab_size, self.fingerprint = words, len(words), repr(words)

    def token_bytes(self, token: int) -> bytes:
        return b"\n" if self.words[token] == "/" else f" {self.words[token]}".encode()


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
    assert told.steps("where lies the coin ? is it cold in a box ?", [0]) == []


def test_what_follows_on_a_word_at_a_blocks_end_is_found_too():
    words = "a b c d e f g h i j k l m n o box"
    told = Told("the coin lies in the box .", NOTHING)
    told.words += [*words.split(), "is", "with", "Anna", ".", *(f"end-{i}" for i in range(BLOCK - 4))]
    assert told.steps("where lies the coin ?", [0])[0] == [3, 2]


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


def test_a_vocabulary_is_values_alone():
    made = Vocabulary(np.array([0, 0]), np.array([True, True]), np.array([False, False]))
    assert made.fold([1]).tolist() == [0]
