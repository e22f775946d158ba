import pytest
import torch

from megacontext.testing.toy import cached_logits, full_logits, ids, run, toy_model, toy_tokens
from nanochat.attention import attention
from nanochat.hook import KVView, Mark, Stream
from nanochat.kv_cache import DenseCache, NoCache, Windows, storage_bytes, window_bias


def brute_force(q, keys, values, window):
    """Row by row, slot by slot."""
    heads, rows, slots = q.shape[1], q.shape[2], keys.shape[2]
    out = torch.zeros(rows, heads, q.shape[3])
    for t in range(rows):
        here = slots - rows + t
        seen = [s for s in range(slots) if 0 <= here - s <= window]
        for h in range(heads):
            kv = h * keys.shape[1] // heads
            weights = (keys[0, kv, seen] @ q[0, h, t] / q.shape[3] ** 0.5).softmax(0)
            out[t, h] = weights @ values[0, kv, seen]
    return out.flatten(1)


@pytest.mark.parametrize("window", [0, 1, 5, 11, 12, 30])
@pytest.mark.parametrize(("rows", "slots"), [(1, 1), (1, 12), (2, 12), (7, 12), (12, 12), (11, 30)])
def test_a_window_equals_brute_force(rows, slots, window):
    torch.manual_seed(0)
    q, keys, values = torch.randn(1, 4, rows, 8), torch.randn(1, 2, slots, 8), torch.randn(1, 2, slots, 8)
    view = Windows((window,)).view(0, q, keys, values)
    torch.testing.assert_close(attention(view)[0], brute_force(q, keys, values, window))


def test_one_row_needs_no_bias():
    q, keys = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 9, 4)
    view = Windows((3,)).view(0, q, keys, keys)
    assert view.bias is None
    assert view.keys.shape[2] == 4


def test_layers_of_one_window_share_a_bias():
    windows = Windows((2, 2, None))
    windows.begin()
    q, keys = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 9, 4)
    views = [windows.view(layer, q, keys, keys) for layer in range(3)]
    assert views[0].bias is views[1].bias
    assert isinstance(views[2], KVView)
    assert views[2].bias is None


def test_a_bias_hides_what_is_later_and_what_is_too_far():
    hidden = window_bias(2, 4, 1, torch.device("cpu"), torch.float32) < 0
    assert hidden.int().tolist() == [[1, 0, 0, 1], [1, 1, 0, 0]]


def test_storage_is_counted_once_and_whole():
    base = torch.zeros(100)
    assert storage_bytes([base, base[:3], None]) == 400


def test_a_dense_cache_counts_its_whole_buffers():
    model = toy_model("G3")
    cache = DenseCache(model.spec, capacity=32)
    assert cache.usage.nbytes == 0
    run(model, cache, ids(model, toy_tokens(5)))
    buffers = 4 * 2 * (2 * 32 * 16) * 4  # layers, K and V, (heads, slots, width), float32
    assert buffers <= cache.usage.nbytes <= buffers + 4096


def test_a_dense_cache_doubles():
    model = toy_model()
    cache = DenseCache(model.spec, capacity=4)
    capacities = []
    for token in toy_tokens(20):
        run(model, cache, ids(model, [token]))
        capacities.append(cache.capacity)
    assert sorted(set(capacities)) == [4, 8, 16, 32]


