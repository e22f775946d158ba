"""LexicalIndex against a scan over the list of tokens."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.testing.lexical_index import LexicalIndex


def votes_of_token(tokens: list[int], at: int, block: int, max_n: int, max_matches: int, edge: int) -> Counter[int]:
    """What the token at `at` votes for, by looking at everything before it."""
    votes: Counter[int] = Counter()
    for n in range(1, min(max_n, at + 1) + 1):
        gram = tokens[at - n + 1 : at + 1]
        ends = [end for end in range(n - 1, at) if tokens[end - n + 1 : end + 1] == gram]
        if not 0 < len(ends) <= max_matches:
            continue
        weight = math.log(1 + at / len(ends)) * n**2 / math.sqrt(len(ends))
        for end in ends:
            number, row = divmod(end + 1, block)
            votes[number] += weight
            if row >= block - edge:
                votes[number + 1] += weight
    return votes


def scanned(tokens: list[int], kernel: np.ndarray, **settings) -> dict[int, float]:
    total: Counter[int] = Counter()
    for age, weight in enumerate(kernel):
        at = len(tokens) - 1 - age
        if at >= 0:
            for number, vote in votes_of_token(tokens, at, **settings).items():
                total[number] += weight * math.sqrt(vote)
    return {number: score for number, score in total.items() if score}


def as_dict(answer: tuple[np.ndarray, np.ndarray]) -> dict[int, float]:
    return {number: score for number, score in zip(*map(np.ndarray.tolist, answer), strict=True) if score}


texts = st.lists(st.integers(0, 4), max_size=80)
settings_of_index = st.fixed_dictionaries(
    {
        "block": st.integers(2, 8),
        "max_n": st.integers(1, 4),
        "max_matches": st.integers(1, 20),
        "edge": st.integers(0, 3),
    }
)


@settings(max_examples=80, deadline=None)
@given(texts, settings_of_index, st.integers(1, 30))
def test_votes_equal_a_scan_over_all_tokens(tokens, how, ages):
    index = LexicalIndex(**how, window=30)
    index.add(tokens)
    kernel = 0.9 ** np.arange(ages)
    assert as_dict(index.scores(kernel)) == pytest.approx(scanned(tokens, kernel, **how))


@settings(max_examples=30, deadline=None)
@given(texts, st.lists(st.integers(1, 9), max_size=20))
def test_it_does_not_matter_how_tokens_arrive(tokens, cuts):
    whole, parts = LexicalIndex(4), LexicalIndex(4)
    whole.add(tokens)
    rest = list(tokens)
    for cut in cuts:
        parts.add(rest[:cut])
        rest = rest[cut:]
    parts.add(iter(rest))
    assert as_dict(parts.scores(np.ones(16))) == as_dict(whole.scores(np.ones(16)))


def test_an_ngram_with_too_many_matches_says_nothing():
    index = LexicalIndex(4, max_n=1, max_matches=3, edge=0)
    index.add([7, 1, 7, 2, 7, 3])
    index.add([7])
    assert as_dict(index.scores(np.ones(1))) != {}
    index.add([4, 7])
    assert as_dict(index.scores(np.ones(1))) == {}
    index.add([7])
    assert as_dict(index.scores(np.ones(1))) == {}


def test_a_match_near_the_end_of_its_block_votes_for_the_next_one_too():
    index = LexicalIndex(4, max_n=1, edge=1)
    index.add([9, 8, 7, 6, 5, 4, 3, 7])
    assert set(as_dict(index.scores(np.ones(1)))) == {0, 1}
    index.add([9])
    assert set(as_dict(index.scores(np.ones(1)))) == {0}


@settings(max_examples=30, deadline=None)
@given(texts, texts, texts)
def test_a_copy_and_its_origin_go_separate_ways(tokens, more, other):
    index = LexicalIndex(4, max_n=3, window=20)
    index.add(tokens)
    twin = index.copy()
    assert twin.nbytes == index.nbytes
    index.add(more)
    twin.add(other)
    how = {"block": 4, "max_n": 3, "max_matches": 64, "edge": 8}
    for each, text in ((index, tokens + more), (twin, tokens + other)):
        assert each.length == len(text)
        assert as_dict(each.scores(np.ones(20))) == pytest.approx(scanned(text, np.ones(20), **how))


def test_large_ids_do_not_collide():
    low, high = LexicalIndex(4, edge=0), LexicalIndex(4, edge=0)
    low.add([1, 2, 3, 1, 2])
    high.add([1 + 2**20, 2 + 2**20, 3, 1 + 2**20, 2 + 2**20])
    assert as_dict(high.scores(np.ones(2))) == as_dict(low.scores(np.ones(2)))


class CountingDict(dict):
    """Counts look-ups and refuses to be walked through."""

    work = 0

    def get(self, key, default=None):
        CountingDict.work += 1
        found = super().get(key, default)
        CountingDict.work += len(found) if isinstance(found, list) else 0
        return found

    def values(self):
        raise AssertionError("all of history was visited")

    items = __iter__ = keys = values


def work_of(history: int) -> int:
    """Steps that 50 tokens, their votes and the count of bytes take after `history` tokens of Zipf-like text."""
    rng = np.random.default_rng(0)
    index = LexicalIndex(32)
    index.add(np.minimum(rng.zipf(1.3, history), 5000).tolist())
    index._postings = [CountingDict(postings) for postings in index._postings]
    CountingDict.work = 0
    index.add(np.minimum(rng.zipf(1.3, 50), 5000).tolist())
    assert len(index.scores(np.ones(50))[0]) <= 50 * 4 * 2 * index.max_matches
    assert index.nbytes > 0
    return CountingDict.work


def test_the_work_for_a_token_is_bounded_however_long_history_is():
    bound = 50 * 4 * (1 + 65)
    assert work_of(40_000) <= bound
    assert work_of(40_000) <= 2 * work_of(5_000)


def test_an_empty_index_names_no_blocks():
    assert as_dict(LexicalIndex(4).scores(np.ones(8))) == {}
    index = LexicalIndex(4)
    index.add([1, 1, 1])
    assert as_dict(index.scores(np.ones(0))) == {}
