"""Examples against lists of integers."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_toys import expected, flat
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.dataset.examples import Examples, Read, limit_of, whole_blocks


def reader(ids: list[int]) -> Read:
    return lambda start, count: np.array(ids[start : start + count])


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 90), max_size=8),
    block=st.integers(1, 5),
    context=st.integers(1, 5),
    stride=st.integers(1, 7),
    horizon=st.integers(1, 3),
    most=st.none() | st.integers(1, 200),
)
def test_examples_are_those_of_the_rules(
    lengths: list[int], block: int, context: int, stride: int, horizon: int, most: int | None
) -> None:
    documents = [list(range(1000 * i, 1000 * i + length)) for i, length in enumerate(lengths)]
    kept, limit, consumed = list[list[int]](), limit_of(most, block), 0
    for ids in documents:
        count = whole_blocks(len(ids) if limit is None else min(len(ids), limit - consumed), block)
        kept.append(ids[:count])
        consumed += count
    examples = Examples([len(ids) for ids in kept], tokens=(context + horizon) * block, stride=stride * block)
    rows = examples.gather(reader(flat(kept)), 0, len(examples)).tolist()
    wanted = expected(
        documents,
        block_size=block,
        context_tokens=context * block,
        context_stride=stride * block,
        horizon=horizon * block,
        max_tokens=most,
    )
    assert rows == [first + then for first, then in wanted]


def test_a_part_of_the_examples_is_that_part_of_all() -> None:
    examples = Examples([40, 0, 12, 64], tokens=12, stride=4)
    read = reader(list(range(116)))
    whole = examples.gather(read, 0, len(examples))
    for first in range(len(examples)):
        np.testing.assert_array_equal(examples.gather(read, first, len(examples)), whole[first:])


@pytest.mark.parametrize(("most", "limit"), [(None, None), (1, 4), (4, 4), (5, 8)])
def test_the_block_that_reaches_the_limit_is_read_to_its_end(most: int | None, limit: int | None) -> None:
    assert limit_of(most, 4) == limit
