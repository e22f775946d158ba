"""attention against softmax over brute-force scores in float64, whichever way the rows go."""

from __future__ import annotations

import pytest
import torch

from nanochat import attention as module
from nanochat.attention import attention, causal_bias, with_spare
from nanochat.hook import KVView


def view(rows: int, slots: int, dtype: torch.dtype, bias: torch.Tensor | None = None) -> KVView:
    """4 query heads over 2 KV heads of width 16."""
    rng = torch.Generator().manual_seed(rows * 1000 + slots)
    q = torch.randn(1, 4, rows, 16, generator=rng).to(dtype)
    keys, values = torch.randn(2, 1, 2, slots, 16, generator=rng).to(dtype)
    return KVView(q, keys, values, bias)


def brute_force(seen: KVView) -> torch.Tensor:
    q, keys, values = (part.double() for part in seen[:3])
    rows, slots = q.shape[2], keys.shape[2]
    keys, values = keys.repeat_interleave(2, 1), values.repeat_interleave(2, 1)
    bias = causal_bias(rows, slots, q.device, q.dtype) if seen.bias is None else seen.bias.double()
    return ((q @ keys.mT / 4 + bias).softmax(-1) @ values).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize(("rows", "slots"), [(1, 1), (1, 70), (5, 70), (31, 40), (70, 70), (300, 300), (300, 511)])
def test_rows_see_what_stands_before_them(rows: int, slots: int, dtype: torch.dtype, error: float) -> None:
    seen = view(rows, slots, dtype)
    torch.testing.assert_close(attention(seen).double(), brute_force(seen), atol=error, rtol=0)


@pytest.mark.parametrize("rows", [1, 20, 300])
def test_a_bias_hides_slots_in_every_tile(rows: int) -> None:
    bias = torch.zeros(rows, 320, dtype=torch.bfloat16)
    bias[:, 40:90] = float("-inf")
    bias[:, 200:] = torch.arange(rows)[:, None] * -0.01
    seen = view(rows, 320, torch.bfloat16, bias)
    torch.testing.assert_close(attention(seen).double(), brute_force(seen), atol=0.03, rtol=0)


def test_one_bias_for_all_rows_is_no_row_of_them() -> None:
    bias = torch.zeros(320, dtype=torch.bfloat16)
    bias[:100] = float("-inf")
    seen = view(300, 320, torch.bfloat16, bias)
    torch.testing.assert_close(attention(seen).double(), brute_force(seen), atol=0.03, rtol=0)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize(("slots", "spare"), [(64, 1), (64, 63), (128, 30), (70, 3)])
def test_nobody_sees_spare_slots_whatever_stands_there(
    slots: int, spare: int, dtype: torch.dtype, error: float
) -> None:
    seen = view(1, slots, dtype)._replace(spare=spare)
    seen.keys[:, :, slots - spare :] = 300.0
    seen.values[:, :, slots - spare :] = 1e30
    torch.testing.assert_close(attention(seen), attention(seen.bare()), atol=error, rtol=0)
    assert seen.bare().keys.shape[2] == slots - spare
    assert seen.bare().spare == 0


def test_a_single_row_of_a_cpu_in_bf16_is_shown_whole_steps_as_far_as_there_are_slots() -> None:
    storage = torch.zeros(1, 2, 150, 16, dtype=torch.bfloat16)
    assert [with_spare(slots, 1, storage) for slots in (1, 64, 65, 129, 150)] == [64, 64, 128, 150, 150]
    assert with_spare(65, 2, storage) == 65
    assert with_spare(65, 1, storage.float()) == 65


def test_tiles_are_smaller_where_there_are_more_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    grouped = module._grouped

    def noting(q: torch.Tensor, *rest: torch.Tensor | None) -> torch.Tensor:
        sizes.append(q.shape[2])
        return grouped(q, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_grouped", noting)
    attention(view(300, 300, torch.bfloat16))
    assert sizes == [128, 128, 44]
    sizes.clear()
    monkeypatch.setattr(module, "TILE_SCORES", 4 * 300 * 50)
    attention(view(300, 300, torch.bfloat16))
    assert sizes == [50] * 6
