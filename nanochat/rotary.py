"""Rotary positions (RoFormer, arXiv 2104.09864), half-split layout, with tables that grow on demand.

A pair (a_j, b_j) = (x[j], x[j + d/2]) turns by angle position * frequency_j. `sign` +1 is the Llama convention,
-1 is nanochat's. Tables are computed in float32 and stored in `dtype`; `rounding` reproduces checkpoints that were
trained with bf16-rounded tables (nanochat generations G0 to G2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Angles(NamedTuple):
    """cos, sin: (..., 1, T, d), ready to broadcast over heads; sin carries the sign of each half."""

    cos: Tensor
    sin: Tensor


class Rotary:
    """Implements `nanochat.hook.Rotation`.

    frequencies: (d/2,) float32, radians a position.
    """

    def __init__(
        self,
        frequencies: Tensor,
        *,
        sign: int = 1,
        dtype: torch.dtype = torch.float32,
        rounding: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        length: int = 1024,
    ) -> None:
        self.frequencies = frequencies.to("cpu", torch.float32)
        self.sign, self.dtype, self.rounding, self.device = sign, dtype, rounding, torch.device(device)
        self._cos = self._sin = torch.empty(0)
        self._grow(length)

    @classmethod
    def of_base(cls, head_dim: int, base: float, **options) -> Rotary:
        """The usual frequencies base ** (-2j / d)."""
        channel = torch.arange(0, head_dim, 2, dtype=torch.float32)
        return cls(1.0 / (base ** (channel / head_dim)), **options)

    def _grow(self, length: int) -> None:
        angle = torch.arange(length, dtype=torch.float32)[:, None] * self.frequencies
        cos, sin = angle.cos(), angle.sin() * self.sign
        if self.rounding is not None:
            cos, sin = cos.to(self.rounding), sin.to(self.rounding)
        self._cos = torch.cat([cos, cos], -1).to(self.device, self.dtype)
        self._sin = torch.cat([-sin, sin], -1).to(self.device, self.dtype)

    def reserve(self, length: int) -> None:
        """Make positions 0 .. length - 1 available."""
        if length > self._cos.shape[0]:
            self._grow(max(length, 2 * self._cos.shape[0]))

    def at(self, positions: Tensor) -> Angles:
        """positions (..., T) int64, all of them reserved."""
        return Angles(self._cos[positions].unsqueeze(-3), self._sin[positions].unsqueeze(-3))

    def rotate(self, x: Tensor, angles: Angles) -> Tensor:
        swapped = x.roll(x.shape[-1] // 2, -1)
        return torch.addcmul(x * angles.cos, swapped, angles.sin)


class NoRotation:
    """For families with learned positions: keys stay as they are."""

    def at(self, positions: Tensor) -> None:
        return None

    def reserve(self, length: int) -> None:
        pass

    def rotate(self, x: Tensor, angles: None) -> Tensor:
        return x
