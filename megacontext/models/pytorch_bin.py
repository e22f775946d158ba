"""Weights in one or more pytorch_model.bin files, as torch.save writes them. Knows neither families nor config.json.

Such a file is a pickle, and a pickle can hold code. Only plain tensors are read (`weights_only`); a file that needs
more is refused, never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from megacontext.models.base import SAMPLE, ModelFileError

ZIP = b"PK\x03\x04"  # torch.save since 1.6; only this kind can be mapped into memory
FORMATS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
WAY_OUT = "fetch model.safetensors of this model instead"


class PytorchBin:
    """Implements `folder.WeightFiles`. Raises ModelFileError for a file that is missing, damaged or not plain."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [str(file) for file in files]
        self.names = {name: tensor for file in files for name, tensor in _read(file).items()}

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensor(name).shape)

    def stored_as(self, name: str) -> str:
        dtype = self.tensor(name).dtype
        return FORMATS.get(dtype, str(dtype).removeprefix("torch."))

    def tensor(self, name: str) -> Tensor:
        if name not in self.names:
            raise ModelFileError(f"{', '.join(self._files)}: no tensor {name!r}; fetch the folder again")
        return self.names[name]

    def samples(self) -> list[bytes]:
        return [part for name, tensor in sorted(self.names.items()) for part in _samples(name, tensor)]


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of one file by name, mapped where the file allows it."""
    found = _unpickle(file)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ModelFileError(f"{file}: expected tensors by name, found {type(found).__name__}; {WAY_OUT}")
    tensors = {name: value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if not _is_plain(tensor):
            raise ModelFileError(f"{file}: tensor {name!r} is sparse, quantised or larger than its data; {WAY_OUT}")
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    """Real numbers one after the other, all of them in the file."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    whole = tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    return whole and not (tensor.is_complex() or tensor.is_neg())


def _unpickle(file: Path) -> object:
    """Whatever stands in the file, if plain values and tensors suffice for it."""
    from pickle import UnpicklingError

    try:
        with file.open("rb") as data:
            mapped = data.read(len(ZIP)) == ZIP
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise ModelFileError(f"{file}: missing; fetch the folder again") from None
    except Exception as error:  # a damaged pickle fails in any way there is
        if isinstance(error, UnpicklingError) and "GLOBAL" in str(error):
            reason = "it asks for more than plain tensors, and such a file may hold code, so it is not read"
            raise ModelFileError(f"{file}: {reason}; {WAY_OUT}") from None
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelFileError(f"{file}: not a well-formed file of weights ({reason}); fetch it again") from None


def _samples(name: str, tensor: Tensor) -> list[bytes]:
    """What a tensor is called and looks like, and both ends of its bytes."""
    rows = tensor.reshape(-1)
    count = max(1, SAMPLE // tensor.element_size())
    ends = [end.contiguous().view(torch.uint8).numpy().tobytes() for end in (rows[:count], rows[-count:])]
    return [f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), *ends]
