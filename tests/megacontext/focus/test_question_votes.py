"""Votes of a question: its words alone ask, and what they ask for may lie across the edge of two blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lexical_texts import history

from megacontext.focus.lexical_store import LexicalStore


def test_words_asked_for_alone_do_not_match_the_format_before_them():
    """An earlier turn begins with the same format; only what is said again votes."""
    said, asked, frame = [1, 2, 3, 4], [1, 9, 8, 7], [50, 51, 52]
    store = LexicalStore(block=8)
    store.add([*frame, *asked, *range(20, 45), *said, *range(60, 90), *frame])
    store.add([*said[:1]])
    kernel = np.ones(1)
    together, alone = (dict(zip(*store.scores(kernel, alone=only), strict=True)) for only in (False, True))
    assert together[0] > 4 * alone[0]  # the format and its first word, as four tokens
    assert alone[0] == alone[4]  # a word alone stands as much there as here
    store.add(said[1:])
    blocks, votes = store.scores(np.ones(4), alone=True)
    assert blocks[votes.argmax()] == 4


def brute_across(blocks, scores, halves) -> dict[int, float]:
    """halves: votes of each half block, those of matches alone."""
    found = dict(zip(blocks, scores, strict=True))
    for block in list(found):
        if block + 1 in found:
            left, right = halves.get(2 * block + 1, 0.0), halves.get(2 * block + 2, 0.0)
            if min(left, right) >= 0.25 * (left + right):
                for one in (block, block + 1):
                    found[one] = max(found[one], left + right)
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(4, 12))
def test_what_is_asked_for_across_the_edge_of_two_blocks_counts_for_both(seed, block):
    """By brute force: every n-gram within the words, every place where it stood before."""
    text = history(seed, 12, 160)
    store = LexicalStore(block=block, unit=32, edge=block // 4)
    store.add(text)
    count, votes, echoes = 9, {}, {}
    for at in range(len(text) - count, len(text)):
        for n in range(1, min(4, at - (len(text) - count) + 1) + 1):
            gram = text[at - n + 1 : at + 1]
            ends = [end for end in range(n - 1, at) if text[end - n + 1 : end + 1] == gram]
            if not ends or len(ends) > 64:
                continue
            weight = math.log1p(at / len(ends)) * n * n / len(ends) ** 0.5
            for end in ends:
                votes.setdefault((end + 1, 0), []).append(weight)
                if (end + 1) % block >= block - block // 4:
                    echoes.setdefault((end + 1) // block + 1, []).append(weight)
    own: dict[int, float] = {b: sum(w) for b, w in echoes.items()}
    halves: dict[int, float] = {}
    for (place, _), weights in votes.items():
        own[place // block] = own.get(place // block, 0.0) + sum(weights)
        half = 2 * (place // block) + (place % block >= block / 2)
        halves[half] = halves.get(half, 0.0) + sum(weights)
    expected = brute_across(list(own), list(own.values()), halves)
    blocks, scores = store.scores(np.ones(count), alone=True)
    assert dict(zip(blocks.tolist(), scores.tolist(), strict=True)) == pytest.approx(expected, rel=1e-9)
