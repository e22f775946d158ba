"""Toys for oracles: a model that repeats itself, one with learned positions, and attention by plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from megacontext.models.gpt2 import GPT2, GPT2Config
from megacontext.models.llama import Llama, LlamaConfig
from megacontext.testing.toy import ToyWeights, ids, toy_model
from nanochat.gpt import GPT
from nanochat.hook import BaseModel, KVView
from nanochat.kv_cache import NoCache

VOCAB = 64


def toy(generation: str = "G0", **sizes: Any) -> GPT:
    """Two layers without windows, two query heads on one KV head."""
    small = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_kv_head": 1, "vocab_size": VOCAB, "sequence_len": 512}
    return toy_model(generation, **{**small, "window_pattern": "L", **sizes})


def repeating_model(window: int | None = None) -> Llama:
    """Rows attend to their own token wherever it stands, and say it again: every matrix is the identity, no MLP."""
    parts = dict.fromkeys([f"self_attn.{part}_proj" for part in "qkvo"], (VOCAB, VOCAB))
    parts |= {"mlp.gate_proj": (8, VOCAB), "mlp.up_proj": (8, VOCAB), "mlp.down_proj": (VOCAB, 8)}
    parts |= {"input_layernorm": (VOCAB,), "post_attention_layernorm": (VOCAB,)}
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in parts.items()}
    shapes |= {"model.embed_tokens.weight": (VOCAB, VOCAB), "model.norm.weight": (VOCAB,)}

    def make(name: str, shape: tuple[int, int]) -> torch.Tensor:
        return torch.zeros(shape) if "mlp" in name else torch.eye(*shape) * (0.7 if "q_proj" in name else 1.0)

    sizes = {"vocab": VOCAB, "width": VOCAB, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": VOCAB, "inner": 8}
    config = LlamaConfig(**sizes, eps=1e-5, max_position=512, frequencies=(1e-6,) * (VOCAB // 2), window=window)
    return Llama(config, ToyWeights(shapes, make), dtype=torch.float32)


def learned_positions() -> GPT2:
    """Two layers, two heads, random weights that matter."""
    config = GPT2Config(vocab=VOCAB, rows=VOCAB, width=16, layers=2, heads=2, inner=32, eps=1e-5, max_position=512)
    layer = {"attn.c_attn": (16, 48), "attn.c_proj": (16, 16), "mlp.c_fc": (16, 32), "mlp.c_proj": (32, 16)}
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (VOCAB, 16), "wpe.weight": (512, 16)}
    for at in ("h.0", "h.1"):
        for name, shape in layer.items():
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[1:]}
    for norm in ("h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f"):
        shapes |= {f"{norm}.weight": (16,), f"{norm}.bias": (16,)}
    rng = torch.Generator().manual_seed(0)
    weights = ToyWeights(shapes, lambda name, shape: torch.randn(shape, generator=rng) * 0.3)
    return GPT2(config, weights, dtype=torch.float32)


class Recorder(NoCache):
    """A full forward whose views are kept, by layer."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.views: list[KVView] = []

    def update(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> KVView:
        self.views.append(super().update(layer, q, k, v))
        return self.views[-1]


def views_of(model: BaseModel, text: Sequence[int]) -> list[KVView]:
    """What every layer sees of the text in one pass."""
    recorder = Recorder(model.spec)
    with torch.no_grad():
        model.forward(model.embed(ids(model, text)), recorder)
    return recorder.views


def attend(view: KVView, head: int, row: int, without: range = range(0)) -> tuple[list[float], torch.Tensor]:
    """One row's attention to the slots up to it but those in `without`, and its output (d,)."""
    shared = view.q.shape[1] // view.keys.shape[1]
    query, keys, values = view.q[0, head, row], view.keys[0, head // shared], view.values[0, head // shared]
    weights = [
        0.0 if slot in without else math.exp(float(query @ keys[slot]) / math.sqrt(len(query)))
        for slot in range(row + 1)
    ]
    shares = [weight / sum(weights) for weight in weights]
    output = torch.zeros_like(values[0])
    for share, value in zip(shares, values, strict=False):
        output = output + share * value
    return shares, output
