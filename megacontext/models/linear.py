"""Matrices laid out for the machine: y = x W^T + b.

On a CPU, oneDNN can reorder a matrix once into its own blocked layout. One row then takes half the time of `F.linear`
in bf16 and in fp32 (decoding is one read of the weights), and many rows in fp32 less than half. torch's compiler does
the same; the two operators are its own and private, so `can_pack` tries them first.
No gradient flows through a packed matrix: ask for a plain one to train something in front of the model.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


class Linear:
    """A plain matrix. weight (O, I), bias (O,) or None; called with (..., I), answers (..., O)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias, self.dtype = weight, bias, weight.dtype
        self.parameters = weight.numel() + (0 if bias is None else bias.numel())
        self.nbytes = self.parameters * weight.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PackedLinear(Linear):
    """A matrix in oneDNN's layout; the same numbers, up to the order of summation."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight, bias)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        return self._multiply(x, self.weight, self.bias, "none", [], "")


@lru_cache(maxsize=8)
def can_pack(dtype: torch.dtype, device: str) -> bool:
    """Whether this machine packs matrices of `dtype` and multiplies with them correctly."""
    if device != "cpu" or dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    weight, x = torch.eye(16, dtype=dtype), torch.arange(16, dtype=dtype)[None]
    try:
        with torch.inference_mode():
            return torch.equal(PackedLinear(weight)(x), x)
    except (AttributeError, RuntimeError):
        return False
