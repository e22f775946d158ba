"""GPT-2 behind the hook: LayerNorm, learned positions added at the input, one key head a query head, a GELU MLP.

Covers GPT-2 and what shares its model_type: any inner width, four activations, other scales of the scores, tied or
own heads. It knows neither file formats (see `folder.py`) nor masks, and takes its positions from the cache.

Positions are learned: there are `max_position` of them, a later one does not exist, and a key cannot be moved to
another position afterwards (`relocatable` is false). Keys and queries are never rotated.
Number formats are those of `llama.py`: in a bf16 model the residual stream, the norms, the positions and, on a CPU, the
head are float32.

Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019); `GPT2LMHeadModel` of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.errors import ConfigError
from megacontext.models.base import ModelFileError, Weights, fingerprint
from megacontext.models.linear import Linear
from megacontext.models.tensors import TensorReader
from nanochat.attention import attention
from nanochat.hook import KVCache, ModelSpec, Stream
from nanochat.rotary import NoRotation

Activation = Callable[[Tensor], Tensor]
TANH_GELU = partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": TANH_GELU,
    "gelu_pytorch_tanh": TANH_GELU,
    "gelu": F.gelu,
    "relu": F.relu,
}


@dataclass(frozen=True)
class GPT2Config:
    """Numbers of one model. rows: ids in the file's embedding; vocab: the first of them, which the model answers with.

    scaled: scores are divided by sqrt(head_dim). scaled_by_layer: and by the layer's number, from 1. upcast: the model
    was trained with scores in float32. tied: the head is the embedding.
    """

    vocab: int
    rows: int
    width: int
    layers: int
    heads: int
    inner: int
    eps: float
    max_position: int
    activation: str = "gelu_new"
    scaled: bool = True
    scaled_by_layer: bool = False
    upcast: bool = False
    tied: bool = True

    def __post_init__(self) -> None:
        """Raises ModelFileError for numbers that no model has together."""
        if self.width % self.heads:
            raise ModelFileError(f"n_embd {self.width} cannot be split evenly among {self.heads} heads (n_head)")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    def query_scale(self, layer: int) -> float:
        """What queries are multiplied by, so that scores divided by sqrt(head_dim) come out as this model has them."""
        scale = 1.0 if self.scaled else math.sqrt(self.head_dim)
        return scale / (layer + 1) if self.scaled_by_layer else scale


class Norm(NamedTuple):
    """weight and bias: (D,)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Layer:
    """One block. qkv: D -> 3 D, queries scaled already."""

    input_norm: Norm
    qkv: Linear
    out: Linear
    mlp_norm: Norm
    up: Linear
    down: Linear

    @property
    def parameters(self) -> int:
        matrices = (self.qkv, self.out, self.up, self.down)
        return sum(m.parameters for m in matrices) + sum(t.numel() for t in (*self.input_norm, *self.mlp_norm))

    @property
    def nbytes(self) -> int:
        matrices = (self.qkv, self.out, self.up, self.down)
        return sum(m.nbytes for m in matrices) + sum(t.nbytes for t in (*self.input_norm, *self.mlp_norm))


