"""The limit of decoding: one row through every matrix of a model, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.models.linear import Linear
from megacontext.models.llama import Llama
from nanochat.hook import BaseModel

Product = Callable[[Tensor], Tensor]


def products(model: BaseModel) -> list[tuple[Product, int, torch.dtype]]:
    """(multiply, width of its input, dtype) of every matrix that a decoded token goes through; empty if unknown."""
    if isinstance(model, Llama):
        return [(matrix, *_input(matrix)) for matrix in _of_llama(model)]
    if isinstance(model, torch.nn.Module):
        layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
        return [(_plain(layer.weight), layer.in_features, layer.weight.dtype) for layer in layers]
    return []


def _of_llama(model: Llama) -> Iterator[Linear]:
    for layer in model.layers:
        yield from (layer.qkv, layer.out, layer.gate_up, layer.down)
    yield model.head


def _input(matrix: Linear) -> tuple[int, torch.dtype]:
    return matrix.weight.shape[1], matrix.dtype


def _plain(weight: Tensor) -> Product:
    return lambda row: F.linear(row, weight)


class BarePass:
    """Times passes over all weights of one model."""

    def __init__(self, model: BaseModel) -> None:
        device = model.spec.device
        self._steps = [
            (multiply, torch.ones(1, 1, width, dtype=d, device=device)) for multiply, width, d in products(model)
        ]
        self._cuda = device.type == "cuda"

    def __bool__(self) -> bool:
        return bool(self._steps)

    @torch.inference_mode()
    def time(self, count: int, now: Callable[[], float]) -> list[float]:
        """Milliseconds of each of `count` passes."""
        times = []
        for _ in range(count):
            started = now()
            for multiply, row in self._steps:
                multiply(row)
            if self._cuda:
                torch.cuda.synchronize()
            times.append((now() - started) * 1000)
        return times
