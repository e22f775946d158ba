"""A model folder as the Hugging Face hub has them: config.json, and named weights in one of two file formats.

Knows no family: what the numbers of config.json mean is the loaders' business (`load_llama.py`, `load_gpt2.py`), what
stands in a weight file that of its reader. The tokenizer's files in the same folder are `folder_text.py`'s.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from megacontext.errors import ConfigError
from megacontext.models.base import ModelFileError, fingerprint

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

MAX_JSON = 1 << 27  # bytes
HEAD = "lm_head.weight"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelFileError for anything else."""
    if path.stat().st_size > MAX_JSON:
        raise ModelFileError(f"{path}: larger than {MAX_JSON >> 20} MiB, which no such file is")
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(found, dict):
        raise ModelFileError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


class WeightFiles(Protocol):
    """The tensors of one or several files. Raises ModelFileError for a file that is missing or damaged."""

    @property
    def names(self) -> Collection[str]: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor."""

    def tensor(self, name: str) -> Tensor:
        """As stored."""

    def stored_as(self, name: str) -> str:
        """The number format in the file: F32, BF16, ..."""

    def samples(self) -> list[bytes]:
        """Names, formats and shapes, and both ends of each tensor's bytes: what a fingerprint is made of."""


class Folder:
    """Implements `Weights`. The weight files are opened when the first of them is asked for.

    Raises ModelFileError for damaged files, ConfigError for an unsupported kind of model.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.config_file = path, path / "config.json"
        self.raw = read_json(self.config_file)
        if self.raw.get("quantization_config"):
            raise ConfigError(f"{self.config_file}: quantised weights are not read; use the GGUF file instead")

    # --- config.json ---

    def whole(self, key: str, default: int | None = None) -> int:
        """A positive whole number; null and absent mean `default`."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise ModelFileError(f"{self.config_file}: {key} is {value!r}; it must be a positive whole number")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        value = self.raw.get(key, default)
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            raise ModelFileError(f"{self.config_file}: {key} is {value!r}; it must be a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false; null and absent mean `default`."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise ModelFileError(f"{self.config_file}: {key} is {value!r}; it must be true or false")
        return value

    def _value(self, key: str, default: Any) -> Any:
        value = self.raw.get(key)
        return default if value is None else value

    # --- weights ---

    @cached_property
    def fingerprint(self) -> str:
        """Over config.json and samples of the weights."""
        model = json.dumps(self.raw, sort_keys=True).encode()
        return fingerprint([model, *self._files.samples()])

    @property
    def stored_as(self) -> str:
        """The number format in the files: that of the first tensor which is no mask."""
        formats = [self._files.stored_as(name) for name in self._files.names]
        return next((found for found in formats if "F" in found), formats[0])

    def __contains__(self, name: str) -> bool:
        return name in self._files.names and not (name == HEAD and self.flag("tie_word_embeddings", False))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files.shape(name)

    def tensor(self, name: str) -> Tensor:
        """As stored."""
        return self._files.tensor(name)

    @cached_property
    def _files(self) -> WeightFiles:
        """safetensors before pytorch_model.bin, as in transformers."""
        from megacontext.models.pytorch_bin import PytorchBin
        from megacontext.models.safetensors import Safetensors

        if files := _listed(self.path, "model.safetensors.index.json", "*.safetensors"):
            return Safetensors(files)
        if files := _listed(self.path, "pytorch_model.bin.index.json", "pytorch_model.bin"):
            return PytorchBin(files)
        raise ModelFileError(
            f"{self.path}: no weights: neither a *.safetensors file nor pytorch_model.bin; fetch the folder again"
        )


def _listed(folder: Path, index_name: str, pattern: str) -> list[Path]:
    """The files that the index names, or without one those that match `pattern`."""
    index = folder / index_name
    if not index.exists():
        return sorted(folder.glob(pattern))
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(_is_plain(name) for name in names.values()):
        raise ModelFileError(f"{index}: weight_map must name files of this folder; fetch it again")
    return [folder / name for name in sorted(set(names.values()))]


def _is_plain(name: object) -> bool:
    """Whether it names a file of the very folder."""
    return isinstance(name, str) and name.isprintable() and name == Path(name).name and name not in ("", "..")
