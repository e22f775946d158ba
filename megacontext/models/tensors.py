"""Takes tensors out of a model file: in one number format, on one device, with their shapes checked."""

from __future__ import annotations

import torch
from torch import Tensor

from megacontext.models.base import ModelFileError, Weights
from megacontext.models.linear import Linear, PackedLinear, can_pack


class TensorReader:
    """What the readers of all families share. Raises ModelFileError for a missing tensor or a wrong shape.

    exact: the dtype of what is small and matters (norms, the residual stream): float32, float64 in a float64 model.
    linear: how matrices are laid out; packed (`pack`) where the machine can.
    """

    def __init__(self, weights: Weights, *, dtype: torch.dtype, device: str, pack: bool) -> None:
        self.weights, self.dtype, self.device = weights, dtype, torch.device(device)
        self.exact = torch.promote_types(dtype, torch.float32)
        can = pack and can_pack(dtype, device) and can_pack(torch.float32, device)
        self.linear: type[Linear] = PackedLinear if can else Linear

    def __call__(self, name: str, *shape: int) -> Tensor:
        return self.stored(name, *shape).to(self.device, self.dtype).contiguous()

    def in_full(self, name: str, *shape: int) -> Tensor:
        """In the exact dtype."""
        return self.stored(name, *shape).to(self.device, self.exact).contiguous()

    def stored(self, name: str, *shape: int) -> Tensor:
        """As it is in the file."""
        if name not in self.weights:
            raise ModelFileError(f"the model file has no tensor {name!r}: it is incomplete, or of another family")
        if (found := self.weights.shape(name)) != shape:
            raise ModelFileError(f"tensor {name!r} has shape {found}, its configuration asks for {shape}")
        return self.weights.tensor(name)

    def head(self, weight: Tensor) -> Linear:
        """The matrix that makes logits. On a CPU in the exact dtype: a logit of 25 in bf16 moves by up to 0.06."""
        return self.linear(weight.to(self.exact if self.device.type == "cpu" else self.dtype))