@pytest.mark.parametrize("pattern", ["L", "SL"])
def test_the_shapes_of_single_rows_in_bf16_repeat_and_say_what_is_spare(pattern, monkeypatch):
    """The logits are those of the same rows by themselves: after a rollback, a broken-off pass and a fork as well."""
    model = toy_model(window_pattern=pattern, dtype=torch.bfloat16, sequence_len=200)
    windows = model.spec.windows  # of 200 rows, which are all, and of 100
    shapes: list[tuple[int, int]] = []

    def buffer(cache, capacity):
        shape = (1, model.spec.kv_heads, capacity, model.spec.head_dim)
        return torch.full(shape, float("nan"), dtype=torch.bfloat16)

    class Watched(DenseCache):
        def update(self, layer, q, k, v):
            view = super().update(layer, q, k, v)
            assert view.keys.isfinite().all()
            assert view.values.isfinite().all()
            assert view.values.shape[2] == view.keys.shape[2]
            if self.length <= windows[layer] + 1:
                shapes.append((view.keys.shape[2], view.spare))
                assert view.keys.shape[2] - view.spare == self.length
            else:
                assert (view.keys.shape[2], view.spare) == (windows[layer] + 1, 0)
            return view

    monkeypatch.setattr(DenseCache, "_buffer", buffer)
    tokens, cache = toy_tokens(150), Watched(model.spec, capacity=64)
    expected = full_logits(model, tokens)[50:]
    cached_logits(model, cache, tokens[:50], [50])
    assert set(shapes) == {(50, 0)}
    mark = cache.mark()
    cached_logits(model, cache, tokens[100:120], [7])
    cache.rollback(mark)
    cache.begin(Stream(torch.zeros(1, 30, model.spec.width), torch.zeros(1, 30, dtype=torch.int64)))  # and no update
    cache.rollback(mark)
    del shapes[:]
    twin = cache.fork()
    twin.__class__ = Watched
    for one in (cache, twin):
        logits = cached_logits(model, one, tokens[50:], [1] * 100)
        torch.testing.assert_close(logits, expected, atol=0.3, rtol=0)
    assert {slots for slots, _ in shapes} == {64, 128, 192}


def test_usage_tells_what_the_next_row_reads():
    model = toy_model("G2", sequence_len=32)
    cache = DenseCache(model.spec)
    cached_logits(model, cache, toy_tokens(50), [50])
    assert cache.usage[:3] == (50, 50, 32)


def test_a_limit_is_kept_and_named():
    model = toy_model()
    cache = DenseCache(model.spec, limit=10)
    run(model, cache, ids(model, toy_tokens(8)))
    assert (cache.room(5), cache.capacity) == (2, 10)
    with pytest.raises(ValueError, match=r"3 rows do not fit: 8 of 10 .* reset"):
        run(model, cache, ids(model, toy_tokens(3)))
    assert cache.length == 8
    run(model, cache, ids(model, toy_tokens(2)))
    assert cache.room(1) == 1


def test_a_pass_of_another_batch_is_refused():
    model = toy_model()
    cache = DenseCache(model.spec)
    run(model, cache, ids(model, [1, 2]))
    with pytest.raises(ValueError, match=r"fork"):
        run(model, cache, ids(model, [1], [2]))


def test_rows_side_by_side_fill_one_cache():
    model, rows = toy_model(), [toy_tokens(30, seed=seed) for seed in range(3)]
    cache = DenseCache(model.spec)
    parts = [run(model, cache, ids(model, *(row[a:b] for row in rows))) for a, b in ((0, 20), (20, 21), (21, 30))]
    for row, logits in zip(rows, torch.cat(parts, 1), strict=True):
        torch.testing.assert_close(logits, full_logits(model, row), atol=1e-4, rtol=0)


def test_several_rows_fork_to_as_many_and_no_others():
    model = toy_model()
    cache = DenseCache(model.spec)
    run(model, cache, ids(model, [1], [2]))
    assert cache.fork(2).length == 1
    with pytest.raises(ValueError, match="2 rows to 3"):
        cache.fork(3)


def test_an_empty_cache_forks():
    model = toy_model()
    twins = DenseCache(model.spec).fork(2)
    assert run(model, twins, ids(model, [1], [2])).shape[0] == 2


def test_a_stale_mark_is_refused():
    cache = DenseCache(toy_model().spec)
    with pytest.raises(ValueError, match="stale"):
        cache.rollback(Mark(5, None))


def test_every_pass_without_a_memory_stands_alone():
    model, cache = toy_model(), NoCache(toy_model().spec)
    first, second = toy_tokens(20), toy_tokens(12, seed=1)
    run(model, cache, ids(model, first))
    torch.testing.assert_close(run(model, cache, ids(model, second))[0], full_logits(model, second))
    assert cache.usage[:3] == (12, 0, 0)
    with pytest.raises(ValueError, match="DenseCache"):
        cache.rollback(cache.mark())
    cache.reset()
    assert cache.usage == (0, 0, 0, 0)
    cache.rollback(Mark(0, None))


def test_gradients_flow_through_a_pass_without_a_memory():
    model = toy_model()
    stream = model.embed(ids(model, toy_tokens(5)))
    x = stream.x.clone().requires_grad_(True)
    model.forward(type(stream)(x, stream.tokens), NoCache(model.spec)).sum().backward()
    assert x.grad is not None
    assert x.grad.any()