class GPT2:
    """Implements `nanochat.hook.BaseModel`. Weights are frozen."""

    def __init__(
        self, config: GPT2Config, weights: Weights, *, dtype: torch.dtype, device: str = "cpu", pack: bool = True
    ) -> None:
        """Reads every tensor once. pack: lay matrices out for the CPU where it can be done; no gradient passes then.

        Raises ModelFileError for a missing tensor or a wrong shape, ConfigError for a dtype that the model cannot have.
        """
        if config.upcast and dtype == torch.float16:
            raise ConfigError(
                "this model was trained with attention scores in float32 (reorder_and_upcast_attn), which float16 "
                "cannot hold; set model.dtype to bfloat16 or float32"
            )
        self.config = config
        read = _Reader(config, weights, dtype=dtype, device=device, pack=pack)
        self.embedding = read.ids("wte.weight")
        self.positions = read.in_full("wpe.weight", config.max_position, config.width)
        self.layers = [read.layer(index) for index in range(config.layers)]
        self.norm = read.norm("ln_f")
        self.head = read.head(self.embedding if config.tied else read.ids("lm_head.weight"))
        self._activate = ACTIVATIONS[config.activation]
        self._spec = _spec(config, weights.fingerprint, dtype, read.device)

    @property
    def parameters(self) -> int:
        """How many numbers the model has; a tied head counts once, and ids that are left out not at all."""
        outer = (self.embedding, self.positions, *self.norm)
        head = 0 if self.config.tied else self.head.parameters
        return sum(layer.parameters for layer in self.layers) + sum(tensor.numel() for tensor in outer) + head

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights occupy; a head may be a second copy of the embedding, in another layout or dtype."""
        outer = (self.embedding, self.positions, *self.norm)
        head = 0 if self.head.weight is self.embedding else self.head.nbytes
        return sum(layer.nbytes for layer in self.layers) + sum(tensor.nbytes for tensor in outer) + head

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def embed(self, tokens: Tensor) -> Stream:
        """tokens (B, T) int64 -> Stream, without positions: the cache has not said yet where the rows stand."""
        return Stream(F.embedding(tokens, self.embedding), tokens)

    def forward(self, stream: Stream, cache: KVCache) -> Tensor:
        """One pass over the new rows -> final normalised hidden rows (B, T, D).

        Raises ValueError for a position that the model does not have.
        """
        x = stream.x.to(self.positions.dtype) + self._learned(cache.begin(stream))
        for index, layer in enumerate(self.layers):
            x = self._attend(index, layer, x, cache)
            x = self._mlp(layer, x)
        return self._normalise(x, self.norm, self.head.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> (B, T, V) float32. Slice `hidden` first: every row costs a pass over the vocabulary."""
        return self.head(hidden).float()

    def _learned(self, positions: Tensor) -> Tensor:
        """positions (B, T) -> (B, T, D). Asked here, because a GPU does not survive an index that is out of range."""
        last, count = int(positions.max()), self.config.max_position
        if last >= count:
            raise ValueError(
                f"position {last} does not exist: this model learned the positions 0 to {count - 1} (n_positions) and "
                f"has no others; keep at most {count} rows in view (memory.cache: megacontext with memory.budget below "
                f"{count}), or reset the cache"
            )
        return F.embedding(positions, self.positions)

    def _attend(self, index: int, layer: Layer, x: Tensor, cache: KVCache) -> Tensor:
        batch, rows, _ = x.shape
        fused = layer.qkv(self._normalise(x, layer.input_norm, layer.qkv.dtype))
        by_head = fused.view(batch, rows, 3 * self.config.heads, self.config.head_dim).transpose(1, 2)
        q, k, v = by_head.chunk(3, 1)
        return x + layer.out(attention(cache.update(index, q, k, v)))

    def _mlp(self, layer: Layer, x: Tensor) -> Tensor:
        return x + layer.down(self._activate(layer.up(self._normalise(x, layer.mlp_norm, layer.up.dtype))))

    def _normalise(self, x: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
        return F.layer_norm(x, (self.config.width,), norm.weight, norm.bias, self.config.eps).to(dtype)


def _spec(config: GPT2Config, weights: str, dtype: torch.dtype, device: torch.device) -> ModelSpec:
    """Keys computed in another dtype are other keys: the dtype is part of the fingerprint."""
    return ModelSpec(
        family="gpt2",
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.heads,
        head_dim=config.head_dim,
        width=config.width,
        vocab=config.vocab,
        max_position=config.max_position,
        rotation=NoRotation(),
        dtype=dtype,
        device=device,
        memory_layers=tuple(range(config.layers)),
        relocatable=False,
        fingerprint=fingerprint([weights.encode(), repr(config).encode(), str(dtype).encode()]),
    )


class _Reader(TensorReader):
    """Knows GPT-2's names, with `transformer.` before them or without. Masks (attn.bias) are never asked for."""

    def __init__(self, config: GPT2Config, weights: Weights, *, dtype: torch.dtype, device: str, pack: bool) -> None:
        super().__init__(weights, dtype=dtype, device=device, pack=pack)
        self.config = config
        self.prefix = "" if "wte.weight" in weights else "transformer."

    def stored(self, name: str, *shape: int) -> Tensor:
        return super().stored(name if name.startswith("lm_head.") else self.prefix + name, *shape)

    def ids(self, name: str) -> Tensor:
        """One row for each id that the model answers with; a copy where that is not all of them."""
        whole = self(name, self.config.rows, self.config.width)
        return whole if self.config.vocab == self.config.rows else whole[: self.config.vocab].clone()

    def norm(self, name: str) -> Norm:
        width = self.config.width
        return Norm(self.in_full(f"{name}.weight", width), self.in_full(f"{name}.bias", width))

    def layer(self, index: int) -> Layer:
        width, inner, at = self.config.width, self.config.inner, f"h.{index}"
        return Layer(
            input_norm=self.norm(f"{at}.ln_1"),
            qkv=self._matrix(f"{at}.attn.c_attn", width, 3 * width, self.config.query_scale(index)),
            out=self._matrix(f"{at}.attn.c_proj", width, width),
            mlp_norm=self.norm(f"{at}.ln_2"),
            up=self._matrix(f"{at}.mlp.c_fc", width, inner),
            down=self._matrix(f"{at}.mlp.c_proj", inner, width),
        )

    def _matrix(self, name: str, inputs: int, outputs: int, scale: float = 1.0) -> Linear:
        """A Conv1D: stored (in, out), used (out, in). scale: of the first D outputs, rounded once with the rest."""
        weight = self.in_full(f"{name}.weight", inputs, outputs).T
        bias = self.in_full(f"{name}.bias", outputs)
        if scale != 1.0:
            factors = torch.ones_like(bias)
            factors[: self.config.width] = scale
            weight, bias = weight * factors[:, None], bias * factors
        return self.linear(weight.to(self.dtype).contiguous(), bias.to(self.dtype))
