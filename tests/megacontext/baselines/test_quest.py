"""Quest behind the hook: its bound, its choice, and what it reads, against plain loops."""

from __future__ import annotations

import pytest
import torch
from driving import Driver, assert_no_trace, one_layer_spec

from megacontext.baselines.limits import Limits
from megacontext.baselines.quest import Quest, QuestConfig
from megacontext.errors import BudgetError
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, full_logits, toy_model, toy_tokens


class TestQuest(KVCacheTests):
    def make_cache(self, spec, budget_slots):
        return Quest(spec, Limits(budget_slots, chunk=16, spare=4))


def driven(slots: int = 96, page: int = 8) -> Driver:
    spec = one_layer_spec()
    return Driver(spec, Quest(spec, Limits(slots, chunk=8, spare=4), QuestConfig(page=page, dense_layers=0)))


def bound(driver: Driver, q: torch.Tensor, page: range, kv_head: int) -> float:
    """Textbook: the sum over channels of the larger of q * min and q * max."""
    keys = [driver.turned(driver.keys[at], at)[kv_head].tolist() for at in page]
    columns = list(zip(*keys, strict=True))
    return sum(max(x * min(column), x * max(column)) for x, column in zip(q.tolist(), columns, strict=True))


def test_no_product_with_a_key_of_the_page_exceeds_its_bound() -> None:
    driver = driven()
    driver.go(*[8] * 20)
    high, low = driver.cache.bounds[0].first[0], driver.cache.bounds[0].second[0]
    assert high.shape[1] == 19  # the last page came with this pass
    for at in range(0, 160, 7):
        q = driver.turned(driver.queries[at], at)
        for head in range(4):
            for page in range(19):
                most = (
                    q[head].clamp(min=0) * high[head // 2, page] + q[head].clamp(max=0) * low[head // 2, page]
                ).sum()
                products = [
                    q[head] @ driver.turned(driver.keys[i], i)[head // 2] for i in range(page * 8, page * 8 + 8)
                ]
                assert most >= max(products) - 1e-4


@pytest.mark.parametrize("rows", [1, 5])
def test_the_pages_read_are_those_that_a_plain_loop_picks(rows: int) -> None:
    driver = driven()
    view = driver.go(*[8] * 20, 3, rows)
    pages = (96 - 3 - rows) // 8
    for kv_head in range(2):
        asking = [driver.turned(driver.queries[163 + t], 163 + t)[2 * kv_head + g] for t in range(rows) for g in (0, 1)]
        worth = [max(bound(driver, q, range(p * 8, p * 8 + 8), kv_head) for q in asking) for p in range(20)]
        best = sorted(sorted(range(20), key=worth.__getitem__)[-pages:])
        assert driver.cache.chosen[0][kv_head].tolist() == best
        read = [i for p in best for i in range(p * 8, p * 8 + 8)] + list(range(160, 163 + rows))
        keys = torch.stack([driver.turned(driver.keys[i], i)[kv_head] for i in read])
        torch.testing.assert_close(view.keys[0, kv_head], keys)
        assert torch.equal(view.values[0, kv_head], torch.stack([driver.values[i][kv_head] for i in read]))
    assert view.bias is None  # rows see what is before them


def test_it_reads_no_more_than_the_budget_and_keeps_everything() -> None:
    driver = driven()
    for rows in [8] * 30 + [1, 3, 1, 8] * 20:
        said = driver.cache.read_slots(rows)
        view = driver.go(rows)
        assert view.keys.shape[2] == said + rows <= 96
        assert driver.cache.usage.resident_slots == driver.cache.length
    assert driver.cache.usage.read_slots >= 96 - 16


@pytest.mark.parametrize("history", [100, 400, 700, 2000])
def test_what_the_dense_layers_read_is_taken_from_the_others(history: int) -> None:
    model = toy_model("G0", n_layer=6, sequence_len=512, window_pattern="L")
    cache = Quest(model.spec, Limits(200, chunk=8))
    shares = [cache.share(layer, history) for layer in range(6)]
    assert shares[0] == shares[1] == min(history, 300)
    assert len(set(shares[2:])) == 1
    assert history <= 200 or 1196 <= sum(shares) <= 1200


def test_all_of_history_is_read_in_the_first_layers_alone() -> None:
    model = toy_model("G0", n_layer=6, sequence_len=512, window_pattern="L")
    cache = Quest(model.spec, Limits(200, chunk=8))
    cached_logits(model, cache, toy_tokens(280), [8] * 35)
    assert sorted(cache.chosen) == [2, 3, 4, 5]
    assert cache.usage.read_slots <= 200


def test_a_page_that_was_rolled_back_is_bounded_anew() -> None:
    one, other = driven(), driven()
    for driver in (one, other):
        driver.go(*[8] * 15, 6)
    mark = one.cache.mark()
    one.go(4, 1, maintain=False)  # page 15 is whole for a moment
    one.cache.rollback(mark)
    one.rng.set_state(other.rng.get_state())
    ours, theirs = one.go(5, 8, 1), other.go(5, 8, 1)
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(one.cache.bounds[0].first, other.cache.bounds[0].first)


def test_under_a_budget_a_fork_goes_its_own_way() -> None:
    model = toy_model("G0", n_layer=3, sequence_len=512, window_pattern="L")
    head, tail, other = toy_tokens(300), toy_tokens(40, seed=1), toy_tokens(40, seed=2)
    cache, plain = (Quest(model.spec, Limits(160, chunk=16)) for _ in range(2))
    for each in (cache, plain):
        cached_logits(model, each, head, [16] * 20)
    ours = assert_no_trace(model, cache, plain, tail, other)
    assert (ours[-1] - full_logits(model, head + tail)[-1]).abs().max() > 1e-3  # it does leave something out


def test_choosing_costs_two_products_with_every_page() -> None:
    driver = driven()
    driver.go(*[8] * 20)
    before = driver.cache.selection_flops
    driver.go(1)
    assert driver.cache.selection_flops - before == 2 * 2 * 4 * 20 * driver.spec.head_dim


def test_a_budget_of_less_than_a_few_pages_is_refused() -> None:
    with pytest.raises(BudgetError, match="quest cannot work with 100 slots"):
        Quest(one_layer_spec(), Limits(100))
    with pytest.raises(ValueError, match="at least 1"):
        Quest(one_layer_spec(), Limits(500), QuestConfig(page=0))
