"""Llama-family models in a folder as the Hugging Face hub has them: config.json and one or more *.safetensors.

The tokenizer's files in the same folder are `folder_text.py`'s business.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacontext.errors import ConfigError
from megacontext.models.base import SAMPLE, ModelFileError, fingerprint
from megacontext.models.llama import LlamaConfig
from megacontext.models.rope import rope_frequencies

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = ("llama", "mistral")
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


class Folder:
    """Implements `Weights`. Raises ModelFileError for damaged files, ConfigError for an unsupported kind of model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw = read_json(path / "config.json")
        self._check_family()
        self._shards = {file: self._open(file) for file in self._files()}
        self._shard_of = {name: file for file, shard in self._shards.items() for name in shard.keys()}  # noqa: SIM118

    @cached_property
    def config(self) -> LlamaConfig:
        heads, width = self._int("num_attention_heads"), self._int("hidden_size")
        head_dim = self._int("head_dim", width // heads)
        return LlamaConfig(
            vocab=self._int("vocab_size"),
            width=width,
            layers=self._int("num_hidden_layers"),
            heads=heads,
            kv_heads=self._int("num_key_value_heads", heads),
            head_dim=head_dim,
            inner=self._int("intermediate_size"),
            eps=self._float("rms_norm_eps", 1e-6),
            max_position=self._int("max_position_embeddings", 2048),
            frequencies=tuple(self._frequencies(head_dim).tolist()),
            window=None if self._raw.get("sliding_window") is None else self._int("sliding_window"),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Over config.json, the headers of the shards and both ends of every tensor's bytes."""
        model = json.dumps(self._raw, sort_keys=True).encode()
        return fingerprint([model, *(part for file in sorted(self._shards) for part in _samples(file))])

    @property
    def stored_as(self) -> str:
        """The number format in the files."""
        name = next(iter(self._shard_of))
        return str(self._shards[self._shard_of[name]].get_slice(name).get_dtype())

    @property
    def tied(self) -> bool:
        return bool(self._raw.get("tie_word_embeddings", False))

    def __contains__(self, name: str) -> bool:
        return name in self._shard_of and not (name == HEAD and self.tied)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._shard(name).get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """As stored."""
        return self._shard(name).get_tensor(name)

    def _shard(self, name: str) -> Any:
        if name not in self._shard_of:
            raise ModelFileError(f"{self.path}: no tensor {name!r} in its *.safetensors; fetch the folder again")
        return self._shards[self._shard_of[name]]

    def _files(self) -> list[Path]:
        """The shards that the index names, or the single file."""
        index = self.path / "model.safetensors.index.json"
        if not index.exists():
            files = sorted(self.path.glob("*.safetensors"))
            if not files:
                raise ModelFileError(f"{self.path}: no *.safetensors file; only safetensors weights are read")
            return files
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) and n == Path(n).name for n in names.values()):
            raise ModelFileError(f"{index}: weight_map must name files of this folder; fetch it again")
        return [self.path / name for name in sorted(set(names.values()))]

    def _open(self, file: Path) -> Any:
        """Maps a shard; the library checks the header against the file's size."""
        from safetensors import SafetensorError, safe_open

        try:
            with ExitStack() as stack:
                shard = stack.enter_context(safe_open(file, framework="pt"))
                stack.pop_all()  # stays open for as long as this object lives
                return shard
        except FileNotFoundError:
            raise ModelFileError(f"{file}: missing; fetch the folder again") from None
        except (SafetensorError, OSError) as error:
            raise ModelFileError(f"{file}: not a well-formed safetensors file ({error}); fetch it again") from None

    def _check_family(self) -> None:
        raw, where = self._raw, self.path / "config.json"
        if (family := raw.get("model_type")) not in FAMILIES:
            raise ConfigError(f"{where}: model_type {family!r} is not supported; {' and '.join(FAMILIES)} are")
        if (activation := raw.get("hidden_act", "silu")) != "silu":
            raise ConfigError(f"{where}: hidden_act {activation!r} is not supported; only silu is")
        if raw.get("quantization_config"):
            raise ConfigError(f"{where}: quantised weights in safetensors are not supported; use the GGUF file instead")

    def _frequencies(self, head_dim: int) -> Tensor:
        """`rope_parameters` since transformers 5, before it `rope_theta` and `rope_scaling`."""
        scaling = self._raw.get("rope_parameters") or self._raw.get("rope_scaling") or {}
        if not isinstance(scaling, Mapping):
            raise ModelFileError(f"{self.path / 'config.json'}: rope_scaling must be an object")
        if scaling.get("partial_rotary_factor", self._raw.get("partial_rotary_factor", 1.0)) != 1.0:
            raise ConfigError(f"{self.path / 'config.json'}: partial_rotary_factor is not supported")
        trained = {"original_max_position_embeddings": self._raw.get("max_position_embeddings")}
        base = scaling.get("rope_theta", self._float("rope_theta", 10_000.0))
        return rope_frequencies(head_dim, float(base), {**trained, **scaling})

    def _int(self, key: str, default: int | None = None) -> int:
        value = self._raw.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise ModelFileError(f"{self.path / 'config.json'}: {key} is {value!r}; it must be a positive whole number")
        return value

    def _float(self, key: str, default: float) -> float:
        value = self._raw.get(key, default)
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            raise ModelFileError(f"{self.path / 'config.json'}: {key} is {value!r}; it must be a positive number")
        return float(value)


def _samples(file: Path) -> list[bytes]:
    """The header of an opened (so: well-formed) shard, and both ends of each of its tensors."""
    with file.open("rb") as data:
        header = data.read(int.from_bytes(data.read(8), "little"))
        start, parts = data.tell(), [header]
        for name, info in sorted(json.loads(header).items()):
            if name == "__metadata__":
                continue
            first, last = info["data_offsets"]
            for at in (first, max(first, last - SAMPLE)):
                data.seek(start + at)
                parts.append(data.read(min(SAMPLE, last - first)))
    return parts
