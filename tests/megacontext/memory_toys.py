"""Small models, configurations and pages for the tests of the memory."""

from __future__ import annotations

from typing import Any

import torch

from megacontext.arena import Page
from megacontext.config import MemoryConfig
from megacontext.models.llama import Llama, LlamaConfig
from megacontext.testing.toy import toy_model
from nanochat.hook import BaseModel, ModelSpec

SMALL = {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 32, "vocab_size": 64}
VOCAB = SMALL["vocab_size"]


def small_model(generation: str = "G0", *, seed: int = 0, **sizes: Any) -> BaseModel:
    """A nanochat GPT of two layers; G0 has no windows."""
    return toy_model(generation, seed=seed, **{**SMALL, "sequence_len": 512, **sizes})


def small_config(**changes: Any) -> MemoryConfig:
    """Blocks of 4, a budget of 48 slots."""
    settings = {
        "budget": 48,
        "block": 4,
        "recent_tokens": 12,
        "read_chunk": 6,
        "far_blocks": 4,
        "prompt_blocks": 2,
        "reread_tokens": 8,
        "position_slack": 16,
    }
    return MemoryConfig(**{**settings, **changes})


def random_page(spec: ModelSpec, rows: int, seed: int) -> Page:
    """Keys and values (L, Hk, rows, d)."""
    rng = torch.Generator().manual_seed(seed)
    shape = (len(spec.memory_layers), spec.kv_heads, rows, spec.head_dim)
    return Page(torch.randn(shape, generator=rng), torch.randn(shape, generator=rng))


def small_llama(seed: int = 0, max_position: int = 512) -> Llama:
    """Two layers, four query heads on two KV heads, random weights that matter."""
    config = LlamaConfig(
        vocab=VOCAB,
        width=32,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        inner=48,
        eps=1e-5,
        max_position=max_position,
        frequencies=tuple(10_000.0 ** (-j / 4) for j in range(4)),
    )
    return Llama(config, RandomWeights(config, seed), dtype=torch.float32)


class RandomWeights:
    """Implements `Weights`: normal numbers, fixed by the seed; norms are 1."""

    def __init__(self, config: LlamaConfig, seed: int) -> None:
        width, query, key = config.width, config.heads * config.head_dim, config.kv_heads * config.head_dim
        layer = {
            "self_attn.q_proj": (query, width),
            "self_attn.k_proj": (key, width),
            "self_attn.v_proj": (key, width),
            "self_attn.o_proj": (width, query),
            "mlp.gate_proj": (config.inner, width),
            "mlp.up_proj": (config.inner, width),
            "mlp.down_proj": (width, config.inner),
        }
        self.fingerprint = f"random {seed}"
        self.shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (config.vocab, width),
            "model.norm.weight": (width,),
        }
        for index in range(config.layers):
            at = f"model.layers.{index}"
            self.shapes |= {f"{at}.{name}.weight": shape for name, shape in layer.items()}
            self.shapes |= {f"{at}.{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
        self._rng = torch.Generator().manual_seed(seed)

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def tensor(self, name: str) -> torch.Tensor:
        shape = self.shapes[name]
        return torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=self._rng) * 0.25
