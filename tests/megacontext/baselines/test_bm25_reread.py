"""BM25 re-read behind the hook: scores against a textbook loop, and what really stands in the prompt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from driving import assert_no_trace

from megacontext.baselines.bm25_reread import BM25Reread, BM25RereadConfig, bm25, passage_at
from megacontext.baselines.limits import Limits
from megacontext.errors import BudgetError
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, full_logits, toy_model, toy_tokens
from nanochat.engine import prefill
from nanochat.hook import Mark, Stream

FACT, QUESTION = [201, 202, 203, 204, 205, 206], [9, 201, 202, 203, 8]


class TestBM25Reread(KVCacheTests):
    bounded = True

    def make_cache(self, spec, budget_slots):
        return BM25Reread(spec, Limits(budget_slots, chunk=16, spare=4))


@pytest.fixture(scope="module")
def model():
    return toy_model("G4", n_layer=2, sequence_len=512, window_pattern="SL")


def history(length: int = 500, fact_at: int = 100) -> list[int]:
    """Ids below 200 with a fact of others in it."""
    tokens = toy_tokens(length, vocab=200)
    tokens[fact_at : fact_at + len(FACT)] = FACT
    return tokens


def asked(model, cache: BM25Reread, tokens: list[int], question: list[int], **how) -> torch.Tensor:
    cached_logits(model, cache, tokens, [16] * (len(tokens) // 16))
    return prefill(model, cache, question, **how)


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.5, 0.0), (2.0, 1.0)])
def test_scores_are_those_of_a_textbook_loop(k1: float, b: float) -> None:
    tokens, query = np.array(toy_tokens(333, vocab=30), dtype=np.int32), [3, 7, 7, 29, 31]
    found = bm25(tokens, np.array(query, dtype=np.int32), passage=16, k1=k1, b=b)
    passages = [tokens[slice(*passage_at(i, 16, 333))].tolist() for i in range(len(found))]
    assert passages[-1][-1] == tokens[-1]
    mean = sum(map(len, passages)) / len(passages)
    for passage, score in zip(passages, found, strict=True):
        expected = 0.0
        for word in query:
            holding = sum(word in other for other in passages)
            idf = math.log(1 + (len(passages) - holding + 0.5) / (holding + 0.5))
            times = passage.count(word)
            expected += idf * times * (k1 + 1) / (times + k1 * (1 - b + b * len(passage) / mean))
        assert score == pytest.approx(expected)


def test_every_sentence_of_half_a_passage_stands_whole_in_one() -> None:
    passages = [passage_at(i, 16, 100) for i in range(12)]
    assert all(any(start <= at and at + 8 <= stop for start, stop in passages) for at in range(0, 93))


def test_the_passage_that_shares_words_with_the_question_is_read_anew_as_text(model) -> None:
    tokens = history()
    cache = BM25Reread(model.spec, Limits(160, chunk=16), BM25RereadConfig(passage=16))
    logits = asked(model, cache, tokens, QUESTION)
    places = cache.in_view.tolist()
    assert set(range(100, 106)) <= set(places)
    assert places == sorted(places)
    assert places[:4] == [0, 1, 2, 3]
    assert places[-40:] == list(range(465, 505))
    prompt = [(tokens + QUESTION)[i] for i in places]
    torch.testing.assert_close(logits[0], full_logits(model, prompt)[-1], atol=1e-4, rtol=0)
    assert len(places) == cache.usage.read_slots <= 160


def test_only_what_somebody_said_is_looked_for(model) -> None:
    tokens = history()
    cache = BM25Reread(model.spec, Limits(160, chunk=16), BM25RereadConfig(passage=16))
    cached_logits(model, cache, tokens, [16] * 40)
    twin = cache.fork()
    prefill(model, cache, [*QUESTION, *toy_tokens(20, vocab=200, seed=5)], words=(0, 5))
    prefill(model, twin, [*QUESTION, *toy_tokens(20, vocab=200, seed=5)], words=(5, 25))
    assert set(range(100, 106)) <= set(cache.in_view.tolist())
    assert not set(range(100, 106)) & set(twin.in_view.tolist())


def test_while_text_flows_the_newest_tokens_are_the_query(model) -> None:
    tokens = history()
    tokens[400:406] = FACT
    cache = BM25Reread(model.spec, Limits(160, chunk=16), BM25RereadConfig(passage=16, every=16, query=16))
    shown = []
    for start in range(0, 496, 16):
        cached_logits(model, cache, tokens[start : start + 16], [16])
        shown.append(100 in cache.in_view)
    assert not any(shown[12:25])
    assert any(shown[25:28])


def test_history_that_fits_is_never_read_anew(model) -> None:
    cache = BM25Reread(model.spec, Limits(160, chunk=16))
    asked(model, cache, toy_tokens(100), QUESTION)
    assert cache.selection_flops == 0
    assert cache.in_view.tolist() == list(range(105))


def test_reading_anew_is_counted(model) -> None:
    cache = BM25Reread(model.spec, Limits(160, chunk=16))
    cached_logits(model, cache, toy_tokens(300), [16] * 20)
    before, rows = cache.selection_flops, 160 - 2 * 16
    prefill(model, cache, QUESTION)
    weights = sum(p.numel() for p in model.parameters()) - 265 * 64
    reading = 2 * weights * rows + 4 * 2 * 4 * 16 * (rows * rows // 2)
    searching = cache.selection_flops - before - reading
    assert 0 < searching < 2 * 5 * 305


def test_under_a_budget_a_fork_and_a_rollback_leave_no_trace(model) -> None:
    head, tail, other = toy_tokens(300), toy_tokens(40, seed=1), toy_tokens(60, seed=2)
    cache, plain = (BM25Reread(model.spec, Limits(160, chunk=16)) for _ in range(2))
    for each in (cache, plain):
        cached_logits(model, each, head, [16] * 20)
    mark = Mark(cache.length, cache.carry)
    assert_no_trace(model, cache, plain, tail, other)
    with pytest.raises(ValueError, match="only the 0 rows since"):
        cache.rollback(mark)


def test_rows_that_are_no_tokens_are_refused(model) -> None:
    cache = BM25Reread(model.spec, Limits(160, chunk=16))
    with pytest.raises(ValueError, match="these rows are no tokens"):
        cache.begin(Stream(torch.zeros(1, 2, 64)))


def test_a_budget_or_a_share_that_leaves_no_room_is_refused(model) -> None:
    with pytest.raises(BudgetError, match="bm25_reread cannot work with 40 slots"):
        BM25Reread(model.spec, Limits(40))
    with pytest.raises(ValueError, match="share 1"):
        BM25Reread(model.spec, Limits(400), BM25RereadConfig(share=1))
