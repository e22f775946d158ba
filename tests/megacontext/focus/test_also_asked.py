"""What else a question asks for: words that the best block leaves open, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.focus.lexical.also_asked import MOST, OPEN, also_asked
from megacontext.focus.lexical_store import LexicalStore

BLOCK = 16
FILLER = "nothing of interest"


def ids_of(*texts: str) -> list[list[int]]:
    known: dict[str, int] = {}
    return [[known.setdefault(word, len(known)) for word in text.split()] for text in texts]


def found(question: str, *blocks: str) -> list[int]:
    """What `question` also asks for, of blocks filled up with words that come once."""
    padded = []
    for number, told in enumerate(blocks):
        words = told.split()
        padded.append(" ".join([*words, *(f"filler-{number}-{i}" for i in range(BLOCK - len(words)))]))
    *history, asked = ids_of(*padded, question)
    store = LexicalStore(BLOCK)
    store.add([token for block in history for token in block])
    store.add(asked)
    rows, numbers, votes = store.asked(np.ones(len(asked)))
    before = numbers < len(blocks)
    scored, scores = store.scores(np.ones(len(asked)), alone=True)
    best = scored[[np.where(scored < len(blocks), scores, -1.0).argmax()]]
    return also_asked(rows[before], numbers[before], votes[before], best, store.length)


KEYS = [f"the magic word for the {key} is word-{n} ." for n, key in enumerate(("blue box", "red door", "old ship"))]


def test_every_part_of_a_question_finds_its_block():
    told = [KEYS[0], FILLER, FILLER, KEYS[1], FILLER, FILLER, KEYS[2], FILLER]
    question = "what is the magic word for the blue box , the red door and the old ship ?"
    assert sorted(found(f"{question} the magic word for the blue box", *told)) == [3, 6]


@pytest.mark.parametrize("between", [0, 1, 2])
def test_parts_may_stand_side_by_side(between):
    """What was told in one breath lies in blocks that touch."""
    told = [FILLER] * 9
    places = [1, 2 + between, 3 + 2 * between]
    for place, key in zip(places, KEYS, strict=True):
        told[place] = key
    question = (
        "what is the magic word for the blue box , the red door and the old ship ? the magic word for the blue box"
    )
    assert sorted(found(question, *told)) == places[1:]


def test_the_best_block_is_the_one_that_is_shown_whatever_others_cover():
    """It may be the best for repeating one part."""
    rows, blocks, votes = np.array([0, 1, 2]), np.array([1, 5, 5]), np.array([50.0, 100.0, 100.0])
    assert also_asked(rows, blocks, votes, np.array([1]), 1000) == [5]
    assert also_asked(rows, blocks, votes, np.array([5]), 1000) == []


def test_a_question_of_one_part_asks_for_nothing_else():
    told = [KEYS[0], FILLER, FILLER, KEYS[1], FILLER, FILLER, KEYS[2], FILLER]
    assert found("what is the magic word for the red door ?", *told) == []


def test_saying_the_same_twice_is_no_other_part():
    twice = "the magic word for the old ship was changed , the magic word for the old ship is"
    assert found("the magic word for the red door is", KEYS[0], FILLER, FILLER, KEYS[1], FILLER, twice, FILLER) == []


def test_a_part_that_lies_across_two_blocks_finds_both():
    rows, blocks = np.array([0, 0, 1, 1, 2, 2, 3]), np.array([2, 9, 2, 9, 8, 9, 9])
    votes = np.array([90.0, 90, 300, 150, 80, 80, 60])
    assert also_asked(rows, blocks, votes, np.array([2]), 1000) == [9, 8]
    assert also_asked(rows, blocks, votes - 30 * (blocks == 8) - 30 * (rows == 2), np.array([2]), 1000) == [9]


def test_parts_are_few_and_each_adds_what_a_rare_phrase_adds():
    parts = np.arange(2 * MOST + 2)
    blocks = 10 * parts
    enough = OPEN * np.log1p(1000)
    assert also_asked(parts, blocks, enough + 50.0 - parts, blocks[:1], 1000) == blocks[1 : 1 + MOST].tolist()
    assert also_asked(parts, blocks, np.where(parts < 2, enough, enough - 1), blocks[:1], 1000) == [10]
    assert also_asked(parts[:0], blocks[:0], np.empty(0), blocks[:1], 1000) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=90), st.integers(1, 30), st.integers(0, 6))
def test_votes_of_a_question_count_each_phrase_once_a_block(text, words, behind):
    """Every n-gram of the question's words alone, wherever it stood, once for each block that goes on with it."""
    store = LexicalStore(8, max_matches=9, edge=3, window=64)
    store.add(text)
    words = min(words, len(text))
    kernel = np.ones(words)
    kernel[: min(behind, words)] = 0.0
    expected: dict[tuple[int, int], float] = {}
    for row in range(words - min(behind, words)):
        end = len(text) - words + row
        for n in range(1, min(4, row + 1) + 1):
            gram = text[end + 1 - n : end + 1]
            places = [p for p in range(n - 1, end) if text[p + 1 - n : p + 1] == gram]
            if 0 < len(places) <= 9:
                blocks = {(p + 1) // 8 for p in places} | {(p + 1) // 8 + 1 for p in places if (p + 1) % 8 >= 8 - 3}
                for block in blocks:
                    worth = np.log1p(end / len(places)) * n * n / np.sqrt(len(places))
                    expected[row, block] = expected.get((row, block), 0.0) + worth
    rows, blocks, votes = store.asked(kernel)
    assert dict(zip(zip(rows.tolist(), blocks.tolist(), strict=True), votes.tolist(), strict=True)) == pytest.approx(
        expected
    )
