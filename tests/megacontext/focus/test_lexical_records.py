"""Records against tuples: a token, those before it, its place."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megacontext.focus.lexical.records import LONGEST_SEGMENT, NOTHING, bounds, contexts, make_records, places

ids = st.one_of(st.integers(0, 3), st.sampled_from([1023, 1024, 1 << 20, NOTHING - 1, NOTHING]))
found = st.lists(st.tuples(ids, ids, ids, ids), min_size=1, max_size=40)
at = st.one_of(st.integers(0, 5), st.sampled_from([LONGEST_SEGMENT - 1]))


def records_of(rows: list[tuple[int, ...]]) -> np.ndarray:
    return make_records(np.array(rows)[:, :4], np.array(rows)[:, 4])


@given(st.lists(st.tuples(ids, ids, ids, ids, at), min_size=1, max_size=60))
def test_records_are_ordered_as_tuples_are_and_keep_their_places(rows):
    assert np.array_equal(np.sort(records_of(rows)), records_of(sorted(rows)))
    assert places(records_of(rows)).tolist() == [row[4] for row in rows]


@given(st.lists(st.tuples(ids, ids, ids, ids, at), min_size=1, max_size=60), found, st.integers(1, 4))
def test_two_searches_find_where_an_ngram_ends(rows, asked, max_n):
    records = records_of(sorted(rows))
    low, high = records.searchsorted(bounds(np.array(asked), max_n)).reshape(2, len(asked), max_n)
    for number, context in enumerate(asked):
        for n in range(1, max_n + 1):
            matches = [row for row in sorted(rows) if row[:n] == context[:n]]
            assert sorted(rows)[low[number, n - 1] : high[number, n - 1]] == matches


def test_a_context_is_the_text_read_backwards():
    assert contexts(np.array([NOTHING, 1, 2, 3, 4, 5])).tolist() == [[3, 2, 1, NOTHING], [4, 3, 2, 1], [5, 4, 3, 2]]
