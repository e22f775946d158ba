"""Pages as bytes, and what quantising costs, against arithmetic done one number at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megacontext.arena import Page
from megacontext.tree.page_codec import BITS, PageCodec, PageShape

SHAPE = PageShape(3, 2, 8, 6)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def page(seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Page:
    rng = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(*SHAPE, generator=rng).mul(scale).to(dtype) for _ in range(2))
    keys[..., 1] *= 30  # channels of keys stand out
    return Page(keys, values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_models_own_format_is_kept_bit_for_bit(dtype):
    codec, original = PageCodec(SHAPE, dtype), page(dtype=dtype)
    data = codec.encode(original)
    assert len(data) == codec.nbytes == 2 * 3 * 2 * 8 * 6 * dtype.itemsize
    again = codec.decode(memoryview(data))
    assert again.keys.dtype == dtype
    assert torch.equal(again.keys, original.keys)
    assert torch.equal(again.values, original.values)


@pytest.mark.parametrize("kind", BITS)
@given(st.integers(0, 2**31), st.sampled_from([1e-30, 1e-4, 1.0, 300.0, 1e20]))
def test_a_quantised_number_is_off_by_half_a_step_and_the_floors_rounding(kind, seed, scale):
    codec, original = PageCodec(SHAPE, torch.float32, kind), page(seed, scale)
    data = codec.encode(original)
    assert len(data) == codec.nbytes
    again = codec.decode(data)
    top = 2 ** BITS[kind] - 1
    for before, after, axis in ((original.keys, again.keys, 2), (original.values, again.values, 3)):
        low, high = before.amin(axis, keepdim=True), before.amax(axis, keepdim=True)
        step = (high - low) / top
        bound = 0.52 * step + 2**-8 * torch.maximum(low.abs(), high - low) + 1e-37
        assert ((before - after).abs() <= bound).all()


def test_levels_are_what_one_gets_by_hand():
    shape = PageShape(1, 1, 2, 2)
    keys = torch.tensor([[[[0.0, -1.0], [15.0, 14.0]]]])
    values = torch.tensor([[[[0.0, 30.0], [2.0, 2.0]]]])
    data = PageCodec(shape, torch.float32, "int4").encode(Page(keys, values))
    assert data[:2] == bytes([0 | 0 << 4, 15 | 15 << 4])  # each channel from its floor to its top
    assert data[2:4] == bytes([0 | 15 << 4, 0])  # each token by itself; a flat one has level 0
    again = PageCodec(shape, torch.float32, "int4").decode(data)
    assert torch.equal(again.keys, keys)
    assert torch.equal(again.values, values)


@pytest.mark.parametrize(("kind", "share"), [("int8", 0.63), ("int4", 0.38)])
def test_a_block_of_the_demo_models_shape_shrinks(kind, share):
    shape = PageShape(30, 3, 32, 64)
    plain, small = PageCodec(shape, torch.bfloat16), PageCodec(shape, torch.bfloat16, kind)
    assert plain.nbytes == 32 * 23_040
    assert small.nbytes / plain.nbytes < share


def test_what_was_decoded_owns_its_memory():
    codec, data = PageCodec(SHAPE, torch.float32), bytearray(PageCodec(SHAPE, torch.float32).encode(page()))
    again = codec.decode(memoryview(data))
    before = again.keys.clone()
    data[:] = bytes(len(data))
    assert torch.equal(again.keys, before)
    assert again.keys.untyped_storage().nbytes() == again.keys.nbytes


@pytest.mark.parametrize("kind", ["model", *BITS])
def test_wrong_bytes_and_shapes_are_refused(kind):
    codec = PageCodec(SHAPE, torch.float32, kind)
    with pytest.raises(ValueError, match=f"takes {codec.nbytes} bytes"):
        codec.decode(bytes(codec.nbytes - 1))
    with pytest.raises(ValueError, match="does not fit"):
        codec.encode(Page(torch.zeros(3, 2, 7, 6), torch.zeros(3, 2, 7, 6)))


def test_formats_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="'int2'"):
        PageCodec(SHAPE, torch.float32, "int2")
    with pytest.raises(ValueError, match="odd"):
        PageCodec(SHAPE._replace(width=5), torch.float32, "int4")


def test_any_bytes_of_the_right_length_give_a_page_of_the_right_shape():
    for kind in BITS:
        codec = PageCodec(SHAPE, torch.float32, kind)
        rng = torch.Generator().manual_seed(1)
        noise = bytes(torch.randint(256, (codec.nbytes,), generator=rng).tolist())
        assert math.prod(codec.decode(noise).values.shape) == SHAPE.numbers
