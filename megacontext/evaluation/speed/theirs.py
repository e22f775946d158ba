"""transformers' `generate` on the very weights that are loaded. The one file that imports transformers.

The weights move over from the loaded model, in its number format, one matrix at a time; no file is read again. Before
anything is timed, both must give the same logits. `generate` is used as its users do, with a cache of its own kind that
is handed over from call to call; a streamer notes when each token comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from megacontext.errors import ConfigError, MissingAsset
from megacontext.evaluation.speed.contenders import WARM, Clock, Timed
from megacontext.evaluation.speed.names import THEIRS
from megacontext.models.base import LoadedModel
from megacontext.models.linear import Linear
from megacontext.models.llama import Layer, Llama
from nanochat.hook import BaseModel
from nanochat.kv_cache import NoCache

READ_ROWS = 512  # of one pass while reading
CHECKED = 256  # tokens whose logits are compared
# Largest mean KL divergence, in nats a token: between float32 models rounding alone, else those of the format.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 0.02, torch.float16: 0.005}


class Theirs(Timed):
    """transformers' model and its DynamicCache."""

    name, plain = THEIRS, True

    def __init__(self, model: Any, device: torch.device) -> None:
        from transformers import DynamicCache

        self.model, self.device = model, device
        self.cache: Any = DynamicCache(config=model.config)
        self.tokens: list[int] = []

    @classmethod
    def of(cls, loaded: LoadedModel, sample: Sequence[int]) -> Theirs:
        """sample: real tokens, for comparing logits. Raises MissingAsset without transformers, ConfigError for a model
        that it does not have, AssertionError if the logits differ.
        """
        model = hand_over(loaded.model)
        check(loaded.model, model, sample[:CHECKED])
        return cls(model, loaded.model.spec.device)

    @property
    def length(self) -> int:
        return len(self.tokens)

    @torch.no_grad()
    def read(self, tokens: Sequence[int]) -> None:
        """In passes of READ_ROWS rows, as `generate` reads with `prefill_chunk_size`."""
        for start in range(0, len(tokens), READ_ROWS):
            rows = torch.tensor([tokens[start : start + READ_ROWS]], device=self.device)
            self.model(rows, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.tokens += tokens
        self._wait()

    def fill(self, rows: int) -> None:
        for index, layer in enumerate(self.cache.layers):
            times = -(-rows // layer.keys.shape[2])
            keys, values = (t.repeat(1, 1, times, 1)[:, :, :rows] for t in (layer.keys, layer.values))
            self.cache.update(keys, values, index)
        self.tokens += (self.tokens * -(-rows // len(self.tokens)))[:rows]

    @contextmanager
    def going_on(self, prompt: Sequence[int]) -> Iterator[None]:
        """The last token of what there is stands as the prompt of each call: its row is not counted."""
        history = list(self.tokens)
        self.cache.crop(-1)
        yield
        self.tokens = history
        self._cut()
        self.read([self.tokens.pop()])

    def decode(self, count: int) -> list[float]:
        at, self.tokens = self._generate(self.tokens, 1 + WARM + count)
        return [(after - before) * 1000 for before, after in pairwise(at[1:])][WARM:]

    def first_token(self, prompt: Sequence[int]) -> float:
        at, _ = self._generate([*self.tokens, *prompt], 1)
        self._cut()
        return (at[1] - at[0]) * 1000

    def _cut(self) -> None:
        """Rows of no token of the history leave."""
        self.cache.crop(min(len(self.tokens) - self.cache.get_seq_length(), 0))

    def _generate(self, tokens: Sequence[int], count: int) -> tuple[list[float], list[int]]:
        """When it began and when each token came; all tokens."""
        rows = torch.tensor([list(tokens)], device=self.device)
        streamer = _Times(self.now)
        out = self.model.generate(
            rows,
            attention_mask=torch.ones_like(rows),
            past_key_values=self.cache,
            streamer=streamer,
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        self._wait()
        return streamer.at, out[0].tolist()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @property
    def slots(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        tensors = [t for layer in self.cache.layers for t in (layer.keys, layer.values)]
        return sum(t.untyped_storage().nbytes() for t in tensors)

    @property
    def weight_bytes(self) -> int | None:
        return sum(int(parameter.nbytes) for parameter in self.model.parameters())


class _Times:
    """A streamer: the first call brings the prompt, every other one token."""

    def __init__(self, now: Clock) -> None:
        self.now = now
        self.at: list[float] = []

    def put(self, tokens: Tensor) -> None:
        self.at.append(self.now())

    def end(self) -> None:
        pass


# --- the same weights ---


def hand_over(model: BaseModel) -> Any:
    """transformers' LlamaForCausalLM with the weights of `model`, in its number format.

    Raises MissingAsset where transformers is not installed, ConfigError for a model that it has no like of.
    """
    if not isinstance(model, Llama):
        raise ConfigError(f"{THEIRS} is compared on Llama-family models alone, not on {model.spec.family}")
    if model.config.window is not None or any(layer.qkv.parameters != _size(layer.qkv) for layer in model.layers):
        raise ConfigError(f"{THEIRS} is compared on models without a window and without biases")
    theirs = _empty(model)
    theirs.load_state_dict(_state(model), strict=not model.tied, assign=True)
    theirs.tie_weights()
    rotary = type(theirs.model.rotary_emb)(theirs.config)
    rotary.inv_freq = torch.tensor(model.config.frequencies, dtype=torch.float32, device=model.spec.device)
    theirs.model.rotary_emb = rotary
    theirs.generation_config.eos_token_id = None
    return theirs.eval().requires_grad_(False)


def _empty(model: Llama) -> Any:
    """Of the same shapes, without numbers. Raises MissingAsset."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise MissingAsset(
            f"{THEIRS} is not installed, so it is not compared ({error}); pip install transformers"
        ) from None
    numbers = model.config
    config = LlamaConfig(
        vocab_size=numbers.vocab,
        hidden_size=numbers.width,
        intermediate_size=numbers.inner,
        num_hidden_layers=numbers.layers,
        num_attention_heads=numbers.heads,
        num_key_value_heads=numbers.kv_heads,
        head_dim=numbers.head_dim,
        rms_norm_eps=numbers.eps,
        max_position_embeddings=numbers.max_position,
        tie_word_embeddings=model.tied,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def _size(matrix: Linear) -> int:
    return matrix.weight.shape[0] * matrix.weight.shape[1]


def _state(model: Llama) -> dict[str, Tensor]:
    """All weights under transformers' names. A packed matrix is laid out plainly again; its numbers are the same."""
    dtype, numbers = model.spec.dtype, model.config
    state = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.norm.to(dtype)}
    if not model.tied:
        state["lm_head.weight"] = _dense(model.head).to(dtype)
    query, key = numbers.heads * numbers.head_dim, numbers.kv_heads * numbers.head_dim
    for index, layer in enumerate(model.layers):
        q, k, v = _dense(layer.qkv).split((query, key, key))
        gate, up = _dense(layer.gate_up).split(numbers.inner)
        inner = {
            **{"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v},
            **{"self_attn.o_proj": _dense(layer.out), "mlp.down_proj": _dense(layer.down)},
            **{"mlp.gate_proj": gate, "mlp.up_proj": up, **_norms(layer, dtype)},
        }
        state |= {f"model.layers.{index}.{name}.weight": tensor.contiguous() for name, tensor in inner.items()}
    return state


def _norms(layer: Layer, dtype: torch.dtype) -> dict[str, Tensor]:
    return {"input_layernorm": layer.input_norm.to(dtype), "post_attention_layernorm": layer.mlp_norm.to(dtype)}


def _dense(matrix: Linear) -> Tensor:
    return matrix.weight.to_dense() if matrix.weight.is_mkldnn else matrix.weight


@torch.no_grad()
def check(ours: BaseModel, theirs: Any, tokens: Sequence[int]) -> float:
    """Mean KL divergence over `tokens`, in nats. Raises AssertionError if it is larger than the format explains."""
    rows = torch.tensor([list(tokens)], device=ours.spec.device)
    mine = ours.logits(ours.forward(ours.embed(rows), NoCache(ours.spec)))[0].log_softmax(-1)
    other = theirs(rows).logits[0].float().log_softmax(-1)
    found = float((mine.exp() * (mine - other)).sum(-1).mean())
    if not found <= TOLERANCE[ours.spec.dtype]:
        raise AssertionError(f"{THEIRS} gives other logits: {found:.2g} nats a token apart; nothing is timed")
    return found
