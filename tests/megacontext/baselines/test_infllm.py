"""InfLLM behind the hook: where its rows stand, how blocks are found, and what it reads, against plain loops."""

from __future__ import annotations

import pytest
import torch
from driving import Driver, assert_no_trace, one_layer_spec

from megacontext.baselines.infllm import InfLLM, InfLLMConfig
from megacontext.baselines.limits import Limits
from megacontext.errors import BudgetError
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, toy_model, toy_tokens

SMALL = InfLLMConfig(initial=3, local=20, block=8, blocks=3, representatives=2)


class TestInfLLM(KVCacheTests):
    def make_cache(self, spec, budget_slots):
        return InfLLM(spec, Limits(budget_slots, chunk=16, spare=4))


def driven() -> Driver:
    spec = one_layer_spec()
    return Driver(spec, InfLLM(spec, Limits(62, chunk=8, spare=4), SMALL))


def far_tokens(driver: Driver) -> list[int]:
    return [0, 1, 2] + [i for b in driver.cache.chosen[0] for i in range(3 + b * 8, 11 + b * 8)]


@pytest.mark.parametrize("rows", [1, 4])
def test_far_rows_stand_at_one_distance_and_near_rows_at_their_own(rows: int) -> None:
    driver = driven()
    view = driver.go(*[8] * 20, rows)
    far, near = far_tokens(driver), list(range(driver.cache.near, 160 + rows))
    assert len(driver.cache.chosen[0]) == 3
    assert 20 <= len(near) - rows < 28
    distance = driver.cache.distance
    assert distance >= 160 - near[0]
    for head in range(2):
        keys = [driver.turned(driver.keys[i], 0)[head] for i in far]
        keys += [driver.turned(driver.keys[i], distance - 160 + i)[head] for i in near]
        torch.testing.assert_close(view.keys[0, head], torch.stack(keys))
        values = torch.stack([driver.values[i][head] for i in far + near])
        assert torch.equal(view.values[0, head], values)
    queries = torch.stack([driver.turned(driver.queries[160 + t], distance + t) for t in range(rows)], 1)
    torch.testing.assert_close(view.q[0], queries)


def test_a_block_is_found_by_the_mean_of_its_most_attended_keys() -> None:
    driver = driven()
    mass: dict[tuple[int, int], float] = {}  # (head, token): attention received while it was near
    for rows in [8, 5, 1, 2] * 12:
        start = driver.cache.near
        view = driver.go(rows)
        for head in range(4):
            scores = view.q[0, head] @ view.keys[0, head // 2].T / driver.spec.head_dim**0.5
            future = torch.ones_like(scores, dtype=torch.bool).triu(scores.shape[1] - rows + 1)
            weights = scores.masked_fill(future, float("-inf")).softmax(-1).sum(0)
            for offset, weight in enumerate(weights[scores.shape[1] - (driver.cache.length - start) :].tolist()):
                mass[head, start + offset] = mass.get((head, start + offset), 0.0) + weight
    assert driver.cache.sealed == 21
    for block in range(21):
        tokens = range(3 + block * 8, 11 + block * 8)
        for head in range(4):
            best = sorted(tokens, key=lambda token: mass[head, token])[-2:]
            key = torch.stack([driver.keys[token][head // 2] for token in best]).mean(0)
            torch.testing.assert_close(driver.cache.found[0][head, block], key)


def test_the_blocks_read_are_those_that_a_plain_loop_picks() -> None:
    driver = driven()
    driver.go(*[8] * 20)
    for rows in (1, 3, 8):
        found, sealed, start = driver.cache.found[0], driver.cache.sealed, driver.cache.length
        driver.go(rows)
        queries = [driver.turned(driver.queries[start + t], driver.cache.distance + t) for t in range(rows)]
        mean = sum(queries) / rows
        worth = [sum((mean[head] @ found[head, b]).item() for head in range(4)) for b in range(sealed)]
        assert driver.cache.chosen[0] == sorted(sorted(range(sealed), key=worth.__getitem__)[-3:])


def test_it_reads_no_more_than_the_budget_and_keeps_everything() -> None:
    driver = driven()
    for rows in [8] * 20 + [1, 3, 1, 8] * 20:
        said = driver.cache.read_slots(rows)
        assert driver.go(rows).keys.shape[2] == said + rows <= 62
        usage = driver.cache.usage
        assert usage.read_slots <= usage.resident_slots == driver.cache.length
    assert driver.cache.usage.read_slots >= 45


def test_rows_without_a_maintain_take_the_place_of_blocks_and_then_are_refused() -> None:
    driver = driven()
    driver.go(*[8] * 20)
    views = [driver.go(8, maintain=False) for _ in range(3)]
    assert all(view.keys.shape[2] <= 62 for view in views)
    with pytest.raises(ValueError, match="since the last maintain"):
        driver.go(8, 8, 8, maintain=False)


def test_under_a_budget_a_fork_and_a_rollback_leave_no_trace() -> None:
    model = toy_model("G4", n_layer=3, sequence_len=512, window_pattern="SL")
    head, tail, other = toy_tokens(300), toy_tokens(40, seed=1), toy_tokens(40, seed=2)
    cache, plain = (InfLLM(model.spec, Limits(160, chunk=16)) for _ in range(2))
    for each in (cache, plain):
        cached_logits(model, each, head, [16] * 20)
    assert_no_trace(model, cache, plain, tail, other)


@pytest.mark.parametrize(("slots", "blocks", "block"), [(512, 1, 128), (1024, 2, 128), (2048, 5, 128), (160, 1, 52)])
def test_the_papers_sizes_shrink_in_proportion(slots: int, blocks: int, block: int) -> None:
    fitted = InfLLMConfig().fitted(slots)
    assert (fitted.blocks, fitted.block) == (blocks, block)
    assert fitted.initial + fitted.local + fitted.blocks * fitted.block == slots
    assert InfLLMConfig().fitted(7000) == InfLLMConfig()


def test_a_budget_without_a_window_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"leave -?\d+ for its window"):
        InfLLM(one_layer_spec(), Limits(30, chunk=16), SMALL)
