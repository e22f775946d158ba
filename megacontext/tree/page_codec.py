"""Pages as bytes: in the model's number format, or quantised to 8 or 4 bits.

    model   keys, then values, as they are
    int8    levels of keys | levels of values | steps and floors of keys | steps and floors of values
    int4    the same, two levels a byte, the first in the low half

Quantised: x ~ floor + level * step, level an integer from 0 to 2^bits - 1. Keys have a step and a floor for each
channel over the tokens of the block, values for each token over its channels: keys have channels that stand out, values
do not (KIVI, arXiv 2402.02750, section 3). Steps and floors are bfloat16. All tensors are little-endian and in the
order of (layer, KV head, token, channel).

Knows nothing of files, checksums and tiers.
"""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from megacontext.arena import Page

Kind = Literal["model", "int8", "int4"]
BITS: dict[str, int] = {"int8": 8, "int4": 4}


class PageShape(NamedTuple):
    """L memory layers, Hk KV heads, n tokens of a block, d head width: keys and values are (L, Hk, n, d) each."""

    layers: int
    kv_heads: int
    rows: int
    width: int

    @property
    def numbers(self) -> int:
        """Numbers in keys, and as many in values."""
        return self.layers * self.kv_heads * self.rows * self.width


class PageCodec:
    """Encodes pages of one shape and dtype. Raises ValueError for a kind that does not fit them."""

    def __init__(self, shape: PageShape, dtype: torch.dtype, kind: Kind = "model") -> None:
        if kind not in ("model", *BITS):
            raise ValueError(f"no page format {kind!r}; there are model, int8, int4")
        if kind == "int4" and shape.width % 2:
            raise ValueError(f"int4 packs two channels a byte: a head width of {shape.width} is odd")
        if sys.byteorder != "little":
            raise ValueError("page files are little-endian, this machine is not")
        self.shape, self.dtype, self.kind = shape, dtype, kind

    @property
    def nbytes(self) -> int:
        """Bytes of one encoded page."""
        if self.kind == "model":
            return 2 * self.shape.numbers * self.dtype.itemsize
        levels = 2 * self.shape.numbers * BITS[self.kind] // 8
        heads = self.shape.layers * self.shape.kv_heads
        return levels + 2 * 2 * heads * (self.shape.width + self.shape.rows)

    def encode(self, page: Page) -> bytes:
        """Raises ValueError for a page of another shape."""
        keys, values = (tensor.detach().cpu() for tensor in page)
        if keys.shape != tuple(self.shape) or values.shape != tuple(self.shape):
            raise ValueError(f"a page of {tuple(keys.shape)} does not fit a store of {tuple(self.shape)}")
        if self.kind == "model":
            return _bytes(keys.to(self.dtype)) + _bytes(values.to(self.dtype))
        bits = BITS[self.kind]
        k, v = _quantise(keys.float(), 2, bits), _quantise(values.float(), 3, bits)
        return b"".join(map(_bytes, (k.levels, v.levels, k.step, k.floor, v.step, v.floor)))

    def decode(self, data: bytes | memoryview) -> Page:
        """A page with memory of its own. Raises ValueError for a wrong length."""
        if len(data) != self.nbytes:
            raise ValueError(f"a page takes {self.nbytes} bytes, these are {len(data)}")
        take = _Taker(data)
        if self.kind == "model":
            return Page(take(self.dtype, *self.shape), take(self.dtype, *self.shape))
        layers, heads, rows, width = self.shape
        bits = BITS[self.kind]
        packed = (layers, heads, rows, width * bits // 8)
        k, v = take(torch.uint8, *packed), take(torch.uint8, *packed)
        by_channel, by_token = (layers, heads, 1, width), (layers, heads, rows, 1)
        steps = [take(torch.bfloat16, *shape) for shape in (by_channel, by_channel, by_token, by_token)]
        return Page(
            _restore(Quantised(k, steps[0], steps[1]), bits).to(self.dtype),
            _restore(Quantised(v, steps[2], steps[3]), bits).to(self.dtype),
        )


class Quantised(NamedTuple):
    """levels: uint8, packed below 8 bits. step, floor: bfloat16, one where the axis was reduced."""

    levels: Tensor
    step: Tensor
    floor: Tensor


def _quantise(x: Tensor, axis: int, bits: int) -> Quantised:
    """x (L, Hk, n, d) float32; one step and floor over `axis`."""
    low, high = x.amin(axis, keepdim=True), x.amax(axis, keepdim=True)
    floor = low.to(torch.bfloat16)  # its rounding is within the levels' range: they are counted from the rounded one
    top = 2**bits - 1
    step = ((high - torch.minimum(low, floor.float())) / top).clamp_min(torch.finfo(torch.float32).tiny)
    step = step.to(torch.bfloat16)
    levels = ((x - floor.float()) / step.float()).round_().clamp_(0, top).to(torch.uint8)
    return Quantised(levels if bits == 8 else levels[..., ::2] | levels[..., 1::2] << 4, step, floor)


def _restore(q: Quantised, bits: int) -> Tensor:
    levels = q.levels
    if bits == 4:
        levels = torch.stack([levels & 15, levels >> 4], -1).flatten(-2)
    return q.floor.float() + levels.float() * q.step.float()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


class _Taker:
    """Tensors out of a row of bytes, one after the other."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self._at = 0

    def __call__(self, dtype: torch.dtype, *shape: int) -> Tensor:
        size = torch.Size(shape).numel() * dtype.itemsize
        part = self._data[self._at : self._at + size]
        self._at += size
        return part.clone().view(dtype).view(shape)
