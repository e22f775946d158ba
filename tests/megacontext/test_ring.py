"""Ring against attention over all rows with a brute-force mask."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_toys import small_model

from megacontext.ring import Ring
from nanochat.attention import attention

SPEC = small_model("G3", n_head=4, n_kv_head=2, n_embd=64).spec


def rows(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (1, H, T, d), k and v (1, Hk, T, d)."""
    rng = torch.Generator().manual_seed(seed)
    q = torch.randn(1, SPEC.heads, count, SPEC.head_dim, generator=rng)
    k, v = torch.randn(2, 1, SPEC.kv_heads, count, SPEC.head_dim, generator=rng)
    return q, k, v


def brute_force(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Row by row, head by head, at absolute positions -> (1, T, H * d)."""
    count = q.shape[2]
    SPEC.rotation.reserve(count)
    angles = SPEC.rotation.at(torch.arange(count)[None])
    q, k = SPEC.rotation.rotate(q, angles)[0], SPEC.rotation.rotate(k, angles)[0]
    out = torch.zeros(count, SPEC.heads, SPEC.head_dim)
    for i in range(count):
        low = max(0, i - window)
        for head in range(SPEC.heads):
            shared = head // (SPEC.heads // SPEC.kv_heads)
            scores = k[shared, low : i + 1] @ q[head, i] * SPEC.head_dim**-0.5
            out[i, head] = scores.softmax(0) @ v[0, shared, low : i + 1]
    return out.flatten(1)[None]


def feed(ring: Ring, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    ends = [0, *cuts, q.shape[2]]
    return torch.cat([attention(ring.update(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b])) for a, b in pairwise(ends)], 1)


def small_ring(window: int, spare: int = 4) -> Ring:
    return Ring(SPEC, window, spare=spare)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 9))
def test_any_chunks_far_past_its_capacity_equal_brute_force(seed, window):
    rng = Random(seed)
    q, k, v = rows(90)
    cuts = sorted(rng.sample(range(1, 90), rng.choice((1, 5, 30, 80))))
    out = feed(small_ring(window), q, k, v, cuts)
    torch.testing.assert_close(out, brute_force(q, k, v, window), atol=2e-5, rtol=0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_rows_that_are_taken_back_can_be_computed_again(seed):
    rng = Random(seed)
    q, k, v = rows(80)
    expected, ring, at, newest = brute_force(q, k, v, 6), small_ring(6, spare=5), 0, 0
    while at < 80:
        count = min(rng.randint(1, 9), 80 - at)
        out = feed(ring, q[:, :, at : at + count], k[:, :, at : at + count], v[:, :, at : at + count], [])
        torch.testing.assert_close(out, expected[:, at : at + count], atol=2e-5, rtol=0)
        at += count
        newest = max(newest, at)
        back = rng.choice((0, 0, rng.randint(0, min(5 - (newest - at), at))))
        ring.truncate(back)
        at -= back


def test_rings_of_one_pass_share_angles_and_masks_and_answer_the_same():
    q, k, v = rows(30)
    alone, together, wider = small_ring(5), small_ring(5), small_ring(8)
    for a, b in ((0, 12), (12, 13), (13, 30)):
        parts, shared = [t[:, :, a:b] for t in (q, k, v)], {}
        wider.update(*parts, shared)
        other, one = alone.update(*parts), together.update(*parts, shared)
        assert all(torch.equal(x, y) for x, y in zip(one[:4], other[:4], strict=True) if x is not None)
        if a == 0:
            assert len(shared) == 3  # angles for both, a mask for each window


def test_a_pass_longer_than_the_ring_is_seen_whole():
    q, k, v = rows(120)
    out = feed(small_ring(3), q, k, v, [100])
    torch.testing.assert_close(out, brute_force(q, k, v, 3), atol=2e-5, rtol=0)


def test_positions_stay_small_however_long_history_is():
    ring = Ring(small_model("G3").spec, 4, spare=4)
    q, k, v = rows(1)
    q, k, v = q[:, :2, :, :16], k[:, :1, :, :16], v[:, :1, :, :16]
    for _ in range(200):
        ring.update(q, k, v)
        assert ring.length <= ring.raw.shape[2] <= 2 * (4 + 4)


def test_a_copy_goes_its_own_way():
    q, k, v = rows(20)
    ring = small_ring(5)
    feed(ring, q[:, :, :10], k[:, :, :10], v[:, :, :10], [])
    twin = ring.copy()
    feed(twin, q[:, :, :10], k[:, :, :10], v[:, :, :10], [])
    out = feed(ring, q[:, :, 10:], k[:, :, 10:], v[:, :, 10:], [])
    torch.testing.assert_close(out, brute_force(q, k, v, 5)[:, 10:], atol=2e-5, rtol=0)


def test_rows_whose_window_is_gone_are_not_given_up_to():
    ring = small_ring(5, spare=4)
    q, k, v = rows(40)
    feed(ring, q, k, v, list(range(1, 40)))
    room = ring.length - ring.window
    with pytest.raises(ValueError, match="5 must stay"):
        ring.truncate(room + 1)
    twin = small_ring(5, spare=4)
    twin.restore(ring.state())
    with pytest.raises(ValueError, match="must stay"):
        twin.truncate(room + 1)
    ring.truncate(4)


def test_more_than_it_keeps_cannot_be_taken_back():
    ring = small_ring(5, spare=4)
    q, k, v = rows(3)
    feed(ring, q, k, v, [])
    with pytest.raises(ValueError, match="4 rows"):
        ring.truncate(4)
