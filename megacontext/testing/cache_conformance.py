"""What every KVCache must do, as tests to inherit.

    class TestMyCache(KVCacheTests):
        def make_cache(self, spec, budget_slots):
            return MyCache(spec, budget_slots)

The oracle is a pass without any memory. `make_model` can be replaced where a cache needs another kind of model.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from megacontext.testing.storage import held_bytes
from megacontext.testing.toy import cached_logits, full_logits, ids, run, toy_model, toy_tokens
from nanochat.engine import prefill
from nanochat.hook import BaseModel, KVCache, ModelSpec


class KVCacheTests:
    """Subclasses give `make_cache`, and change the figures below where theirs differ."""

    tolerance = 1e-4  # of a logit
    history = 96  # tokens
    ample = 512  # slots, with which nothing has to be forgotten; the model is trained on as many
    budget = 64  # slots, less than the history
    bounded = False  # does it keep a budget?
    slack_bytes = 65_536  # what it may count beyond the tensors it holds: indexes, logs

    def make_model(self) -> BaseModel:
        return toy_model("G4", sequence_len=512)

    def make_cache(self, spec: ModelSpec, budget_slots: int) -> KVCache:
        raise NotImplementedError("give make_cache(spec, budget_slots)")

    @pytest.fixture
    def model(self) -> BaseModel:
        return self.make_model()

    @pytest.fixture
    def tokens(self, model: BaseModel) -> list[int]:
        return toy_tokens(self.history, vocab=min(model.spec.vocab, 256))

    @pytest.fixture
    def cache(self, model: BaseModel) -> KVCache:
        return self.make_cache(model.spec, self.ample)

    def assert_close(self, actual: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(actual, expected, atol=self.tolerance, rtol=0)

    def test_an_ample_budget_changes_nothing(self, model, cache, tokens):
        self.assert_close(cached_logits(model, cache, tokens), full_logits(model, tokens))

    @pytest.mark.parametrize("seed", range(4))
    def test_reading_in_chunks_changes_nothing(self, model, cache, tokens, seed):
        rng = random.Random(seed)
        chunks = [rng.choice((1, 2, 3, 7, 16, 33, 64)) for _ in tokens]
        self.assert_close(cached_logits(model, cache, tokens, chunks), full_logits(model, tokens))

    def test_prefill_gives_the_last_rows_logits(self, model, cache, tokens):
        self.assert_close(prefill(model, cache, tokens)[0], full_logits(model, tokens)[-1])

    def test_length_counts_the_tokens_seen(self, model, cache, tokens):
        cached_logits(model, cache, tokens, [10, 20])
        assert cache.length == cache.usage.seen == len(tokens)

    def test_begin_gives_a_position_to_every_row(self, model, cache, tokens):
        positions = cache.begin(model.embed(ids(model, tokens[: cache.room(8)])))
        assert positions.shape == (1, cache.length)

    def test_there_is_always_room_for_a_row(self, model, cache, tokens):
        cached_logits(model, cache, tokens)
        assert 1 <= cache.room(1000) <= 1000
        assert cache.room(1) == 1

    def test_reset_forgets_everything(self, model, cache, tokens):
        cached_logits(model, cache, tokens, [16, 16])
        cache.reset()
        assert cache.length == cache.usage.seen == cache.usage.resident_slots == 0
        assert cache.carry is None
        other = tokens[::-1]
        self.assert_close(cached_logits(model, cache, other, [9, 30]), full_logits(model, other))

    def test_a_fork_and_its_origin_go_separate_ways(self, model, cache, tokens):
        half = len(tokens) // 2
        head, tail, other = tokens[:half], tokens[half:], tokens[half:][::-1]
        cached_logits(model, cache, head, [half])
        twin = cache.fork()
        assert twin.length == cache.length == half
        for branch, rest in ((cache, tail), (twin, other)):
            self.assert_close(cached_logits(model, branch, rest, [5]), full_logits(model, head + rest)[half:])

    def test_a_fork_of_three_rows_continues_three_ways(self, model, cache, tokens):
        half = len(tokens) // 2
        cached_logits(model, cache, tokens[:half], [half])
        try:
            branches = cache.fork(3)
        except ValueError:
            pytest.skip("this cache holds one row; the engine forks it three times")
        rests = [toy_tokens(6, seed=row + 1) for row in range(3)]
        steps = []
        for column in zip(*rests, strict=True):
            steps.append(run(model, branches, ids(model, *([token] for token in column))))
            branches.maintain(model)
        for row, rest in enumerate(rests):
            expected = full_logits(model, tokens[:half] + rest)[half:]
            self.assert_close(torch.cat(steps, 1)[row], expected)

    def test_rollback_forgets_the_rows_since_the_mark(self, model, cache, tokens):
        half = len(tokens) // 2
        cached_logits(model, cache, tokens[:half], [half])
        mark = cache.mark()
        run(model, cache, ids(model, tokens[: cache.room(4)]))
        cache.rollback(mark)
        assert cache.length == half
        rest = tokens[half:]
        self.assert_close(cached_logits(model, cache, rest, [3]), full_logits(model, tokens)[half:])

    def test_the_budget_holds_after_every_pass(self, model, tokens):
        if not self.bounded:
            pytest.skip("this cache keeps no budget")
        cache = self.make_cache(model.spec, self.budget)
        done, rng = 0, random.Random(0)
        while done < len(tokens):
            rows = cache.room(min(rng.choice((1, 1, 2, 40)), len(tokens) - done))
            logits = run(model, cache, ids(model, tokens[done : done + rows]))
            assert logits.isfinite().all()
            cache.maintain(model)
            done += rows
            usage = cache.usage
            assert usage.read_slots <= usage.resident_slots <= self.budget, f"{usage} after {done} tokens"

    def test_usage_counts_real_bytes(self, model, cache, tokens):
        cached_logits(model, cache, tokens, [len(tokens) // 2])
        counted, held = cache.usage.nbytes, held_bytes(cache, apart=[model.spec.rotation])
        assert held <= counted <= held + self.slack_bytes, f"counts {counted} bytes, holds {held} in tensors"
