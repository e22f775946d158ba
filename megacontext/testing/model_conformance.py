"""What every BaseModel must do, as tests to inherit.

    class TestMyModel(BaseModelTests):
        def make_model(self):
            return MyModel(...)

The oracle is the model itself, run without any memory.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megacontext.testing.toy import cached_logits, full_logits, ids, run, toy_tokens
from nanochat.hook import BaseModel, KVView, ModelSpec, Stream
from nanochat.kv_cache import DenseCache, NoCache


class RecordingCache(NoCache):
    """Notes the keys that arrive; lets every position begin at `offset`."""

    def __init__(self, spec: ModelSpec, offset: int = 0) -> None:
        super().__init__(spec)
        self.offset = offset
        self.keys: list[tuple[int, Tensor]] = []

    def begin(self, stream: Stream) -> Tensor:
        positions = super().begin(stream) + self.offset
        self.spec.rotation.reserve(stream.rows + self.offset)
        self._angles = self.spec.rotation.at(positions[0])
        return positions

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        assert q.shape[1] == self.spec.heads
        assert k.shape == v.shape == (q.shape[0], self.spec.kv_heads, q.shape[2], self.spec.head_dim)
        self.keys.append((layer, k))
        return super().update(layer, q, k, v)


class PinnedCache(RecordingCache):
    """Says of every row that it stands at `offset`."""

    def begin(self, stream: Stream) -> Tensor:
        return torch.full_like(super().begin(stream), self.offset)


class BaseModelTests:
    """Subclasses give `make_model`: small, on a CPU, in float32."""

    tolerance = 1e-4  # of a logit
    shift_tolerance = 1e-3  # of a logit, when all rows move; rotary tables rounded to bf16 need more
    rows = 40

    def make_model(self) -> BaseModel:
        raise NotImplementedError("give make_model()")

    @pytest.fixture
    def model(self) -> BaseModel:
        return self.make_model()

    @pytest.fixture
    def tokens(self, model: BaseModel) -> list[int]:
        return toy_tokens(self.rows, vocab=min(model.spec.vocab, 256))

    def assert_close(self, actual: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(actual, expected, atol=self.tolerance, rtol=0)

    def test_it_is_a_base_model(self, model):
        assert isinstance(model, BaseModel)

    def test_the_spec_agrees_with_itself(self, model):
        spec = model.spec
        assert min(spec.layers, spec.heads, spec.kv_heads, spec.head_dim, spec.vocab, spec.max_position) > 0
        assert spec.heads % spec.kv_heads == 0
        assert len(spec.windows) in (0, spec.layers)
        assert spec.memory_layers
        assert set(spec.memory_layers) <= set(range(spec.layers))

    def test_the_fingerprint_stays_while_the_weights_do(self, model):
        assert model.spec.fingerprint
        assert model.spec.fingerprint == model.spec.fingerprint

    def test_embed_and_forward_keep_rows_and_width(self, model, tokens):
        stream = model.embed(ids(model, tokens, tokens))
        hidden = model.forward(stream, NoCache(model.spec))
        assert stream.x.shape == hidden.shape == (2, len(tokens), model.spec.width)
        assert stream.x.dtype == hidden.dtype == model.spec.dtype

    def test_logits_are_float32_over_the_vocabulary(self, model, tokens):
        logits = run(model, NoCache(model.spec), ids(model, tokens))
        assert logits.shape == (1, len(tokens), model.spec.vocab)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()

    def test_a_later_token_changes_nothing_before_it(self, model, tokens):
        changed = [*tokens[:-5], (tokens[-5] + 1) % min(model.spec.vocab, 256), *tokens[-4:]]
        before, after = full_logits(model, tokens), full_logits(model, changed)
        self.assert_close(after[:-5], before[:-5])
        assert (after[-5] - before[-5]).abs().max() > self.tolerance

    def test_rows_of_a_batch_do_not_see_each_other(self, model, tokens):
        both = run(model, NoCache(model.spec), ids(model, tokens, tokens[::-1]))
        self.assert_close(both[0], full_logits(model, tokens))
        self.assert_close(both[1], full_logits(model, tokens[::-1]))

    def test_one_token_is_a_prompt(self, model, tokens):
        self.assert_close(full_logits(model, tokens[:1]), full_logits(model, tokens)[:1])

    @pytest.mark.parametrize("chunks", [[], [1, 7, 2, 20], [39]])
    def test_prefill_in_chunks_equals_the_full_forward(self, model, tokens, chunks):
        logits = cached_logits(model, DenseCache(model.spec), tokens, chunks)
        self.assert_close(logits, full_logits(model, tokens))

    def test_every_layer_meets_the_cache_once_in_order(self, model, tokens):
        cache = RecordingCache(model.spec)
        run(model, cache, ids(model, tokens))
        assert [layer for layer, _ in cache.keys] == list(range(model.spec.layers))

    def test_keys_arrive_unrotated(self, model):
        """One token repeated gives one key repeated (its first row aside, which has no row before it)."""
        if not model.spec.relocatable:
            pytest.skip("positions are learned and enter at the input: see the next test")
        cache = RecordingCache(model.spec)
        run(model, cache, ids(model, [7] * 6))
        _, keys = cache.keys[0]
        torch.testing.assert_close(keys[:, :, 2:], keys[:, :, 1:-1], atol=1e-5, rtol=0)

    def test_learned_positions_come_from_the_cache(self, model):
        """One token repeated gives one key where the cache pins all rows to one position, and other keys elsewhere."""
        if model.spec.relocatable:
            pytest.skip("positions are rotations, and the cache rotates")
        pinned, spread = PinnedCache(model.spec, offset=3), RecordingCache(model.spec)
        for cache in (pinned, spread):
            run(model, cache, ids(model, [7] * self.rows))
        (_, same), (_, other) = pinned.keys[0], spread.keys[0]
        torch.testing.assert_close(same[:, :, 1:], same[:, :, :-1], atol=1e-5, rtol=0)
        assert (other - same).abs().max() > 1e-3

    def test_a_position_beyond_the_learned_ones_is_refused(self, model, tokens):
        if model.spec.relocatable:
            pytest.skip("a rotation can go anywhere")
        last = model.spec.max_position - len(tokens)
        run(model, RecordingCache(model.spec, offset=last), ids(model, tokens))
        with pytest.raises(ValueError, match=str(model.spec.max_position)):
            run(model, RecordingCache(model.spec, offset=last + 1), ids(model, tokens))

    def test_moving_all_rows_together_changes_nothing(self, model, tokens):
        if not model.spec.relocatable:
            pytest.skip("positions are learned: a key stays where it was made")
        moved = run(model, RecordingCache(model.spec, offset=57), ids(model, tokens))[0]
        torch.testing.assert_close(moved, full_logits(model, tokens), atol=self.shift_tolerance, rtol=0)
