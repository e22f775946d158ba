"""Llama-family models in GGUF files (llama.cpp's format): configuration and weights, one tensor at a time.

The one file that imports the `gguf` package, which knows how to dequantise; the header is read by `gguf_header.py`.
llama.cpp's converter reorders the rows of the query and key matrices for its own rotary layout (pairs of neighbours);
here they are put back, so that a weight is what it was in the original checkpoint (half-split pairs).
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megacontext.errors import ConfigError
from megacontext.models.base import SAMPLE, ModelFileError, fingerprint
from megacontext.models.gguf_header import TensorInfo, read_header
from megacontext.models.llama import LlamaConfig
from megacontext.models.rope import rope_frequencies

OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def ggml_name(name: str) -> str:
    """'model.layers.3.mlp.up_proj.weight' -> 'blk.3.ffn_up.weight'; an unknown name stays as it is."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTER:
        return f"{OUTER[stem]}.{kind}"
    parts = stem.split(".", 3)
    if len(parts) == 4 and parts[:2] == ["model", "layers"] and parts[3] in INNER:
        return f"blk.{parts[2]}.{INNER[parts[3]]}.{kind}"
    return name


def unpermute(weight: Tensor, heads: int) -> Tensor:
    """Undo the converter's `permute` (convert_hf_to_gguf.py): rows 2j and 2j+1 of a head go back to j and j + d/2."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, half, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


class GGUFFile:
    """Implements `Weights`. Raises ModelFileError for a damaged file, ConfigError for an unsupported kind of model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.metadata: dict[str, Any] = header.metadata
        self._infos, self._start = header.tensors, header.data
        self._check_architecture()
        self._sizes = {name: self._bounded(name, info) for name, info in header.tensors.items()}
        self._data = np.memmap(path, mode="r")

    @cached_property
    def config(self) -> LlamaConfig:
        heads, width = self._count("attention.head_count"), self._count("embedding_length")
        head_dim = self._count("attention.key_length", width // heads)
        for key in ("attention.value_length", "rope.dimension_count"):
            if (found := self._count(key, head_dim)) != head_dim:
                raise ConfigError(f"{self.path}: llama.{key} is {found}; only the head width {head_dim} is supported")
        window = self._get("attention.sliding_window")
        return LlamaConfig(
            vocab=self.shape("model.embed_tokens.weight")[0],
            width=width,
            layers=self._count("block_count"),
            heads=heads,
            kv_heads=self._count("attention.head_count_kv", heads),
            head_dim=head_dim,
            inner=self._count("feed_forward_length"),
            eps=self._float("attention.layer_norm_rms_epsilon", 1e-5),
            max_position=self._count("context_length"),
            frequencies=tuple(self._frequencies(head_dim).tolist()),
            window=None if window is None else self._count("attention.sliding_window"),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Over the header and both ends of every tensor's bytes: fast, and other weights differ somewhere there."""
        layout = json.dumps([sorted(self._infos.items()), self._sizes], sort_keys=True).encode()
        model = json.dumps([(k, v) for k, v in sorted(self.metadata.items()) if k.startswith("llama.")]).encode()
        ends = (part for name in sorted(self._infos) for part in self._ends(name))
        return fingerprint([layout, model, *ends])

    @property
    def quantisations(self) -> tuple[str, ...]:
        """Names of the tensor types in the file, the most bytes first."""
        from gguf.constants import GGMLQuantizationType

        total: dict[int, int] = {}
        for name, info in self._infos.items():
            total[info.kind] = total.get(info.kind, 0) + self._sizes[name]
        return tuple(GGMLQuantizationType(kind).name for kind in sorted(total, key=lambda k: -total[k]))

    def __contains__(self, name: str) -> bool:
        return ggml_name(name) in self._infos

    def shape(self, name: str) -> tuple[int, ...]:
        return self._info(name).shape

    def tensor(self, name: str) -> Tensor:
        """Dequantised to float32, under transformers' name and in transformers' order of rows."""
        weight = self._dequantised(ggml_name(name), self._info(name))
        heads = 0
        if ".self_attn.q_proj." in name:
            heads = self.config.heads
        elif ".self_attn.k_proj." in name:
            heads = self.config.kv_heads
        if heads and weight.shape[0] % (2 * heads):
            raise ModelFileError(f"{self.path}: {ggml_name(name)} has {weight.shape[0]} rows for {heads} heads")
        return unpermute(weight, heads) if heads else weight

    def _dequantised(self, name: str, info: TensorInfo) -> Tensor:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        kind = GGMLQuantizationType(info.kind)
        rows = math.prod(info.shape[:-1])
        raw = np.asarray(self._bytes(name)).reshape(rows, -1)
        try:
            values = dequantize(raw, kind)
        except NotImplementedError:
            raise ConfigError(f"{self.path}: tensor {name!r} is {kind.name}, which cannot be dequantised") from None
        return torch.from_numpy(np.array(values, dtype=np.float32, copy=values.base is not None)).view(info.shape)

    def _bytes(self, name: str) -> np.ndarray:
        start = self._start + self._infos[name].offset
        return self._data[start : start + self._sizes[name]]

    def _ends(self, name: str) -> tuple[bytes, bytes]:
        raw = self._bytes(name)
        return raw[:SAMPLE].tobytes(), raw[-SAMPLE:].tobytes()

    def _info(self, name: str) -> TensorInfo:
        if (info := self._infos.get(ggml_name(name))) is None:
            raise ModelFileError(f"{self.path}: no tensor {ggml_name(name)!r}; the file is incomplete: fetch it again")
        return info

    def _bounded(self, name: str, info: TensorInfo) -> int:
        """Bytes of a tensor, after checking that they lie within the file."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(info.kind)]
        except (ValueError, KeyError):
            raise ConfigError(f"{self.path}: tensor {name!r} has the unknown type {info.kind}") from None
        if info.shape[-1] % block or not all(info.shape):
            raise ModelFileError(f"{self.path}: tensor {name!r} of shape {info.shape} is not made of blocks of {block}")
        count = math.prod(info.shape) // block * size
        if self._start + info.offset + count > self.path.stat().st_size:
            raise ModelFileError(f"{self.path}: tensor {name!r} runs past the end of the file: fetch the file again")
        return count

    def _check_architecture(self) -> None:
        if (family := self.metadata.get("general.architecture")) != "llama":
            raise ConfigError(f"{self.path}: a GGUF model of architecture {family!r}; only 'llama' is supported")
        if self.metadata.get("llama.expert_count", 0):
            raise ConfigError(f"{self.path}: a mixture of experts; only dense Llama models are supported")

    def _frequencies(self, head_dim: int) -> Tensor:
        """Llama 3's scaling arrives as a tensor of divisors, linear scaling as a number."""
        kind, factor = self._get("rope.scaling.type", "none"), self._get("rope.scaling.factor", 1.0)
        scaling = {"rope_type": kind, "factor": factor}
        plain = rope_frequencies(head_dim, self._float("rope.freq_base", 10_000.0), scaling)
        if (divisors := self._infos.get("rope_freqs.weight")) is None:
            return plain
        if divisors.shape != (head_dim // 2,):
            raise ModelFileError(f"{self.path}: rope_freqs.weight has shape {divisors.shape}, not ({head_dim // 2},)")
        return plain / self._dequantised("rope_freqs.weight", divisors)

    def _get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"llama.{key}", default)

    def _count(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise ModelFileError(f"{self.path}: llama.{key} is {value!r}; it must be a positive whole number")
        return value

    def _float(self, key: str, default: float) -> float:
        value = self._get(key, default)
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            raise ModelFileError(f"{self.path}: llama.{key} is {value!r}; it must be a positive number")
        return float(value)
